"""Rules that all pages keep."""

from __future__ import annotations

from hyperbox._dev.docs import DOCS, REPOSITORY
from hyperbox._dev.docs.fences import read_pages
from hyperbox._dev.docs.rules import fence_faults, missing_sections, unknown_names
from hyperbox._dev.reference.cli import command_list
from hyperbox._dev.reference.errors import declared_errors
from hyperbox.api.environment import VARIABLES
from hyperbox.api.settings import declared


def test_every_code_block_is_run_or_plainly_not_code() -> None:
    faults = [fault for fences in read_pages(DOCS).values() for fence in fences for fault in fence_faults(fence)]
    assert faults == []


def test_playbooks_and_alerts_have_their_sections() -> None:
    folders = (DOCS / "playbooks", DOCS / "troubleshooting/alerts")
    pages = (path for folder in folders for path in sorted(folder.rglob("*.md")) if path.name != "index.md")
    assert {path.name: missing for path in pages if (missing := missing_sections(path.read_text()))} == {}


def test_pages_name_nothing_that_is_not_there() -> None:
    pages = [*DOCS.rglob("*.md"), REPOSITORY / "README.md"]
    faults = unknown_names(
        {path.relative_to(REPOSITORY): path.read_text() for path in sorted(pages)},
        codes=declared_errors(),
        variables=[variable.name for variable in VARIABLES] + [item.variable for item in declared()],
        commands=[command.path for command in command_list() if not command.group],
    )
    assert faults == []
