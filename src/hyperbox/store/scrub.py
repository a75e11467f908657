"""Verify ("scrub"): hash everything that the store holds and compare it with what it should be."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from hyperbox import linux
from hyperbox.api.errors.store import LayerDamaged
from hyperbox.store.layers import LayerStore
from hyperbox.store.objects import FOLDERS, ObjectStore

Repair = Callable[[Collection[bytes]], Collection[bytes]]
"""Fetches objects again and stores them under a lease of its own; returns the digests that it has put back."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a verification has come."""

    objects: int
    hashed_bytes: int
    layers: int


@dataclass(frozen=True, slots=True)
class Verification:
    """What a verification found. Digests are raw; `ok` says whether all is well now."""

    objects: int
    hashed_bytes: int
    layers: int
    seconds: float
    damaged: tuple[bytes, ...] = ()
    """Objects whose content did not match; they are in quarantine."""
    missing: dict[bytes, tuple[str, ...]] = field(default_factory=dict)
    """Objects that layers name and that are not here (before repair) → ids of those layers."""
    wrong_size: dict[bytes, tuple[str, ...]] = field(default_factory=dict)
    """Sound objects of another size than a layer's list says → ids of those layers."""
    damaged_layers: dict[str, str] = field(default_factory=dict)
    """Layer id → what is wrong with its own files; they are in quarantine."""
    unreferenced: int = 0
    """Sound objects that no layer names: work for GC, not an error."""
    strangers: tuple[str, ...] = ()
    """Names under `objects/` that no object can have."""
    repaired: tuple[bytes, ...] = ()
    """Missing objects that the repair has put back."""

    @property
    def ok(self) -> bool:
        """Whether everything that is needed is here and whole."""
        lost = set(self.missing) - set(self.repaired)
        return not (lost or self.wrong_size or self.damaged_layers)


def verify(
    objects: ObjectStore,
    layers: LayerStore,
    *,
    workers: int,
    progress: Callable[[Progress], None] | None = None,
    repair: Repair | None = None,
) -> Verification:
    """Hash all objects, layer images and object lists on `workers` threads.

    Damaged files are moved to quarantine at once, so no later open reads them; what layers then miss is handed to
    `repair`. The caller keeps garbage collection away meanwhile; pulls may go on.
    """
    started = time.monotonic()
    bad_layers = _check_layers(layers)
    named = _named(layers)
    sizes, damaged, strangers = _hash_objects(objects, workers, len(named), progress)
    if damaged:
        # A running container that looked a damaged file up keeps its inode, whatever its name is now: it would go on
        # to read wrong bytes, also after the repair.
        linux.drop_lookups()
    missing: dict[bytes, tuple[str, ...]] = {}
    wrong: dict[bytes, tuple[str, ...]] = {}
    wanted: set[bytes] = set()
    for layer_id, listed in named.items():
        wanted.update(listed)
        for digest, size in listed.items():
            # What is not in the walk may have arrived since: ask again.
            actual = sizes.get(digest, objects.size(digest) if digest not in sizes else None)
            if actual is None:
                missing[digest] = (*missing.get(digest, ()), layer_id)
            elif actual != size:
                wrong[digest] = (*wrong.get(digest, ()), layer_id)
    repaired: set[bytes] = set()
    if missing and repair is not None:
        repaired = {digest for digest in repair(tuple(missing)) if digest in missing and objects.check(digest)}
    return Verification(
        objects=len(sizes) + len(damaged),
        hashed_bytes=sum(sizes.values()),
        layers=len(named) + len(bad_layers),
        seconds=time.monotonic() - started,
        damaged=tuple(damaged),
        missing=missing,
        wrong_size=wrong,
        damaged_layers=bad_layers,
        unreferenced=len(sizes.keys() - wanted),
        strangers=tuple(strangers),
        repaired=tuple(sorted(repaired)),
    )


def _check_layers(layers: LayerStore) -> dict[str, str]:
    bad: dict[str, str] = {}
    for record in layers.list():
        damaged = layers.check(record)
        if damaged and layers.find(record.layer_id) is not None:
            bad[record.layer_id] = "; ".join(damaged.values())
            layers.quarantine(record.layer_id, damaged)
    return bad


def _named(layers: LayerStore) -> dict[str, dict[bytes, int]]:
    named: dict[str, dict[bytes, int]] = {}
    for record in layers.list():
        try:
            named[record.layer_id] = layers.objects_of(record.layer_id)
        except LayerDamaged:  # reported by the check before
            continue
    return named


def _hash_objects(
    objects: ObjectStore, workers: int, layers: int, progress: Callable[[Progress], None] | None
) -> tuple[dict[bytes, int], list[bytes], list[str]]:
    sizes: dict[bytes, int] = {}
    damaged: list[bytes] = []
    strangers: list[str] = []
    done = 0
    with ThreadPoolExecutor(workers, "hyperbox-verify") as pool:
        for folder in FOLDERS:
            digests: list[bytes] = []
            for digest, entry in objects.scan(folder):
                if digest is None:
                    strangers.append(f"{folder}/{entry.name}")
                else:
                    digests.append(digest)
            for batch in _batches(digests, 256):
                for digest, good in zip(batch, pool.map(objects.check, batch), strict=True):
                    size = objects.size(digest)
                    if good and size is not None:
                        sizes[digest] = size
                        done += size
                    elif size is not None:
                        objects.quarantine(digest)
                        damaged.append(digest)
            if progress is not None:
                progress(Progress(len(sizes) + len(damaged), done, layers))
    return sizes, damaged, strangers


def _batches(items: list[bytes], size: int) -> Iterator[list[bytes]]:
    feed = iter(items)
    while batch := list(islice(feed, size)):
        yield batch
