"""How much the store holds and saves, read from the object lists of the layers."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from hyperbox.api.errors.store import LayerDamaged
from hyperbox.store.catalogue import Catalogue
from hyperbox.store.layers import LayerStore
from hyperbox.store.objects import FOLDERS, ObjectStore


@dataclass(frozen=True, slots=True)
class Walked:
    """What the folder `objects/` really holds."""

    objects: int
    apparent: int
    """Apparent bytes (lengths of the files)."""
    allocated: int
    """Bytes of disk blocks; holes take none."""


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Sizes are bytes."""

    layers: int
    layer_bytes: int
    """Sum over the layers of the objects that each names: what they would take without sharing."""
    metadata_bytes: int
    """EROFS images and object lists."""
    objects: int
    """Different objects that layers name."""
    object_bytes: int
    """Their bytes, each counted once."""
    referenced_bytes: int
    """Bytes of objects in layers that a snapshot has."""
    dedup_ratio: float
    """`layer_bytes` over `object_bytes`; 1.0 when there is nothing to share."""
    snapshots: int
    images: int
    walked: Walked | None = None


class Counter:
    """Computes the statistics and keeps the sums until the set of layers changes."""

    def __init__(self, layers: LayerStore) -> None:
        self._layers = layers
        self._lock = threading.Lock()
        self._key: tuple[frozenset[str], frozenset[str]] | None = None
        self._sums = (0, 0, 0)

    def stats(self, objects: ObjectStore, catalogue: Catalogue, *, walk: bool) -> StoreStats:
        """The statistics as of now."""
        records = self._layers.list()
        referenced = frozenset(catalogue.layers.referenced())
        count, unique, used = self._unique(frozenset(record.layer_id for record in records), referenced)
        total = sum(record.objects_bytes for record in records)
        return StoreStats(
            layers=len(records),
            layer_bytes=total,
            metadata_bytes=sum(record.metadata_bytes + 40 * record.objects for record in records),
            objects=count,
            object_bytes=unique,
            referenced_bytes=used,
            dedup_ratio=total / unique if unique else 1.0,
            snapshots=len(catalogue.snapshots.list()),
            images=len(catalogue.images.list()),
            walked=walk_objects(objects) if walk else None,
        )

    def _unique(self, layers: frozenset[str], referenced: frozenset[str]) -> tuple[int, int, int]:
        with self._lock:
            if self._key != (layers, referenced):
                named: dict[bytes, int] = {}
                used: dict[bytes, int] = {}
                for layer_id in layers:
                    try:
                        listed = self._layers.objects_of(layer_id)
                    except LayerDamaged:  # `verify` reports it
                        continue
                    named.update(listed)
                    if layer_id in referenced:
                        used.update(listed)
                self._sums = (len(named), sum(named.values()), sum(used.values()))
                self._key = (layers, referenced)
            return self._sums


def walk_objects(objects: ObjectStore) -> Walked:
    """Stat every object."""
    count = apparent = allocated = 0
    for folder in FOLDERS:
        for _, entry in objects.scan(folder):
            info = entry.stat(follow_symlinks=False)
            count += 1
            apparent += info.st_size
            allocated += info.st_blocks * 512
    return Walked(count, apparent, allocated)
