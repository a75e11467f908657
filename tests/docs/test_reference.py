"""Everything declared is documented, and nothing documented is gone: from the declarations to the built pages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from hyperbox._dev.docs import DOCS
from hyperbox._dev.reference.errors import declared_errors
from hyperbox._dev.reference.generate import FILES, stale
from hyperbox.api.environment import VARIABLES
from hyperbox.api.errors import ExitCode
from hyperbox.api.events import EVENTS
from hyperbox.api.metrics import METRICS
from hyperbox.api.operations import OPERATIONS
from hyperbox.api.settings import declared


def _ids(site: Path, page: str) -> set[str]:
    return set(re.findall(r'\bid="([^"]+)"', (site / "reference" / page).read_text()))


def _text(site: Path, page: str) -> str:
    return (site / "reference" / page).read_text()


def _entries(page: str, level: int) -> set[str]:
    """Titles that a committed page has at one level of headings."""
    text = (DOCS / "reference" / page).read_text()
    return set(re.findall(rf"^{'#' * level} (\S.*?)(?: \{{.*\}})?$", text, re.MULTILINE))


def test_the_committed_pages_are_what_the_declarations_say() -> None:
    differences = stale(DOCS / "reference")
    assert not differences, "run `python -m hyperbox._dev.reference`\n" + "\n".join(differences.values())


def test_errors(site: Path) -> None:
    assert {code.lower() for code in declared_errors()} <= _ids(site, "errors.html")
    assert _entries("errors.md", 3) == set(declared_errors())


def test_exit_codes(site: Path) -> None:
    assert {f"exit-{status.value}" for status in ExitCode} <= _ids(site, "exit-codes.html")
    assert _entries("exit-codes.md", 2) == {f"{status.value} {status.name}" for status in ExitCode}


def test_settings(site: Path) -> None:
    assert {f"{item.section}-{item.key}" for item in declared()} <= _ids(site, "configuration.html")
    assert _entries("configuration.md", 3) == {f"{item.section}.{item.key}" for item in declared()}


def test_environment_variables(site: Path) -> None:
    text = _text(site, "environment.html")
    names = {v.name for v in VARIABLES} | {item.variable for item in declared()}
    assert {name for name in names if f"<code>{name}</code>" not in text} == set()
    assert set(re.findall(r"<code>([A-Z][A-Z0-9_]+)</code>", text)) == names


def test_operations(site: Path) -> None:
    assert {operation.name.replace(".", "-") for operation in OPERATIONS} <= _ids(site, "operations.html")
    assert _entries("operations.md", 2) == {operation.name for operation in OPERATIONS} | {"Messages"}


def test_metrics(site: Path) -> None:
    assert {metric.name for metric in METRICS} <= _ids(site, "metrics.html")
    assert _entries("metrics.md", 2) == {metric.name for metric in METRICS}


def test_events(site: Path) -> None:
    assert {event.name.replace(".", "-") for event in EVENTS} <= _ids(site, "events.html")
    assert _entries("events.md", 2) == {event.name for event in EVENTS}


def _parsers() -> Iterator[tuple[str, Any]]:
    """Commands as Typer's own parser has them, which is not where the page reads them from."""
    from hyperbox.cli.app import app
    from hyperbox.daemon.main import app as daemon

    todo = [("hyperbox", typer.main.get_command(app)), ("hyperboxd", typer.main.get_command(daemon))]
    while todo:
        name, command = todo.pop()
        if not getattr(command, "hidden", False):
            yield name, command
            todo += [(f"{name} {child}", inner) for child, inner in getattr(command, "commands", {}).items()]


def test_commands_and_options(site: Path) -> None:
    ids, text = _ids(site, "cli.html"), _text(site, "cli.html")
    found = dict(_parsers())
    assert {name for name in found if name.replace(" ", "-") not in ids} == set()
    assert _entries("cli.md", 2) | _entries("cli.md", 3) == set(found)
    for name, command in found.items():
        section = re.split(r"<h[23] id=", text.partition(f' id="{name.replace(" ", "-")}"')[2])[0]
        names = {opt for p in command.params if not p.hidden for opt in (*p.opts, *p.secondary_opts) if opt[0] == "-"}
        hidden = {"--help", "-h", "--install-completion", "--show-completion"}
        assert {opt for opt in names - hidden if f"<code>{opt}</code>" not in section} == set(), name


def test_openapi_names_every_operation_and_error() -> None:
    document = json.loads((DOCS / "reference" / "openapi.json").read_text())
    served = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert served == {(operation.path, operation.method.lower()) for operation in OPERATIONS}
    refs = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert refs <= set(document["components"]["schemas"])


def test_python_api(site: Path) -> None:
    pages = {path.stem for path in (site / "reference" / "python").glob("*.html")}
    assert {"index", "hyperbox.api", "hyperbox.api.settings", "hyperbox.api.errors.base", "hyperbox.client"} <= pages
    assert 'id="hyperbox.api.errors.base.HyperBoxError"' in _text(site, "python/hyperbox.api.errors.base.html")


@pytest.mark.parametrize("name", FILES)
def test_output_is_the_same_every_time(name: str) -> None:
    assert FILES[name]() == FILES[name]()
