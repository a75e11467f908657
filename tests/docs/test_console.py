"""Every console block of the site, run page by page in one shell each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from hyperbox._dev.docs import DOCS, EXAMPLES, REPOSITORY
from hyperbox._dev.docs.budget import Budget
from hyperbox._dev.docs.capabilities import CapabilityAbsent, Provider, ProviderFailed, absent
from hyperbox._dev.docs.console import render
from hyperbox._dev.docs.fences import Fence, parse_page, read_pages
from hyperbox._dev.docs.run import BlockFailed, PageRun
from hyperbox._dev.docs.update import PENDING

README = REPOSITORY / "README.md"
PAGES = {**read_pages(DOCS), README: parse_page(README, README.read_text())}
BUDGET = Budget.parse((Path(__file__).parent / "skips.toml").read_text())


def uses_lab(fence: Fence) -> bool:
    """Whether a block needs the lab's engine or one of its images."""
    return any(need == "lab" or need.startswith("image:") for need in fence.needs)


def _blocks() -> Iterator[object]:
    for page, fences in PAGES.items():
        for fence in fences:
            if fence.language == "console":
                marks = [pytest.mark.timeout(600)]
                marks += [pytest.mark.root] if {"root", "daemon"} & set(fence.needs) or uses_lab(fence) else []
                marks += [pytest.mark.engine] if uses_lab(fence) else []
                name = f"{page.relative_to(REPOSITORY).as_posix()}:{fence.line}"
                yield pytest.param(fence, id=name, marks=marks)


class _Pages:
    """The page that runs now; asking for another one ends it and begins that."""

    def __init__(self, folders: pytest.TempPathFactory, providers: Mapping[str, Provider]) -> None:
        self._folders = folders
        self._providers = providers
        self._page: Path | None = None
        self._stack = ExitStack()
        self.run: PageRun

    def begin(self, page: Path) -> None:
        if page != self._page:
            self.end()
            folder = self._folders.mktemp("page")
            self.run = self._stack.enter_context(PageRun(folder, examples=EXAMPLES, providers=self._providers))
            self._page = page

    def end(self) -> None:
        self._stack.close()
        self._page = None


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, providers: Mapping[str, Provider]) -> Iterator[_Pages]:
    running = _Pages(tmp_path_factory, providers)
    yield running
    running.end()


def _skip(fence: Fence, reason: str) -> None:
    if os.environ.get("CI") and not BUDGET.allows(fence.needs):
        pytest.fail(f"{fence}: {reason}; skips.toml does not allow to skip it here", pytrace=False)
    pytest.skip(reason)


@pytest.mark.parametrize("fence", list(_blocks()))
def test_block(pages: _Pages, fence: Fence, lab_provider: object, request: pytest.FixtureRequest) -> None:
    reason = absent(fence.needs)
    if reason:
        _skip(fence, reason)
    pages.begin(fence.page)
    if uses_lab(fence):
        try:
            lab_provider.lab = request.getfixturevalue("lab")
        except pytest.skip.Exception as skipped:
            _skip(fence, f"needs lab: {skipped}")
    if pages.run.failed:
        pytest.skip(f"{pages.run.failed} failed, and the page is one story")
    try:
        if request.config.getoption("update_examples"):
            body = render(pages.run.record(fence))
            if body != fence.body:
                PENDING.setdefault(fence.page, {})[PAGES[fence.page].index(fence)] = body
        else:
            pages.run.run(fence)
    except CapabilityAbsent as error:
        _skip(fence, str(error))
    except (BlockFailed, ProviderFailed) as error:
        pytest.fail(str(error), pytrace=False)


def test_the_budget_of_skips_is_what_the_pages_need() -> None:
    fences = [fence for fences in PAGES.values() for fence in fences if fence.page != README]
    assert BUDGET.differences(fences, DOCS) == []
