"""What all commands share: the socket, the output format and how answers are printed."""

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

    from hyperbox.api.messages import Message
    from hyperbox.api.operations import Operation


class Format(enum.StrEnum):
    """Forms of output."""

    TABLE = "table"
    JSON = "json"


FormatOption = Annotated[Format, typer.Option("--format", "-f", help="`table` for people, `json` for programs.")]


@dataclass
class Globals:
    """Values of the options that stand before the command."""

    socket: Path | None = None
    debug: bool = False


GLOBALS = Globals()

Request = TypeVar("Request", bound="Message")
Response = TypeVar("Response", bound="Message")


def call(operation: Operation[Request, Response], request: Request | None = None) -> Response:
    """Call the daemon that the options name."""
    from hyperbox.client import Client

    return Client(GLOBALS.socket).call(operation, request)


def show(answer: BaseModel, form: Format, table: Callable[[], None]) -> None:
    """Print an answer as JSON, or let `table` print it for people."""
    if form is Format.JSON:
        typer.echo(answer.model_dump_json(indent=2))
    else:
        table()


def show_json(value: Any) -> None:
    """Print a plain value as JSON."""
    typer.echo(json.dumps(value, indent=2, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print rows under headings; columns that start with `#` are numbers and stand to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        table.add_column(name.lstrip("#"), justify="right" if name.startswith("#") else "left", overflow="fold")
    count = 0
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
        count += 1
    # A pipe has no width: rows stay whole there, so that grep and awk can work on them.
    console = Console(width=None if sys.stdout.isatty() else 240)
    if count:
        console.print(table)
    else:
        typer.echo(empty)


def print_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values below each other."""
    known = [(name, str(value)) for name, value in pairs if value not in ("", None)]
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        typer.echo(f"{name:<{width}}  {value}")


def _cell(value: object) -> str:
    from rich.markup import escape

    return escape(str(value))


def size(count: int) -> str:
    """Bytes in binary units with three digits: 1.21 GiB."""
    value, units = float(count), ("B", "KiB", "MiB", "GiB", "TiB")
    for unit in units:
        if abs(value) < 1024 or unit == units[-1]:
            return f"{count} B" if unit == "B" else f"{value:.3g} {unit}" if value < 999.5 else f"{value:.0f} {unit}"
        value /= 1024
    raise AssertionError


def short(digest: str) -> str:
    """The first digits of a digest, without its algorithm."""
    return digest.removeprefix("sha256:")[:12]
