"""Every file under examples/ is checked by what it is for, and shown by a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperbox._dev.docs import DOCS, EXAMPLES, REPOSITORY
from hyperbox._dev.docs.checkers import ToolMissing, checker_for
from hyperbox._dev.docs.fences import read_pages
from hyperbox.api.settings import Settings, declared, parse_settings

FILES = sorted(path for path in EXAMPLES.rglob("*") if path.is_file() and path.suffix != ".md")


@pytest.mark.parametrize("path", [pytest.param(path, id=path.relative_to(EXAMPLES).as_posix()) for path in FILES])
def test_file(path: Path) -> None:
    checker = checker_for(path.name)
    assert checker is not None, f"nothing checks {path.name}: add a checker to hyperbox._dev.docs.checkers"
    try:
        assert checker(path.read_text()) == ""
    except ToolMissing as missing:
        pytest.skip(f"no {missing} on this machine")


def test_the_example_configuration_holds_every_setting_with_its_default() -> None:
    text = (EXAMPLES / "hyperbox.conf").read_text()
    assert parse_settings(text) == Settings()
    shown = {line.removeprefix("# ").partition(" = ")[0] for line in text.splitlines() if " = " in line}
    assert {item.key for item in declared()} == shown


def test_every_example_is_on_a_page() -> None:
    shown = {REPOSITORY / name for fences in read_pages(DOCS).values() for fence in fences for name in fence.includes}
    pages = "".join(page.read_text() for page in DOCS.rglob("*.md"))
    assert [path for path in FILES if path not in shown and path.relative_to(REPOSITORY).as_posix() not in pages] == []
