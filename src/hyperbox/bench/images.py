"""Measured on images: pull to ready-to-run, disk, start to ready, page cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hyperbox._dev.lab import step
from hyperbox._dev.lab.images import LabImage
from hyperbox.bench.footprint import drop_caches
from hyperbox.bench.results import Measure, Target
from hyperbox.bench.systems import HYPERBOX, VANILLA, Pulled, System

PULL = Target(0.7)
"""The engine is bound by unpacking one layer after the other; with the lab's network it takes twice the link's time."""
PULL_CPU = Target(1.0)
DISK = Target(0.6)
PAGE_CACHE = Target(0.8)


@dataclass(frozen=True)
class Subject:
    """The two systems, and the images with the references by which both pull them."""

    systems: Mapping[str, System]
    images: Sequence[LabImage]
    references: Mapping[str, str]

    def reference(self, image: LabImage) -> str:
        """The name of an image in the registry."""
        return self.references[image.key]


def pulls(subject: Subject) -> list[Measure]:
    """Pull every image on both systems in turn, each with cold caches, then compare what lies on the disk."""
    taken: dict[str, dict[str, Pulled]] = {name: {} for name in subject.systems}
    for image in subject.images:
        for name, system in subject.systems.items():
            drop_caches()
            with step(f"{name}: docker pull {image.key} ({image.compressed_size / 1e6:.0f} MB)"):
                taken[name][image.key] = system.pull(subject.reference(image))
    found = [
        Measure(f"pull {key}", "s", (taken[HYPERBOX][key].wall,), (taken[VANILLA][key].wall,))
        for key in (image.key for image in subject.images)
    ]
    wall = {name: sum(one.wall for one in all_.values()) for name, all_ in taken.items()}
    cpu = {name: sum(one.cpu for one in all_.values()) for name, all_ in taken.items()}
    disk = {name: float(system.disk()) for name, system in subject.systems.items()}
    return [
        *found,
        Measure("pull, whole set", "s", (wall[HYPERBOX],), (wall[VANILLA],), PULL),
        Measure("processor time of the daemons for it", "s", (cpu[HYPERBOX],), (cpu[VANILLA],), PULL_CPU),
        Measure("disk, whole set", "bytes", (disk[HYPERBOX],), (disk[VANILLA],), DISK),
    ]


def starts(subject: Subject) -> list[Measure]:
    """Start every image with a cold page cache and leave it running; then count the page cache."""
    found = {
        name: system.start_cold(subject.images, subject.references, name) for name, system in subject.systems.items()
    }
    ready = {name: one.start for name, one in found.items()}
    total = {name: sum(one.start.values()) for name, one in found.items()}
    cache = {name: float(one.cached) for name, one in found.items()}
    return [
        *(
            Measure(
                f"start {image.key}, run to ready", "s", (ready[HYPERBOX][image.key],), (ready[VANILLA][image.key],)
            )
            for image in subject.images
        ),
        Measure("start, whole set", "s", (total[HYPERBOX],), (total[VANILLA],)),
        Measure("page cache, whole set running", "bytes", (cache[HYPERBOX],), (cache[VANILLA],), PAGE_CACHE),
    ]
