"""Every console block of the site, run page by page in one shell each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from hyperbox._dev.docs import DOCS, EXAMPLES, REPOSITORY
from hyperbox._dev.docs.budget import Budget
from hyperbox._dev.docs.capabilities import CapabilityAbsent, Provider, ProviderFailed, absent
from hyperbox._dev.docs.console import render
from hyperbox._dev.docs.fences import Fence, parse_page, read_pages
from hyperbox._dev.docs.run import BlockFailed, PageRun
from hyperbox._dev.docs.update import rewrite

README = REPOSITORY / "README.md"
PAGES = {**read_pages(DOCS), README: parse_page(README, README.read_text())}
BUDGET = Budget.parse((Path(__file__).parent / "skips.toml").read_text())


def _blocks() -> Iterator[object]:
    for page, fences in PAGES.items():
        for fence in fences:
            if fence.language == "console":
                marks = [pytest.mark.timeout(600)]
                marks += [pytest.mark.root] if {"root", "daemon", "lab"} & set(fence.needs) else []
                marks += [pytest.mark.engine] if "lab" in fence.needs else []
                name = f"{page.relative_to(REPOSITORY).as_posix()}:{fence.line}"
                yield pytest.param(page, fence, id=name, marks=marks)


class _Page:
    """A running page, and what `--update-examples` will write into it."""

    def __init__(self, page: Path, run: PageRun) -> None:
        self.page = page
        self.run = run
        self.updates: list[tuple[Fence, str]] = []


@pytest.fixture(scope="module")
def page(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, providers: Mapping[str, Provider]
) -> Iterator[_Page]:
    with PageRun(tmp_path_factory.mktemp("page"), examples=EXAMPLES, providers=providers) as run:
        here = _Page(request.param, run)
        yield here
    if here.updates:
        here.page.write_text(rewrite(here.page.read_text(), here.updates))


def _skip(fence: Fence, reason: str) -> None:
    if os.environ.get("CI") and not BUDGET.allows(fence.needs):
        pytest.fail(f"{fence}: {reason}; skips.toml does not allow to skip it here", pytrace=False)
    pytest.skip(reason)


@pytest.mark.parametrize(("page", "fence"), list(_blocks()), indirect=["page"])
def test_block(page: _Page, fence: Fence, request: pytest.FixtureRequest) -> None:
    reason = absent(fence.needs)
    if reason:
        _skip(fence, reason)
    if page.run.failed:
        pytest.skip(f"{page.run.failed} failed, and the page is one story")
    try:
        if request.config.getoption("update_examples"):
            body = render(page.run.record(fence))
            if body != fence.body:
                page.updates.append((fence, body))
        else:
            page.run.run(fence)
    except CapabilityAbsent as error:
        _skip(fence, str(error))
    except (BlockFailed, ProviderFailed) as error:
        pytest.fail(str(error), pytrace=False)


def test_the_budget_of_skips_is_what_the_pages_need() -> None:
    fences = [fence for fences in PAGES.values() for fence in fences if fence.page != README]
    assert BUDGET.differences(fences, DOCS) == []
