"""The list of generated files, and their comparison with what is committed."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from hyperbox._dev.docs import DOCS
from hyperbox._dev.reference import openapi
from hyperbox._dev.reference.cli import cli_page
from hyperbox._dev.reference.errors import errors_page, exit_codes_page
from hyperbox._dev.reference.markdown import NOTICE
from hyperbox._dev.reference.observe import events_page, metrics_page
from hyperbox._dev.reference.operations import operations_page
from hyperbox._dev.reference.settings import configuration_page, environment_page

FILES: Final[Mapping[str, Callable[[], str]]] = {
    "cli.md": cli_page,
    "operations.md": operations_page,
    "openapi.json": openapi.text,
    "configuration.md": configuration_page,
    "environment.md": environment_page,
    "errors.md": errors_page,
    "exit-codes.md": exit_codes_page,
    "metrics.md": metrics_page,
    "events.md": events_page,
}
"""Generated files of docs/reference/ and what renders each."""


def default_folder() -> Path:
    """Give docs/reference of the source tree that this package lies in."""
    return DOCS / "reference"


def write(folder: Path) -> list[str]:
    """Write what differs; give the names of the files that changed."""
    folder.mkdir(parents=True, exist_ok=True)
    changed = []
    for name, render in FILES.items():
        path, text = folder / name, render()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(name)
    return changed


def stale(folder: Path) -> dict[str, str]:
    """Compare with what is committed; give a unified diff for each file that differs or should not be there."""
    differences = {}
    for name, render in FILES.items():
        path, text = folder / name, render()
        committed = path.read_text(encoding="utf-8") if path.exists() else ""
        if committed != text:
            diff = difflib.unified_diff(
                committed.splitlines(), text.splitlines(), "committed", "generated", lineterm=""
            )
            differences[name] = "\n".join(diff)
    for path in sorted(folder.rglob("*.md")):
        name = path.relative_to(folder).as_posix()
        if name not in FILES and path.read_text(encoding="utf-8").startswith(NOTICE):
            differences[name] = "generated once, but nothing generates it any more"
    return differences
