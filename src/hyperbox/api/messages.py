"""Requests and responses of the control socket. Sizes are bytes, times are seconds, moments are UTC."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Message(BaseModel):
    """Base of all messages: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Empty(Message):
    """No fields."""


class Problem(Message):
    """The body of every answer that is not a success."""

    code: str
    """Stable error code, `HB-<ROOM>-<NUMBER>`."""
    message: str
    """One line with the particulars."""
    remedy: str
    """What to do about it."""
    retryable: bool
    """Whether the same request may succeed later."""
    values: dict[str, str | int] = Field(default_factory=dict)
    """The particulars by name."""


class Version(Message):
    """Versions of everything that matters for a report."""

    version: str
    """Version of the daemon."""
    python: str
    """Python that runs it."""
    kernel: str
    """Release of the running kernel."""
    machine: str
    """Processor architecture as `uname -m` names it."""


class TaskState(Message):
    """One background task of the daemon."""

    name: str
    """The task."""
    state: Literal["running", "idle", "failed", "stopped"]
    """What it does now."""
    detail: str = ""
    """Why it failed, or what it does."""


class Health(Message):
    """Whether the daemon can do its work."""

    status: Literal["ok", "degraded"]
    """`degraded` when a background task failed: containers still run, something else waits."""
    ready: bool
    """Whether the snapshotter socket serves calls."""
    tasks: list[TaskState]
    """Each background task."""


class FeatureState(Message):
    """What the kernel, file system or engine allows."""

    name: str
    """What was tried."""
    present: bool
    """Whether it works here."""
    detail: str
    """What was seen, or what the kernel said."""
    needed_for: str
    """What HyperBox does with it."""
    remedy: str = ""
    """What to change where it is absent."""
    required: bool = False
    """Whether HyperBox can do nothing useful without it."""


class Doctor(Message):
    """Everything that `hyperbox doctor` found out."""

    data_path: Literal["composed", "vanilla"]
    """What this machine allows."""
    reason: str
    """Why this data path."""
    features: list[FeatureState]
    """Each thing that was tried."""


class Status(Message):
    """The daemon at a glance."""

    version: str
    """Version of the daemon."""
    pid: int
    """Its process ID."""
    started: datetime
    """When it started."""
    state: str
    """State folder."""
    run: str
    """Run folder."""
    data_path: Literal["composed", "vanilla"]
    """How layers become containers' trees on this machine."""
    health: Health
    """Health of its parts."""
    snapshots: int
    """Snapshots of the engine, of all kinds."""
    layers: int
    """Layers in the store."""
    objects: int
    """Unique files that layers name."""
    object_bytes: int
    """Bytes that unique files take."""
    referenced_bytes: int
    """Bytes that layers would take without sharing."""
    compactions_pending: int
    """Background jobs on layers that wait or run."""
    resident_bytes: int
    """Memory of the daemon."""


class Configuration(Message):
    """The settings in force."""

    source: str
    """The file that was read, or `defaults`."""
    settings: dict[str, dict[str, Any]]
    """By section and key."""
    changed: list[str]
    """The `section.key` that differ from their defaults."""


class ImageRow(Message):
    """One image in a list."""

    image: str
    """Reference, as the engine knows it."""
    manifest_digest: str
    """Digest of the manifest for this platform."""
    platform: str
    """As `linux/amd64`."""
    layers: int
    """How many layers it has."""
    composed: int
    """Layers that are served from shared objects."""
    size: int
    """Bytes of all its files."""
    unique: int
    """Bytes of its files that no other image has."""
    last_used: datetime | None = None
    """When HyperBox last pulled it; null where it never did."""


class ImageList(Message):
    """All images that HyperBox serves."""

    images: list[ImageRow]
    """Sorted by reference."""


class ImageRequest(Message):
    """Names one image."""

    image: str = Field(min_length=1, max_length=4096)
    """Reference or manifest digest; familiar short forms are understood."""


class ImageLayer(Message):
    """How one layer of an image is kept and how it came here."""

    index: int
    """Position from the bottom, from 0."""
    digest: str
    """Digest of the compressed blob, empty where unknown."""
    diff_id: str
    """Digest of the uncompressed layer."""
    chain_id: str
    """Digest of this layer with all below it, by which the engine names snapshots."""
    layer: str
    """Identity in the store; empty for a plain folder."""
    form: Literal["composed", "folder", "absent"]
    """`composed`: shared objects; `folder`: unpacked by the engine; `absent`: not on this node."""
    source: str
    """Who provided it: `pull` (HyperBox), `compacted` (the engine, then compaction), `engine`."""
    reason: str
    """Why it is not `composed` by `pull`, in words with the error's code; empty where it is."""
    size: int = 0
    """Bytes of its files."""
    bytes_fetched: int = 0
    """Bytes that came over the network."""
    bytes_deduped: int = 0
    """Bytes of files that were here before."""
    seconds: float = 0.0
    """Time from its request until it was in."""


class ImageDetail(Message):
    """One image, layer by layer."""

    image: str
    """Reference, as the engine knows it."""
    manifest_digest: str
    """Digest of the manifest for this platform."""
    platform: str
    """As `linux/amd64`."""
    size: int
    """Bytes of all its files."""
    unique: int
    """Bytes of its files that no other image has."""
    layers: list[ImageLayer]
    """Bottom layer first."""


class PullRequest(Message):
    """Names an image to fetch ahead of the engine."""

    image: str = Field(min_length=1, max_length=4096)
    """Reference; familiar short forms are understood."""


class LayerRow(Message):
    """One layer in the store."""

    layer: str
    """Identity: sha256 of its metadata image."""
    diff_id: str
    """Digest of the uncompressed layer; empty where it is not known."""
    source: str
    """`pull`, `compacted` or `rebuilt`."""
    entries: int
    """Files, folders and links."""
    size: int
    """Bytes of its files."""
    metadata_bytes: int
    """Bytes of its metadata image."""
    snapshots: int
    """Snapshots that use it."""
    created: datetime
    """When it came."""


class LayerList(Message):
    """All layers in the store."""

    layers: list[LayerRow]
    """In the order in which they came."""


class LayerRequest(Message):
    """Names one layer."""

    layer: str = Field(min_length=4, max_length=256)
    """Identity, diff ID, or a prefix of one that fits only one layer."""
    files: bool = False
    """Whether to list the layer's entries."""


class LayerFile(Message):
    """One entry of a layer."""

    path: str
    """Absolute path in the layer."""
    kind: str
    """`file`, `directory`, `symlink`, `whiteout`, …"""
    mode: str
    """Octal permission bits."""
    uid: int
    """Owner."""
    gid: int
    """Group."""
    size: int
    """Bytes of a file's content."""
    object: str = ""
    """Digest of the content where it is a shared object."""


class LayerDetail(LayerRow):
    """One layer with where it is used and, on request, what is in it."""

    image: str = ""
    """Image it was fetched for."""
    blob_digest: str = ""
    """Digest of the compressed blob; empty where it came from no registry."""
    mount: str = ""
    """Where its metadata image is mounted, if it is."""
    used_by: list[str] = Field(default_factory=list)
    """Keys of the snapshots that use it."""
    unique: int = 0
    """Bytes of its files that no other layer has."""
    files: list[LayerFile] = Field(default_factory=list)
    """What is in it, by path, when it was asked for."""


class StoreStats(Message):
    """What the store holds and what sharing saves."""

    objects: int
    """Unique files that layers name."""
    object_bytes: int
    """Apparent size of all objects."""
    allocated_bytes: int
    """What they take on the disk."""
    layers: int
    """Layers in the store."""
    metadata_bytes: int
    """Bytes of the layers' metadata images and object lists."""
    referenced_bytes: int
    """Sum of the files of all layers, each counted in every layer it is in."""
    saved_bytes: int
    """`referenced_bytes` less `object_bytes`, not below 0."""
    sharing: float
    """`referenced_bytes` over `object_bytes`; 1.0 with nothing shared."""
    quarantined: int
    """Damaged files that were moved aside."""
    free_bytes: int
    """Free space of the file system."""


class VerifyRequest(Message):
    """What `store verify` should do with what it finds."""

    repair: bool = False
    """Move damaged objects aside and fetch their layers again."""


class Damage(Message):
    """One thing that is not as it should be."""

    kind: str
    """`damaged-object`, `missing-object`, `damaged-layer`, …"""
    name: str
    """Digest or identity."""
    detail: str
    """Which layers need it, or what is wrong."""
    repaired: bool = False
    """Whether it was fetched again."""


class VerifyResult(Message):
    """Outcome of `store verify`."""

    objects: int
    """Objects that were hashed."""
    layers: int
    """Layers that were checked."""
    bytes: int
    """Bytes that were hashed."""
    seconds: float
    """Time that it took."""
    damage: list[Damage]
    """Empty when all is well."""
    unreferenced: int
    """Objects that nothing refers to: not damage, the next collection takes them."""


class GcRequest(Message):
    """What `store gc` may take."""

    dry_run: bool = False
    """Say what would go, take nothing."""
    grace_seconds: float | None = Field(default=None, ge=0)
    """Age under which an unreferenced layer stays; the configuration's value by default."""


class GcItem(Message):
    """One layer that was collected, with the reason."""

    name: str
    """Identity of the layer."""
    reason: str
    """Why it could go."""
    bytes: int
    """Bytes of its metadata image."""


class GcResult(Message):
    """Outcome of `store gc`."""

    dry_run: bool
    """Whether nothing was really taken."""
    layers: list[GcItem]
    """Layers that went."""
    objects: int
    """Objects collected."""
    bytes: int
    """Bytes freed on the disk."""
    seconds: float
    """Time that it took."""


class EventRow(Message):
    """One event."""

    time: datetime
    """When it happened."""
    name: str
    """As declared in `hyperbox.api.events`."""
    data: dict[str, Any]
    """The event's declared fields."""


class EventsRequest(Message):
    """Which events to list."""

    limit: int = Field(default=100, ge=1, le=10_000)
    """Most events to list, the latest."""
    name: str = ""
    """Only events of this name; empty for all."""


class EventList(Message):
    """Events, oldest first."""

    events: list[EventRow]
    """Oldest first."""
