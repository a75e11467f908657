"""`hyperbox status`, `doctor`, `events` and `version`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyperbox.api.errors.base import ExitCode
from hyperbox.cli.state import Format, FormatOption, call, print_pairs, print_table, show, size

if TYPE_CHECKING:
    from hyperbox.api.messages import Doctor, Status


def register(app: typer.Typer) -> None:
    """Add the commands that have no group."""
    for command in (status, doctor, events, version):
        app.command()(command)


def status(form: FormatOption = Format.TABLE) -> None:
    """Show the daemon at a glance."""
    from hyperbox.api.operations import STATUS

    answer = call(STATUS)
    show(answer, form, lambda: _print_status(answer))


def _print_status(answer: Status) -> None:
    print_pairs(
        [
            ("health", answer.health.status),
            ("version", answer.version),
            ("pid", answer.pid),
            ("started", answer.started.isoformat(sep=" ", timespec="seconds")),
            ("data path", answer.data_path),
            ("state", answer.state),
            ("run", answer.run),
            ("snapshots", answer.snapshots),
            ("layers", answer.layers),
            ("objects", f"{answer.objects} ({size(answer.object_bytes)})"),
            ("without sharing", size(answer.referenced_bytes)),
            ("to compact", answer.compactions_pending or ""),
            ("memory", size(answer.resident_bytes)),
        ]
    )
    for task in answer.health.tasks:
        if task.state == "failed":
            typer.echo(f"failed task: {task.name}: {task.detail}")


def doctor(
    state: Annotated[
        Path | None, typer.Option(help="State folder to judge; the configuration's otherwise.", show_default=False)
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Say what kernel, file system, engine and permissions allow, with a remedy for each gap.

    Works without a daemon. Exit status 11 when something that HyperBox needs is missing.
    """
    from hyperbox.engines.doctor import examine

    answer = examine(state)
    show(answer, form, lambda: _print_doctor(answer))
    if any(f.required and not f.present for f in answer.features):
        raise typer.Exit(ExitCode.FINDINGS)


def _print_doctor(answer: Doctor) -> None:
    rows = [
        ("yes" if f.present else "NO" if f.required else "no", f.name, f.detail, f.needed_for) for f in answer.features
    ]
    print_table(("", "what", "found", "serves"), rows, empty="nothing was examined")
    typer.echo(f"\ndata path: {answer.data_path} ({answer.reason})")
    gaps = [f for f in answer.features if not f.present and f.remedy]
    for feature in gaps:
        typer.echo(f"  {feature.name}: {feature.remedy}")


def events(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="Most events to show.")] = 50,
    name: Annotated[str, typer.Option(help="Only events of this name.")] = "",
    form: FormatOption = Format.TABLE,
) -> None:
    """Show what happened lately, oldest first."""
    from hyperbox.api.messages import EventsRequest
    from hyperbox.api.operations import EVENTS

    answer = call(EVENTS, EventsRequest(limit=limit, name=name))
    rows = [
        (e.time.isoformat(sep=" ", timespec="seconds"), e.name, ", ".join(f"{k}={v}" for k, v in e.data.items()))
        for e in answer.events
    ]
    show(answer, form, lambda: print_table(("time", "event", "particulars"), rows, empty="no events"))


def version(form: FormatOption = Format.TABLE) -> None:
    """Show the versions of the command and, if one runs, of the daemon."""
    import platform

    from hyperbox import __version__
    from hyperbox.api.errors.daemon import DaemonUnreachable
    from hyperbox.api.operations import VERSION
    from hyperbox.cli.state import show_json

    try:
        daemon = call(VERSION)
    except DaemonUnreachable:
        daemon = None
    if form is Format.JSON:
        show_json({"hyperbox": __version__, "daemon": daemon.model_dump() if daemon else None})
        return
    print_pairs(
        [
            ("hyperbox", __version__),
            ("hyperboxd", daemon.version if daemon else "not running"),
            ("python", platform.python_version()),
            ("kernel", platform.release()),
        ]
    )
