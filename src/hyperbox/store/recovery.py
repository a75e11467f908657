"""Durability without fsync per file: checkpoints, the clean-stop marker, and the check after an unclean stop.

What is guaranteed:

- **Clean stop** (`close`): everything is on disk; the next start checks nothing, also after a reboot.
- **Process death** (SIGKILL; same boot): the page cache outlives the process and a name under `objects/` is given
  only to a complete file, so nothing needs hashing. Leftovers in `ingest/` are deleted.
- **Power loss or kernel panic** (the boot id differs and there is no clean-stop marker): what changed at or after the
  last checkpoint may be absent, short or zeros. Every such object is hashed, those that do not match are moved to
  `quarantine/`, layers added since then are checked whole, and what they miss is reported: the daemon fetches it
  again or has the layer pulled again. What is older was synced by the checkpoint and is trusted (`verify` checks it).

A file's age is its ctime, which every link and rename renews. A folder's mtime is renewed by each name that it gains,
in the same journal transaction (ext4, xfs, btrfs). So in folders that gained none since the checkpoint the names are
listed (to see what layers miss) but no object is looked at: milliseconds when nothing is young. A clock that was set
back is noticed when a lease begins and moves the checkpoint back with it; beyond that, `SLACK` covers the coarse
clock that the kernel stamps files with.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hyperbox.api.errors.store import LayerDamaged
from hyperbox.store.catalogue import Catalogue
from hyperbox.store.layers import LayerStore
from hyperbox.store.objects import FOLDERS, ObjectStore

SLACK: Final = 2_000_000_000
"""Nanoseconds that a file may seem older than it is."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What opening the store found and did."""

    reason: str
    """`new`, `clean stop`, `process death`, `power loss`."""
    leftovers: int = 0
    """Files deleted from `ingest/`."""
    hashed: int = 0
    """Objects that were young, hence hashed."""
    seconds: float = 0.0
    quarantined: tuple[bytes, ...] = ()
    """Digests of objects that did not match and were moved aside."""
    damaged_layers: tuple[str, ...] = ()
    """Layer ids whose own files were moved aside."""
    incomplete_layers: dict[str, tuple[bytes, ...]] = field(default_factory=dict)
    """Layer id → digests of its objects that are not here (any more)."""

    @property
    def clean(self) -> bool:
        """Whether nothing was lost."""
        return not (self.quarantined or self.damaged_layers or self.incomplete_layers)


def stop_reason(catalogue: Catalogue, boot: str) -> str:
    """How the last process that had the store ended."""
    stopped = catalogue.meta.get("state")
    if stopped is None:
        return "new"
    if stopped == "clean":
        return "clean stop"
    return "process death" if catalogue.meta.get("boot_id") == boot else "power loss"


def check_young(objects: ObjectStore, layers: LayerStore, *, since_ns: int, workers: int) -> Recovery:
    """Hash what changed since a checkpoint, move aside what does not match, and say which layers miss what."""
    started = time.monotonic()
    since = since_ns - SLACK
    present, young = _survey(objects, since)
    with ThreadPoolExecutor(workers, "hyperbox-recovery") as pool:
        good = pool.map(objects.check, young)
        bad = tuple(digest for digest, fine in zip(young, good, strict=True) if not fine)
    for digest in bad:
        objects.quarantine(digest)
    present.difference_update(bad)
    damaged: list[str] = []
    incomplete: dict[str, tuple[bytes, ...]] = {}
    for record in layers.list():
        new = record.last_used >= since or record.created >= since or _changed(layers.path(record), since)
        if new and (broken := layers.check(record)):
            damaged.append(record.layer_id)
            layers.quarantine(record.layer_id, broken)
            continue
        # Also for old layers: an object of theirs may have been fetched again since.
        if missing := tuple(digest for digest in _named(layers, record.layer_id) if digest not in present):
            incomplete[record.layer_id] = missing
    return Recovery(
        reason="power loss",
        hashed=len(young),
        seconds=time.monotonic() - started,
        quarantined=bad,
        damaged_layers=tuple(damaged),
        incomplete_layers=incomplete,
    )


def check_known(objects: ObjectStore, layers: LayerStore, suspects: Collection[str]) -> Recovery:
    """The short check after a stop that lost nothing: layers without image, and what earlier losses left open."""
    absent = tuple(record.layer_id for record in layers.list() if not layers.path(record).exists())
    known = {record.layer_id for record in layers.list()}
    incomplete = {
        layer_id: missing
        for layer_id in suspects
        if layer_id in known
        and (missing := tuple(digest for digest in _named(layers, layer_id) if not objects.has(digest)))
    }
    return Recovery(reason="", damaged_layers=absent, incomplete_layers=incomplete)


def _survey(objects: ObjectStore, since: int) -> tuple[set[bytes], list[bytes]]:
    """The digests of all objects, and of those that changed at or after `since`."""
    present: set[bytes] = set()
    young: list[bytes] = []
    for folder in FOLDERS:
        look = os.stat(objects.root / folder).st_mtime_ns >= since
        for digest, entry in objects.scan(folder):
            if digest is None:
                continue
            present.add(digest)
            if look and entry.stat(follow_symlinks=False).st_ctime_ns >= since:
                young.append(digest)
    return present, young


def _changed(path: Path, since: int) -> bool:
    try:
        return path.stat().st_ctime_ns >= since
    except FileNotFoundError:
        return True


def _named(layers: LayerStore, layer_id: str) -> dict[bytes, int]:
    try:
        return layers.objects_of(layer_id)
    except LayerDamaged:  # told as a damaged layer
        return {}
