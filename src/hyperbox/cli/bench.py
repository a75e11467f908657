"""`hyperbox bench`: measure HyperBox beside the same engine without it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Measure HyperBox beside the same engine without it.", no_args_is_help=True, rich_markup_mode=None
)


@app.callback()
def group() -> None:
    """Measure HyperBox beside the same engine without it."""


@app.command()
def run(
    image: Annotated[
        list[str] | None, typer.Option(help="Image of the lab, may be repeated; all without it.", show_default=False)
    ] = None,
    network: Annotated[
        str, typer.Option(help="Distance of the registry: round trip and rate, or `none`.")
    ] = "20ms,200mbit",
    part: Annotated[
        list[str] | None,
        typer.Option(help="Only `images`, `containers` or `control`, may be repeated.", show_default=False),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Repetitions of what is repeated.")] = 21,
    json: Annotated[Path | None, typer.Option(help="File for all numbers.", show_default=False)] = None,
) -> None:
    """Pull and run the lab's images on both systems and print ratios with their targets.

    Needs root and a Debian machine: it starts a private engine in the lab's folder, empties the machine's caches before
    cold measurements, and takes everything away again. The whole set needs about ten minutes, and more to build the
    images on first use.
    """
    from hyperbox._dev.lab import LabError, say
    from hyperbox._dev.lab.images import ALL_IMAGES
    from hyperbox.bench.network import Network
    from hyperbox.bench.suite import PARTS, measure, show

    if os.geteuid() != 0:
        say("the lab mounts file systems and starts container engines: run it as root")
        raise typer.Exit(7)
    try:
        distance = Network.parse(network)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--network") from None
    parts = part or PARTS
    if unknown := set(parts) - set(PARTS):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))} is none of {', '.join(PARTS)}", param_hint="--part")
    try:
        show(measure(image or ALL_IMAGES, network=distance, parts=parts, samples=samples), json)
    except LabError as error:
        say(f"error: {error}")
        raise typer.Exit(1) from None
