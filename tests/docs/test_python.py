"""Every Python block of the site, run with its `#>` output checked; `--update-examples` rewrites that output."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_examples import CodeExample, EvalExample

from hyperbox._dev.docs import DOCS, REPOSITORY
from hyperbox._dev.docs.capabilities import absent
from hyperbox._dev.docs.fences import Fence, parse_page, read_pages

README = REPOSITORY / "README.md"


def _examples() -> Iterator[object]:
    pages = {**read_pages(DOCS), README: parse_page(README, README.read_text())}
    for page, fences in pages.items():
        for fence in fences:
            if fence.language == "python" and not fence.includes:
                yield pytest.param(fence, id=f"{page.relative_to(REPOSITORY).as_posix()}:{fence.line}")


def _example(fence: Fence) -> CodeExample:
    lines = fence.page.read_text().splitlines(keepends=True)
    start = sum(len(line) for line in lines[: fence.line])
    count = len(fence.body.splitlines())
    return CodeExample.create(
        fence.body,
        path=fence.page,
        start_line=fence.line,
        end_line=fence.line + count + 1,
        start_index=start,
        end_index=start + sum(len(line) for line in lines[fence.line : fence.line + count]),
        prefix="python",
        indent=len(fence.indent),
    )


@pytest.mark.parametrize("fence", list(_examples()))
def test_block(fence: Fence, eval_example: EvalExample) -> None:
    reason = absent(fence.needs)
    if reason:
        pytest.skip(reason)
    eval_example.set_config(line_length=100, target_version="py310")
    if eval_example.update_examples:
        eval_example.run_print_update(_example(fence))
    else:
        eval_example.run_print_check(_example(fence))
