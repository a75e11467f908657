"""The store: objects by content, layers' metadata files, the catalogue, durability, verify and garbage collection.

Errors are in `hyperbox.api.errors.store`. Units: bytes, and nanoseconds since the epoch, unless a name says otherwise.
"""

from hyperbox.store.catalogue import Catalogue
from hyperbox.store.collection import Collected
from hyperbox.store.layers import LayerStore
from hyperbox.store.leases import Lease, ObjectWriter
from hyperbox.store.objects import ObjectStore
from hyperbox.store.recovery import Recovery
from hyperbox.store.rows import Event, ImageLayer, ImageRow, LayerRecord, SnapshotRow
from hyperbox.store.scrub import Progress, Verification
from hyperbox.store.statistics import StoreStats, Walked
from hyperbox.store.store import Store

__all__ = [
    "Catalogue",
    "Collected",
    "Event",
    "ImageLayer",
    "ImageRow",
    "LayerRecord",
    "LayerStore",
    "Lease",
    "ObjectStore",
    "ObjectWriter",
    "Progress",
    "Recovery",
    "SnapshotRow",
    "Store",
    "StoreStats",
    "Verification",
    "Walked",
]
