"""containerd's view of HyperBox: the snapshot service as a state machine, its effects, and its gRPC face."""

from __future__ import annotations

from hyperbox.snapshotter.model import Kind, Mount, Snapshot, Usage
from hyperbox.snapshotter.observer import Observer
from hyperbox.snapshotter.remote import BelowLayer, LayerProvider, LayerRequest
from hyperbox.snapshotter.server import SnapshotterServer
from hyperbox.snapshotter.service import DataPath, Snapshotter

__all__ = [
    "BelowLayer",
    "DataPath",
    "Kind",
    "LayerProvider",
    "LayerRequest",
    "Mount",
    "Observer",
    "Snapshot",
    "Snapshotter",
    "SnapshotterServer",
    "Usage",
]
