"""Entry point of `hyperboxd`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from hyperbox.api.errors.base import HyperBoxError

app = typer.Typer(
    name="hyperboxd",
    help="The HyperBox daemon: a proxy snapshotter for containerd and the control socket of `hyperbox`.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from hyperbox import __version__

        typer.echo(f"hyperboxd {__version__}")
        raise typer.Exit


@app.command()
def hyperboxd(
    config: Annotated[
        Path | None, typer.Option(help="Configuration file.", envvar="HYPERBOX_CONFIG", show_default=False)
    ] = None,
    state: Annotated[Path | None, typer.Option(help="State folder (daemon.state).", show_default=False)] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder (daemon.run).", show_default=False)] = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info, warning or error (daemon.log_level).", show_default=False)
    ] = None,
    rebuild_catalogue: Annotated[
        bool, typer.Option("--rebuild-catalogue", help="Make a new catalogue where the old one is damaged or lost.")
    ] = False,
    version: Annotated[  # noqa: ARG001 – acted on by its callback
        bool, typer.Option("--version", help="Show the version and end.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Run in the foreground until SIGTERM or SIGINT. Needs root; needs no configuration file."""
    # structlog loads rich, if it can, for coloured tracebacks: 4 MB in a process that has no terminal.
    cast("dict[str, object]", sys.modules).setdefault("rich", None)
    # Calls of the engine must not wait long for a thread that unpacks; Python's default is 5 ms.
    sys.setswitchinterval(0.001)

    from hyperbox.configuration import load_settings
    from hyperbox.daemon.app import run_daemon

    overrides: dict[tuple[str, str], Any] = {
        ("daemon", "state"): state.absolute() if state else None,
        ("daemon", "run"): run.absolute() if run else None,
        ("daemon", "log_level"): log_level,
    }
    settings, source = load_settings(config, overrides)
    run_daemon(settings, source, rebuild=rebuild_catalogue)


def main() -> None:
    """Run the daemon; errors of the start become one line, a remedy and an exit status."""
    from hyperbox.cli_report import report

    try:
        app()
    except HyperBoxError as error:
        sys.exit(report(error, debug=False))


if __name__ == "__main__":
    main()
