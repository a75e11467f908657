"""`nox -s demo`: real images on Docker with HyperBox and without, side by side, and one table.

Everything happens in the lab's own folder with its own engine, and is taken away at the end, also after Ctrl-C. Exit
status: 0, or 1 when the trees that containers see differ or something failed, 7 without root, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyperbox._dev.fidelity import Comparison, compare_containers
from hyperbox._dev.lab import LabError, LabHome, Registry, Run, say, step, toolbox
from hyperbox._dev.lab.images import DEMO_IMAGES, Images, LabImage
from hyperbox.api.errors.base import HyperBoxError
from hyperbox.api.messages import ImageRequest
from hyperbox.api.operations import IMAGE_EXPLAIN
from hyperbox.bench import HYPERBOX, VANILLA, Measure, Report, System, drop_caches, lab_run
from hyperbox.bench.circumstances import circumstances
from hyperbox.bench.network import DEFAULT, Network
from hyperbox.bench.results import Unit

_FREE_BYTES = 4 << 30
_SHOWN_DIFFERENCES = 20


@dataclass
class Round:
    """What one system did in one round; times in seconds by image, sizes in bytes."""

    pull: dict[str, float] = field(default_factory=dict)
    cpu: float = 0.0
    start: dict[str, float] = field(default_factory=dict)
    disk: int = 0
    cache: int = 0


class Demo:
    """One demonstration: two systems, the images, and a registry at some distance."""

    def __init__(self, run: Run, images: Sequence[LabImage], network: Network) -> None:
        self.images = images
        with step("starting the registry and putting the images into it"):
            registry = Registry(run)
            for image in images:
                image.push(registry)
        self.distance = network.place(run, registry)
        host = self.distance or registry
        self.references = {image.key: host.reference(image.name, image.tag) for image in images}
        self.systems = [System.start(run, name) for name in (VANILLA, HYPERBOX)]
        self.rounds: dict[str, list[Round]] = {system.name: [] for system in self.systems}
        self.circumstances = circumstances(self.systems[0], images, self.distance)

    def measure(self, runs: int) -> None:
        """Pull and run all images on both systems in turn, `runs` times, from nothing each time."""
        for number in range(1, runs + 1):
            for system in self.systems:
                self.rounds[system.name].append(self._round(system, f"round {number} of {runs}, {system.name}"))

    def _round(self, system: System, label: str) -> Round:
        found = Round()
        with step(f"{label}: removing all images and emptying the machine's caches"):
            system.clear()
            drop_caches()
        for image in self.images:
            with step(f"{label}: docker pull {image.key} ({image.compressed_size / 1e6:.0f} MB)"):
                pulled = system.pull(self.references[image.key])
            found.pull[image.key] = pulled.wall
            found.cpu += pulled.cpu
        found.disk = system.disk()
        running = system.start_cold(self.images, self.references, label)
        found.start, found.cache = dict(running.start), running.cached
        return found

    def compare(self) -> dict[str, Comparison]:
        """What a container of each image sees on both systems."""
        found = {}
        for image in self.images:
            reference = self.references[image.key]
            with step(f"comparing every path of {image.key} in a container on each system"):
                held = [system.hold(reference) for system in self.systems]
                found[image.key] = compare_containers(held[0][1], held[1][1])
        return found

    def provenance(self) -> dict[str, list[str]]:
        """Where HyperBox has each layer from, or why the engine unpacked it: then it would be no demonstration."""
        client = self.systems[1].client
        found = {}
        for image in self.images:
            layers = client.call(IMAGE_EXPLAIN, ImageRequest(image=image.manifest)).layers
            found[image.key] = [layer.reason or f"{layer.form}, by {layer.source}" for layer in layers]
        return found

    def report(self) -> Report:
        """The table."""
        title = f"Docker with HyperBox and without: {', '.join(image.key for image in self.images)}"
        report = Report(title, self.circumstances)
        for image in self.images:
            report.add(self._row(f"pull {image.key}", "s", _pull_of(image.key)))
        report.add(
            self._row("pull all", "s", lambda one: sum(one.pull.values())),
            self._row("processor time of the daemons for it", "s", lambda one: one.cpu),
        )
        for image in self.images:
            report.add(self._row(f"start {image.key}, run to ready", "s", _start_of(image.key)))
        report.add(
            self._row("disk", "bytes", lambda one: one.disk),
            self._row("page cache when all run", "bytes", lambda one: one.cache),
        )
        return report

    def _row(self, name: str, unit: Unit, value: Callable[[Round], float]) -> Measure:
        by_system = {system: tuple(value(one) for one in rounds) for system, rounds in self.rounds.items()}
        return Measure(name, unit, by_system[HYPERBOX], by_system[VANILLA])


def _pull_of(image: str) -> Callable[[Round], float]:
    return lambda one: one.pull[image]


def _start_of(image: str) -> Callable[[Round], float]:
    return lambda one: one.start[image]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hyperbox._dev.demo", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="rounds on each system (default 3)")
    parser.add_argument(
        "--network", type=Network.parse, default=DEFAULT, metavar="RTT,RATE",
        help=f"distance of the registry, `{DEFAULT}` by default, or `none`",
    )  # fmt: skip
    parser.add_argument(
        "--image", action="append", default=[], metavar="NAME",
        help=f"image of the lab, may be repeated (default {' and '.join(DEMO_IMAGES)})",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there as well")
    return parser


def _prepare(home: LabHome, names: Sequence[str]) -> list[LabImage]:
    say(f"everything happens in {home.root}; programs and images made there stay for the next time")
    free = shutil.disk_usage(home.root).free
    if free < _FREE_BYTES:
        say(f"only {free >> 20} MiB are free there; set HYPERBOX_LAB to a folder on a larger disk")
    with step("the engine's programs, from Debian packages"):
        toolbox(home)
    with step("the images, from Debian packages"):
        return Images(home).ensure(names)


def _show(demo: Demo, compared: dict[str, Comparison], seconds: float) -> bool:
    """Print the table and what was compared; returns whether all trees are the same."""
    demo.report().print()
    for image, reasons in demo.provenance().items():
        print(f"layers of {image} in HyperBox: {', '.join(reasons)}")
    paths = sum(one.paths for one in compared.values())
    lines = [f"{image}{line}" for image, one in compared.items() for line in one.differences]
    print(f"trees identical: {'no' if lines else 'yes'} ({paths} paths of {len(compared)} images)")
    for line in lines[:_SHOWN_DIFFERENCES]:
        print(f"  {line}")
    if len(lines) > _SHOWN_DIFFERENCES:
        print(f"  and {len(lines) - _SHOWN_DIFFERENCES} more")
    print(f"measured in {seconds:.0f} s", flush=True)
    return not lines


def _numbers(demo: Demo, compared: dict[str, Comparison]) -> dict[str, Any]:
    return {
        **demo.report().as_dict(),
        "layers": demo.provenance(),
        "trees": {image: {"paths": one.paths, "differences": list(one.differences)} for image, one in compared.items()},
    }


def demonstrate(home: LabHome, names: Sequence[str], network: Network, runs: int, numbers: Path | None) -> bool:
    """Set up, measure, compare, print. Returns whether both systems show the same trees.

    Raises:
        LabError: The lab cannot do something on this machine, or an image did not run.
        HyperBoxError: hyperboxd refused something.
    """
    images = _prepare(home, names)
    began = time.monotonic()
    with lab_run(home) as run:
        demo = Demo(run, images, network)
        demo.measure(runs)
        compared = demo.compare()
        same = _show(demo, compared, time.monotonic() - began)
        if numbers:
            numbers.write_text(json.dumps(_numbers(demo, compared), indent=2) + "\n")
            say(f"all numbers are in {numbers}")
    return same


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    args = _parser().parse_args(argv)
    if os.geteuid() != 0:
        say("the demo mounts file systems and starts container engines: run it as root")
        return 7
    try:
        same = demonstrate(LabHome(), args.image or DEMO_IMAGES, args.network, max(1, args.runs), args.json)
    except (LabError, HyperBoxError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
