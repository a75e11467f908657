"""The rows of the catalogue as typed, immutable values. Times are nanoseconds since the epoch, sizes bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """One layer whose EROFS image and object list are in the store."""

    id: int
    """Row number: names the mount point `l/<id>` and is never given out again."""
    layer_id: str
    """sha256 of the EROFS image, hex."""
    diff_id: str | None
    """diff ID under which it was first added, where known; others are found by `LayerStore.by_diff_id` too."""
    blob_digest: str | None
    """Digest of the compressed blob in the registry, where it came from one."""
    media_type: str | None
    """Media type of that blob."""
    source: str
    """What made it: `pull`, `compacted`, `index`, `rebuilt`, …"""
    reference: str | None
    """Image or repository that it can be fetched from again."""
    entries: int
    """Number of paths in the layer."""
    size: int
    """Apparent bytes of all its file contents."""
    metadata_bytes: int
    """Length of the EROFS image."""
    objects: int
    """Number of different objects that it names."""
    objects_bytes: int
    """Sum of their sizes."""
    objects_digest: str
    """sha256 of the object list, hex."""
    created: int
    last_used: int


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """One snapshot of the containerd contract, as the catalogue keeps it."""

    id: int
    """Row number: names `snapshots/<id>` and is never given out again."""
    key: str
    parent: str | None
    """Key of the parent."""
    kind: str
    """`active`, `view` or `committed`; the catalogue does not interpret it."""
    labels: Mapping[str, str]
    created: int
    updated: int
    layer_id: str | None
    """The layer that has its content, None for an active snapshot or a raw one."""
    raw: bool
    """Whether its content is a plain folder that the engine unpacked."""
    usage_bytes: int
    usage_inodes: int
    extra: Mapping[str, Any]
    """JSON object for its owner's further facts."""


@dataclass(frozen=True, slots=True)
class ImageLayer:
    """How one layer of an image came (or did not come) into the store."""

    digest: str
    diff_id: str | None = None
    chain_id: str | None = None
    layer_id: str | None = None
    state: str = "unknown"
    """What became of it, in the puller's words: `present`, `fetched`, `engine`, `failed`, …"""
    reason: str = ""
    """Why it went this way, for `image explain`."""
    source: str = ""
    bytes_fetched: int = 0
    bytes_deduped: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image reference on one platform."""

    reference: str
    platform: str
    manifest_digest: str
    layers: tuple[ImageLayer, ...] = ()
    """Bottom layer first."""
    pinned: bool = False
    """Whether GC keeps its layers although no snapshot uses them."""
    first_seen: int = 0
    last_used: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, for `hyperbox events`."""

    id: int
    time: int
    name: str
    data: Mapping[str, Any] = field(default_factory=dict)
