"""Events that the daemon records and logs, declared once with their fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Event:
    """One kind of event: its name, severity and fields."""

    name: str
    severity: Literal["info", "warning", "error"]
    description: str
    fields: tuple[tuple[str, str], ...] = ()
    """Name and meaning of each field."""
    since: str = "0.1"


DAEMON_STARTED = Event(
    "daemon.started",
    "info",
    "The daemon serves calls.",
    (("version", "its version"), ("data_path", "`composed` or `vanilla`"), ("seconds", "time that the start took")),
)
DAEMON_DEGRADED = Event(
    "daemon.degraded", "error", "A background task ended unexpectedly.", (("task", "its name"), ("reason", "why"))
)
RECOVERED = Event(
    "store.recovered",
    "warning",
    "After a power loss young objects were hashed again, or objects that layers need are not here.",
    (
        ("reason", "how the last daemon ended"),
        ("checked", "objects hashed"),
        ("quarantined", "objects moved aside"),
        ("missing", "objects that layers need and that are fetched again"),
    ),
)
LAYER_PROVIDED = Event(
    "layer.provided",
    "info",
    "A layer was fetched for an engine's pull.",
    (("image", "reference"), ("layer", "identity"), ("bytes", "bytes fetched"), ("seconds", "time it took")),
)
LAYER_DECLINED = Event(
    "layer.declined",
    "warning",
    "A layer was left to the engine.",
    (("image", "reference"), ("chain_id", "the layer's chain ID"), ("code", "error code"), ("reason", "in words")),
)
BLOB_NOT_KEPT = Event(
    "layer.blob-not-kept",
    "warning",
    "`images.keep_blobs` is on, and the engine did not get a layer's compressed blob: it cannot be pushed or saved.",
    (("image", "reference"), ("layer", "digest of the blob"), ("code", "error code"), ("reason", "in words")),
)
LAYER_COMPACTED = Event(
    "layer.compacted",
    "info",
    "A layer that the engine unpacked became shared objects.",
    (("snapshot", "its key"), ("layer", "identity"), ("shared", "bytes that were here before"), ("seconds", "time")),
)
COMPACTION_FAILED = Event(
    "layer.compaction-failed",
    "warning",
    "A layer stays a plain folder.",
    (("snapshot", "its key"), ("code", "error code"), ("reason", "in words")),
)
OBJECT_QUARANTINED = Event(
    "object.quarantined",
    "error",
    "An object did not match its digest and was moved aside.",
    (("object", "digest"),),
)
GC_DONE = Event(
    "store.collected",
    "info",
    "A collection freed something.",
    (("layers", "layers taken"), ("objects", "objects taken"), ("bytes", "bytes freed")),
)

EVENTS = (
    DAEMON_STARTED,
    DAEMON_DEGRADED,
    RECOVERED,
    LAYER_PROVIDED,
    LAYER_DECLINED,
    BLOB_NOT_KEPT,
    LAYER_COMPACTED,
    COMPACTION_FAILED,
    OBJECT_QUARANTINED,
    GC_DONE,
)
"""All of them, in the order of the reference."""
