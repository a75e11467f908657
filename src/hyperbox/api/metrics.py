"""Metrics that the daemon serves at `/metrics`, declared once with unit and meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Metric:
    """One Prometheus metric."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    labels: tuple[str, ...] = ()
    unit: str = ""
    buckets: tuple[float, ...] = ()
    since: str = "0.1"


_FAST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)
_SLOW = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

SNAPSHOT_CALLS = Metric(
    "hyperbox_snapshot_calls_total", "counter", "Calls of the engine, by method and gRPC status.", ("method", "status")
)
SNAPSHOT_SECONDS = Metric(
    "hyperbox_snapshot_call_seconds",
    "histogram",
    "Time that calls of the engine took; Prepare of a remote layer includes its fetch.",
    ("method",),
    "seconds",
    _FAST,
)
LAYERS_PROVIDED = Metric(
    "hyperbox_layers_provided_total", "counter", "Layers that HyperBox fetched for an engine's pull."
)
LAYERS_DECLINED = Metric(
    "hyperbox_layers_declined_total", "counter", "Layers left to the engine, by error code.", ("code",)
)
LAYER_SECONDS = Metric(
    "hyperbox_layer_fetch_seconds", "histogram", "Time from a layer's request until it was in.", (), "seconds", _SLOW
)
BYTES_FETCHED = Metric("hyperbox_fetched_bytes_total", "counter", "Bytes that came from registries.", (), "bytes")
BYTES_DEDUPED = Metric(
    "hyperbox_deduplicated_bytes_total", "counter", "Bytes of files that were here before.", (), "bytes"
)
COMPACTIONS = Metric(
    "hyperbox_compactions_total",
    "counter",
    "Layers turned into shared objects, by outcome.",
    ("outcome",),
)
OBJECTS = Metric("hyperbox_objects", "gauge", "Unique files in the store.")
OBJECT_BYTES = Metric("hyperbox_object_bytes", "gauge", "Bytes of unique files.", (), "bytes")
REFERENCED_BYTES = Metric(
    "hyperbox_referenced_bytes",
    "gauge",
    "Bytes of all layers' files, shared ones each time.",
    (),
    "bytes",
)
LAYERS = Metric("hyperbox_layers", "gauge", "Layers in the store.")
SNAPSHOTS = Metric("hyperbox_snapshots", "gauge", "Snapshots of the engine.", ("kind",))
TASKS_FAILED = Metric("hyperbox_tasks_failed", "gauge", "Background tasks that failed; over 0 means degraded.")
RESIDENT_BYTES = Metric("hyperbox_resident_bytes", "gauge", "Memory of the daemon.", (), "bytes")

METRICS = (
    SNAPSHOT_CALLS,
    SNAPSHOT_SECONDS,
    LAYERS_PROVIDED,
    LAYERS_DECLINED,
    LAYER_SECONDS,
    BYTES_FETCHED,
    BYTES_DEDUPED,
    COMPACTIONS,
    OBJECTS,
    OBJECT_BYTES,
    REFERENCED_BYTES,
    LAYERS,
    SNAPSHOTS,
    TASKS_FAILED,
    RESIDENT_BYTES,
)
"""All of them, in the order of the reference."""
