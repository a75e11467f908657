"""The command tree of `hyperbox`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperbox.cli import bench, config, image, layer, setup, store, system
from hyperbox.cli.state import GLOBALS

app = typer.Typer(
    name="hyperbox",
    help="Containers that start faster and share more, on the engine you already run.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(
    socket: Annotated[
        Path | None, typer.Option(help="Control socket of the daemon.", envvar="HYPERBOX_SOCKET", show_default=False)
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Options of all commands."""
    GLOBALS.socket, GLOBALS.debug = socket, debug


system.register(app)
app.add_typer(image.app, name="image")
app.add_typer(layer.app, name="layer")
app.add_typer(store.app, name="store")
app.add_typer(config.app, name="config")
app.add_typer(setup.app, name="setup")
app.add_typer(bench.app, name="bench")
