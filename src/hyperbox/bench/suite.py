"""The whole suite in one run: both systems, all images, every target of the product."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from hyperbox._dev.lab import LabError, LabHome, Registry, Run, say, step, toolbox
from hyperbox._dev.lab.images import ALL_IMAGES, Images, LabImage, resolve
from hyperbox.bench import containers, control, images
from hyperbox.bench.circumstances import circumstances
from hyperbox.bench.images import Subject
from hyperbox.bench.network import DEFAULT, Network
from hyperbox.bench.results import Measure, Report
from hyperbox.bench.sessions import lab_run
from hyperbox.bench.systems import HYPERBOX, VANILLA, System

PARTS = ("images", "containers", "control")
"""What can be measured alone. `images`: pull, disk, start, page cache; `containers`: warm run and loops in a
container; `control`: store, sockets, idle, command line."""
SAMPLES = 21


def measure(
    names: Sequence[str] = ALL_IMAGES,
    *,
    network: Network = DEFAULT,
    parts: Collection[str] = PARTS,
    samples: int = SAMPLES,
    home: LabHome | None = None,
) -> Report:
    """Set both systems up in the lab, measure, take everything away. `samples` are those of what is repeated.

    Raises:
        LabError: The lab cannot do something on this machine, or an image did not run.
        HyperBoxError: hyperboxd refused something.
    """
    home = home or LabHome()
    with step("the engine's programs and the images"):
        toolbox(home)
        found = Images(home).ensure(_needed(names, parts))
    with lab_run(home) as run:
        return _measure(run, found, network, parts, samples)


def _needed(names: Sequence[str], parts: Collection[str]) -> list[str]:
    """The images to measure; `containers` needs one with Python in it."""
    try:
        keys = [resolve(name).key for name in names]
    except KeyError as error:
        raise LabError(f"the lab has no image {error}") from None
    loops = resolve(containers.PYTHON_IMAGE).key
    return [*keys, *([loops] if "containers" in parts and loops not in keys else [])]


def _measure(run: Run, found: Sequence[LabImage], network: Network, parts: Collection[str], samples: int) -> Report:
    registry = Registry(run)
    for image in found:
        image.push(registry)
    distance = network.place(run, registry)
    host = distance or registry
    references = {image.key: host.reference(image.name, image.tag) for image in found}
    systems = {name: System.start(run, name) for name in (VANILLA, HYPERBOX)}
    subject = Subject(systems, found, references)
    report = Report("HyperBox beside the same engine without it", circumstances(systems[VANILLA], found, distance))
    hyperbox = systems[HYPERBOX]
    if "control" in parts:
        report.add(*control.resident(hyperbox, "at start", None))
    if "images" in parts:
        report.add(*images.pulls(subject), *images.starts(subject))
    else:
        _pull_quietly(subject)
    if "containers" in parts:
        loops = next(image for image in found if image.name == containers.PYTHON_IMAGE)
        report.add(*containers.first_output(subject, loops, samples))
        report.add(*containers.steady_state(subject, loops, samples))
    if "control" in parts:
        report.add(*_control(hyperbox))
    return report


def _pull_quietly(subject: Subject) -> None:
    for name, system in subject.systems.items():
        for image in subject.images:
            with step(f"{name}: docker pull {image.key}, not measured"):
                system.pull(subject.reference(image))


def _control(system: System) -> list[Measure]:
    calls: tuple[Callable[[System], list[Measure]], ...] = (control.look_up, control.layer_calls, control.idle)
    found = [measure for call in calls for measure in call(system)]
    return [*found, *control.resident(system, "at idle, after the pulls", control.RESIDENT), *control.command_line()]


def show(report: Report, numbers: Path | None) -> None:
    """Print the table and what of it misses its target; write all numbers as JSON where a file is named."""
    report.print()
    missed = [measure.name for measure in report.measures if measure.verdict == "not met"]
    judged = sum(bool(measure.verdict) for measure in report.measures)
    print(f"{judged - len(missed)} of {judged} targets met" + (f"; not met: {', '.join(missed)}" if missed else ""))  # noqa: T201 - the result of the command
    if numbers:
        numbers.write_text(json.dumps(report.as_dict(), indent=2) + "\n")
        say(f"all numbers are in {numbers}")
