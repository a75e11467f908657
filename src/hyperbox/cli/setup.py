"""`hyperbox setup`: puts an engine onto HyperBox, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hyperbox.engines.apply import Change
    from hyperbox.engines.setup import Wiring

app = typer.Typer(help="Put an engine onto HyperBox, and back.", no_args_is_help=True, rich_markup_mode=None)

DaemonJson = Annotated[Path, typer.Option(help="Docker's configuration file.")]
ConfigToml = Annotated[Path, typer.Option(help="containerd's configuration file.")]
Apply = Annotated[bool, typer.Option("--apply", help="Make the change; without it, it is only shown.")]
Undo = Annotated[bool, typer.Option("--undo", help="Put back what was there before.")]
Config = Annotated[
    Path | None, typer.Option(help="Configuration file of hyperboxd, if not the default one.", show_default=False)
]


@app.command()
def docker(
    daemon_json: DaemonJson = Path("/etc/docker/daemon.json"),
    config_toml: ConfigToml = Path("/etc/containerd/config.toml"),
    config: Config = None,
    apply: Apply = False,
    undo: Undo = False,
) -> None:
    """Show (or make, or take back) the change that puts Docker's containerd image store onto HyperBox."""
    from hyperbox.engines.apply import plan
    from hyperbox.engines.setup import containerd_config, docker_config

    if undo:
        _undo(daemon_json, config_toml)
        return
    wiring = _wiring(config, cri=False)
    changes = [
        plan(config_toml, lambda text, file: containerd_config(text, file, wiring)),
        plan(daemon_json, docker_config),
    ]
    _carry_out(changes, apply=apply, restart="systemctl restart containerd docker")


@app.command()
def containerd(
    config_toml: ConfigToml = Path("/etc/containerd/config.toml"),
    cri: Annotated[bool, typer.Option("--cri", help="Let Kubernetes' containers use it, too.")] = False,
    config: Config = None,
    apply: Apply = False,
    undo: Undo = False,
) -> None:
    """Show (or make, or take back) the change that makes HyperBox a snapshotter of containerd."""
    from hyperbox.engines.apply import plan
    from hyperbox.engines.setup import containerd_config

    if undo:
        _undo(config_toml)
        return
    wiring = _wiring(config, cri=cri)
    changes = [plan(config_toml, lambda text, file: containerd_config(text, file, wiring))]
    _carry_out(changes, apply=apply, restart="systemctl restart containerd")


def _wiring(config: Path | None, *, cri: bool) -> Wiring:
    from hyperbox.configuration import load_settings
    from hyperbox.engines.setup import Wiring

    daemon = load_settings(config)[0].daemon
    return Wiring(socket=daemon.run / "snapshotter.sock", state=daemon.state, cri=cri)


def _carry_out(changes: list[Change], *, apply: bool, restart: str) -> None:
    from hyperbox.engines.apply import apply as write
    from hyperbox.engines.apply import backup_of, check

    needed = [change for change in changes if change.needed]
    if not needed:
        typer.echo("nothing to change: the engine is set up already")
        return
    for change in needed if apply else ():
        check(change)  # all of them, before any is written
    for change in needed:
        if apply:
            write(change)
            kept = f", before: {backup_of(change.file)}" if change.old is not None else ""
            typer.echo(f"changed {change.file}{kept}")
        else:
            typer.echo(change.diff(), nl=False)
    if apply:
        typer.echo(f"start hyperboxd, then: {restart}")
    else:
        typer.echo("\nnothing was changed; add --apply to do it")


def _undo(*files: Path) -> None:
    from hyperbox.api.errors.engines import BackupMissing
    from hyperbox.engines.apply import undo

    done = 0
    for file in files:
        try:
            undo(file)
        except BackupMissing:
            if len(files) == 1 or (file is files[-1] and not done):
                raise
        else:
            done += 1
            typer.echo(f"{file} is as it was before")
