"""Garbage collection: mark what is referred to, sweep the rest.

A layer stays while a snapshot has it, a pinned image names it, a lease holds it, the caller names it (layers that are
mounted), or its grace time has not passed. An object stays while a layer that stays names it, a lease holds it, or it
is younger than the grace time (an interrupted pull finds its objects again).

*Why nobody loses what he uses.* Leases end only after their layer's row is committed, and one that ends during a
collection protects until its end (`ObjectStore.sweeping`), so an object that is neither marked nor held is wanted by
nobody. A snapshot's row refers to its layer by a foreign key: the row of a layer that is in use cannot be deleted.
A mount looks objects up by name at each first open, so objects must stay for as long as a mount that names them:
that is what `keep_layers` is for. What is open or mapped already is safe in any case: the kernel keeps an unlinked
inode, and a mounted EROFS image, until the last user lets go.

*Crash safety.* A layer's row goes first, then its files, then objects: a crash in between leaves files that nothing
names, and the next collection takes them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from hyperbox.api.errors.store import LayerDamaged
from hyperbox.store.catalogue import Catalogue
from hyperbox.store.layers import LayerStore
from hyperbox.store.objects import FOLDERS, ObjectStore
from hyperbox.store.rows import LayerRecord

GRACE: Final = 3600.0
"""Seconds for which an unused layer, or an object that nothing names, stays by default."""
QUARANTINE_KEPT: Final = 7 * 86400.0
"""Seconds for which damaged files stay in `quarantine/`."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection deleted, or would delete."""

    dry_run: bool
    layers: tuple[LayerRecord, ...] = ()
    """Layers that nothing referred to; the caller unmounts those that it has mounted."""
    objects: int = 0
    freed_bytes: int = 0
    """Disk space freed: objects, layer files and old quarantine together."""
    kept: dict[str, int] | None = None
    """Reason → number of unreferenced objects that stayed: `leased`, `young`."""
    blocked_by: tuple[str, ...] = ()
    """Layers in use whose object list is damaged: nobody knows what they name, so no object was deleted."""
    strangers: tuple[str, ...] = ()
    """Names under `objects/` that no object can have; they are left alone."""
    seconds: float = 0.0


def collect(
    objects: ObjectStore,
    layers: LayerStore,
    catalogue: Catalogue,
    *,
    dry_run: bool,
    grace: float,
    keep_layers: Collection[str],
) -> Collected:
    """One collection; the caller sees to it that there is one at a time. `grace` is in seconds."""
    started = time.monotonic()
    limit = time.time_ns() - int(grace * 1e9) if grace > 0 else (1 << 63) - 1
    with objects.sweeping():
        gone, freed = _drop_layers(objects, layers, catalogue, limit, keep_layers, dry_run=dry_run)
        freed += layers.drop_orphans(older_than_ns=limit, dry_run=dry_run)
        going = {record.layer_id for record in gone} if dry_run else set()
        marked, unknown = _mark(layers, going)
        sweep = _Sweep(objects, marked, limit, dry_run=dry_run)
        for folder in () if unknown else FOLDERS:
            sweep.folder(folder)
    freed += _drop_quarantine(objects, dry_run=dry_run)
    return Collected(
        dry_run=dry_run,
        layers=tuple(gone),
        objects=sweep.objects,
        freed_bytes=freed + sweep.bytes,
        kept={"leased": sweep.leased, "young": sweep.young},
        blocked_by=tuple(unknown),
        strangers=tuple(sweep.strangers),
        seconds=time.monotonic() - started,
    )


def _drop_layers(
    objects: ObjectStore,
    layers: LayerStore,
    catalogue: Catalogue,
    limit: int,
    keep_layers: Collection[str],
    *,
    dry_run: bool,
) -> tuple[list[LayerRecord], int]:
    keep = catalogue.layers.referenced() | set(keep_layers)
    for image in catalogue.images.list():
        if image.pinned:
            keep |= {layer.layer_id for layer in image.layers if layer.layer_id}
    gone: list[LayerRecord] = []
    freed = 0
    for record in layers.list():
        if record.layer_id in keep or max(record.created, record.last_used) >= limit:
            continue
        if dry_run:
            if not objects.layer_is_held(record.layer_id):
                gone.append(record)
                freed += record.metadata_bytes + 40 * record.objects
            continue
        taken = layers.remove(record.layer_id)
        if taken is not None:
            gone.append(record)
            freed += taken
    return gone, freed


def _mark(layers: LayerStore, going: set[str]) -> tuple[set[bytes], list[str]]:
    marked: set[bytes] = set()
    unknown: list[str] = []
    for record in layers.list():
        if record.layer_id in going:
            continue
        try:
            marked.update(layers.objects_of(record.layer_id))
        except LayerDamaged:
            unknown.append(record.layer_id)
    return marked, unknown


class _Sweep:
    """The sweep of all folders, with its sums."""

    def __init__(self, objects: ObjectStore, marked: set[bytes], limit: int, *, dry_run: bool) -> None:
        self._store = objects
        self._marked = marked
        self._limit = limit
        self._dry_run = dry_run
        self.objects = self.bytes = self.leased = self.young = 0
        self.strangers: list[str] = []

    def folder(self, folder: str) -> None:
        """Sweep one of the 256 folders."""
        for digest, entry in self._store.scan(folder):
            if digest is None:
                self.strangers.append(f"{folder}/{entry.name}")
            elif digest not in self._marked:
                self._object(digest)

    def _object(self, digest: bytes) -> None:
        freed = self._store.remove(digest, older_than_ns=self._limit, dry_run=self._dry_run)
        if freed is not None:
            self.objects += 1
            self.bytes += freed
        elif self._store.is_held(digest):
            self.leased += 1
        else:
            self.young += 1


def _drop_quarantine(objects: ObjectStore, *, dry_run: bool) -> int:
    freed = 0
    limit = time.time() - QUARANTINE_KEPT
    with os.scandir(objects.quarantine_folder) as entries:
        for entry in entries:
            info = entry.stat(follow_symlinks=False)
            # Folders are what containers wrote, set aside when the catalogue was lost: for their owner to delete.
            if info.st_ctime < limit and not entry.is_dir(follow_symlinks=False):
                freed += info.st_blocks * 512
                if not dry_run:
                    os.unlink(entry.path)
    return freed
