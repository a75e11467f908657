"""A new catalogue for a state folder whose old one is damaged or lost: as much of it as the files tell."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path
from typing import Final

from hyperbox.api.errors.store import CatalogueDamaged
from hyperbox.store.catalogue import Catalogue
from hyperbox.store.layers import LayerStore
from hyperbox.store.objects import hash_file
from hyperbox.store.rows import LayerRecord
from hyperbox.store.sidecar import decode_objects
from hyperbox.store.writes import sync_directory

_PARTS: Final = ("", "-wal", "-shm")


def open_catalogue(path: Path, quarantine: Path, *, rebuild: bool) -> tuple[Catalogue, bool]:
    """Open the catalogue; with `rebuild`, a damaged one is moved to quarantine and an empty one made.

    Returns it, and whether it is such a new one. Raises `CatalogueDamaged`, `CatalogueNewer`, `CatalogueFailed`.
    """
    try:
        return Catalogue(path), False
    except CatalogueDamaged:
        if not rebuild:
            raise
    stamp = time.time_ns()
    for part in _PARTS:
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{part}", quarantine / f"{path.name}{part}.{stamp}")
    sync_directory(path.parent)
    return Catalogue(path), True


def set_snapshots_aside(state: Path) -> Path | None:
    """Move the folders of snapshots to quarantine as they are; return where, None when there are none.

    Nobody knows any more which snapshot a folder belongs to, but what containers wrote is in them, and whoever owns
    it must be able to get it back. Containers that run go on: their mounts hold the folders, not the names.
    """
    folder = state / "snapshots"
    try:
        empty = not any(folder.iterdir())
    except FileNotFoundError:
        return None
    if empty:
        return None
    target = state / "quarantine" / f"snapshots.{time.time_ns()}"
    os.rename(folder, target)
    sync_directory(state)
    return target


def rebuild_layers(layers: LayerStore, catalogue: Catalogue) -> list[LayerRecord]:
    """Make rows for the layers whose files are whole; what does not match its name goes to quarantine.

    Rows so made have the source `rebuilt` and know no diff ID, blob or reference: a pull of the same layer gives the
    same id and fills them in. Snapshots cannot be found again.
    """
    made: list[LayerRecord] = []
    for image in sorted(layers.root.glob("*.erofs")):
        layer_id = image.name.removesuffix(".erofs")
        try:
            listing = layers.objects_path(layer_id).read_bytes()
            objects = decode_objects(listing)
            whole = hash_file(image).hex() == layer_id
        except (OSError, ValueError):
            whole = False
        if not whole:
            layers.quarantine(layer_id, (image, layers.objects_path(layer_id)))
            continue
        info = image.stat()
        record = LayerRecord(
            id=0,
            layer_id=layer_id,
            diff_id=None,
            blob_digest=None,
            media_type=None,
            source="rebuilt",
            reference=None,
            entries=len(objects),
            size=sum(objects.values()),
            metadata_bytes=info.st_size,
            objects=len(objects),
            objects_bytes=sum(objects.values()),
            objects_digest=hashlib.sha256(listing).hexdigest(),
            created=info.st_mtime_ns,
            last_used=time.time_ns(),
        )
        made.append(catalogue.layers.upsert(record))
    return made
