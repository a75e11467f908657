"""`hyperbox config`: the settings in force, and checking a file before it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperbox.cli.state import Format, FormatOption, call, print_table, show, show_json

app = typer.Typer(help="Configuration of the daemon.", no_args_is_help=True, rich_markup_mode=None)


@app.command("show")
def show_settings(
    changed: Annotated[bool, typer.Option("--changed", help="Only what differs from the defaults.")] = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Show the settings of the running daemon."""
    from hyperbox.api.operations import CONFIG

    answer = call(CONFIG)
    rows = [
        (f"{section}.{key}", value, "changed" if f"{section}.{key}" in answer.changed else "")
        for section, table in answer.settings.items()
        for key, value in table.items()
        if not changed or f"{section}.{key}" in answer.changed
    ]
    show(answer, form, lambda: print_table(("setting", "value", ""), rows, empty="all settings have their defaults"))
    if form is Format.TABLE:
        typer.echo(f"\nfrom {answer.source}")


@app.command()
def check(
    file: Annotated[Path | None, typer.Argument(help="File to check; the default one otherwise.")] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Check a configuration file and the environment without starting anything.

    Exit status 3, with file, line and key, when something is wrong.
    """
    from hyperbox.configuration import load_settings

    settings, source = load_settings(file)
    if form is Format.JSON:
        show_json(settings.model_dump(mode="json"))
    else:
        typer.echo(f"{source if source != 'defaults' else 'the environment'} is valid")
