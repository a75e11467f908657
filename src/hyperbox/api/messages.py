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
    state: Literal["running", "idle", "failed", "stopped"]
    detail: str = ""
    """Why it failed, or what it does."""


class Health(Message):
    """Whether the daemon can do its work."""

    status: Literal["ok", "degraded"]
    """`degraded` when a background task failed: containers still run, something else waits."""
    ready: bool
    """Whether the snapshotter socket serves calls."""
    tasks: list[TaskState]


class FeatureState(Message):
    """What the kernel, file system or engine allows."""

    name: str
    present: bool
    detail: str
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
    features: list[FeatureState]


class Status(Message):
    """The daemon at a glance."""

    version: str
    pid: int
    started: datetime
    state: str
    """State folder."""
    run: str
    """Run folder."""
    data_path: Literal["composed", "vanilla"]
    health: Health
    snapshots: int
    layers: int
    objects: int
    object_bytes: int
    """Bytes that unique files take."""
    referenced_bytes: int
    """Bytes that layers would take without sharing."""
    compactions_pending: int
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
    platform: str
    layers: int
    composed: int
    """Layers that are served from shared objects."""
    size: int
    """Bytes of all its files."""
    unique: int
    """Bytes of its files that no other image has."""
    last_used: datetime | None = None


class ImageList(Message):
    """All images that HyperBox serves."""

    images: list[ImageRow]


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
    chain_id: str
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
    manifest_digest: str
    platform: str
    size: int
    unique: int
    layers: list[ImageLayer]


class PullRequest(Message):
    """Names an image to fetch ahead of the engine."""

    image: str = Field(min_length=1, max_length=4096)
    """Reference; familiar short forms are understood."""


class LayerRow(Message):
    """One layer in the store."""

    layer: str
    """Identity: sha256 of its metadata image."""
    diff_id: str
    source: str
    entries: int
    """Files, folders and links."""
    size: int
    """Bytes of its files."""
    metadata_bytes: int
    """Bytes of its metadata image."""
    snapshots: int
    """Snapshots that use it."""
    created: datetime


class LayerList(Message):
    """All layers in the store."""

    layers: list[LayerRow]


class LayerRequest(Message):
    """Names one layer."""

    layer: str = Field(min_length=4, max_length=256)
    """Identity, diff ID, or a prefix of one that fits only one layer."""
    files: bool = False
    """Whether to list the layer's entries."""


class LayerFile(Message):
    """One entry of a layer."""

    path: str
    kind: str
    mode: str
    """Octal permission bits."""
    uid: int
    gid: int
    size: int
    object: str = ""
    """Digest of the content where it is a shared object."""


class LayerDetail(LayerRow):
    """One layer with where it is used and, on request, what is in it."""

    image: str = ""
    """Image it was fetched for."""
    blob_digest: str = ""
    mount: str = ""
    """Where its metadata image is mounted, if it is."""
    used_by: list[str] = Field(default_factory=list)
    """Keys of the snapshots that use it."""
    unique: int = 0
    """Bytes of its files that no other layer has."""
    files: list[LayerFile] = Field(default_factory=list)


class StoreStats(Message):
    """What the store holds and what sharing saves."""

    objects: int
    object_bytes: int
    """Apparent size of all objects."""
    allocated_bytes: int
    """What they take on the disk."""
    layers: int
    metadata_bytes: int
    referenced_bytes: int
    """Sum of the files of all layers, each counted in every layer it is in."""
    saved_bytes: int
    """`referenced_bytes` less `object_bytes`, not below 0."""
    sharing: float
    """`referenced_bytes` over `object_bytes`; 1.0 with nothing shared."""
    quarantined: int
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
    repaired: bool = False


class VerifyResult(Message):
    """Outcome of `store verify`."""

    objects: int
    """Objects that were hashed."""
    layers: int
    bytes: int
    seconds: float
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
    reason: str
    bytes: int


class GcResult(Message):
    """Outcome of `store gc`."""

    dry_run: bool
    layers: list[GcItem]
    objects: int
    """Objects collected."""
    bytes: int
    """Bytes freed on the disk."""
    seconds: float


class EventRow(Message):
    """One event."""

    time: datetime
    name: str
    """As declared in `hyperbox.api.events`."""
    data: dict[str, Any]


class EventsRequest(Message):
    """Which events to list."""

    limit: int = Field(default=100, ge=1, le=10_000)
    name: str = ""
    """Only events of this name; empty for all."""


class EventList(Message):
    """Events, oldest first."""

    events: list[EventRow]
