"""Compaction: a layer that the engine unpacked as a folder becomes an EROFS image and objects.

Steps, each of which a SIGKILL may follow: the folder is read and its files go into the object store under a lease; the
EROFS image is added durably; the snapshot's row changes from folder to layer in one transaction, which also writes down
who may still use the folder; when nobody does, the folder goes. Before the row changes, nothing refers to what was
added, and garbage collection takes it; after it, new mounts use the image.

A layer that cannot be compacted stays the folder that it is, with the reason in its row, and is not tried again before
the next start.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from hyperbox.api.errors.base import HyperBoxError
from hyperbox.api.errors.snapshotter import CompactionFailed
from hyperbox.api.events import COMPACTION_FAILED, LAYER_COMPACTED
from hyperbox.images import erofs
from hyperbox.images.ingest import date_root
from hyperbox.images.walk import FolderContent, needs_merged_view, walk_folder
from hyperbox.linux import mountinfo
from hyperbox.snapshotter.keeping import names_folder
from hyperbox.snapshotter.model import LABEL_TARGET, Kind, Snapshot
from hyperbox.snapshotter.worker import Worker
from hyperbox.store import Lease

if TYPE_CHECKING:
    from hyperbox.snapshotter.service import Snapshotter

FAILED: Final = "compaction_failed"
"""Member of `Snapshot.extra`: why a layer is still a folder."""

_AGAIN: Final = 30.0
"""Seconds until a folder that is still mounted for writing is looked at again."""


class Compactor:
    """Turns committed folders into layers, one at a time, in the background."""

    def __init__(self, service: Snapshotter, worker: Worker, *, minimum: int, delay: float) -> None:
        self._service = service
        self._worker = worker
        self._minimum = minimum
        self._delay = delay

    def enqueue(self, identity: int) -> None:
        """Have the committed snapshot of this id compacted when its turn comes."""
        self._worker.submit(f"compact {identity}", lambda: self._attempt(identity), delay=self._delay)

    def _attempt(self, identity: int) -> None:
        snapshot = self._candidate(identity)
        if snapshot is None:
            return
        try:
            self._compact(snapshot)
        except HyperBoxError as error:
            self._keep(snapshot, error.code, error.message)
        except Exception as error:  # noqa: BLE001 - the layer works as it is; the reason is kept
            self._service.observer.fault(f"compaction of {snapshot.name}", error)
            self._keep(snapshot, CompactionFailed.code, f"{type(error).__name__}: {error}")

    def _candidate(self, identity: int) -> Snapshot | None:
        with self._service.lock:
            snapshot = self._service.machine.by_id(identity)
        if snapshot is None or snapshot.kind is not Kind.COMMITTED or snapshot.layer is not None:
            return None
        return snapshot

    def _compact(self, snapshot: Snapshot) -> None:
        service, began = self._service, time.monotonic()
        # Its files become objects by hard link, so nobody may be able to write them any more.
        if names_folder(mountinfo(), str(service.folders.root), snapshot.id, writable=True):
            self._worker.submit(f"compact {snapshot.id}", lambda: self._attempt(snapshot.id), delay=_AGAIN)
            return
        with service.store.objects.lease(f"compaction of snapshot {snapshot.id}") as lease:
            content = self._read(snapshot, lease)
            if content.new_bytes + content.known_bytes < self._minimum:
                return
            date_root(content.tree)
            record = service.store.layers.add(
                erofs.build(content.tree),
                content.tree.objects(),
                entries=len(content.tree),
                size=content.new_bytes + content.known_bytes + content.inline_bytes,
                source="compacted",
                chain_id=snapshot.labels.get(LABEL_TARGET),
            )
            if not self._switch(snapshot.id, record.layer_id):
                return
        seconds = round(time.monotonic() - began, 3)
        service.observer.event(
            LAYER_COMPACTED, snapshot=snapshot.name, layer=record.layer_id, shared=content.known_bytes, seconds=seconds
        )
        service.keeping.poke()

    def _read(self, snapshot: Snapshot, lease: Lease) -> FolderContent:
        folder = self._service.folders.fs(snapshot.id)
        if not needs_merged_view(folder):
            return walk_folder(folder, lease)
        with self._service.merged(snapshot) as view:
            return walk_folder(folder, lease, merged=view)

    def _switch(self, identity: int, layer: str) -> bool:
        with self._service.lock:
            snapshot = self._candidate(identity)
            if snapshot is None:  # removed meanwhile
                return False
            extra = {**self._service.keeping.note(snapshot), FAILED: None}
            self._service.persist(self._service.machine.amend(snapshot.name, layer=layer, extra=extra))
        return True

    def _keep(self, snapshot: Snapshot, code: str, reason: str) -> None:
        with self._service.lock:
            now = self._candidate(snapshot.id)
            if now is None:
                return
            self._service.persist(self._service.machine.amend(now.name, extra={FAILED: f"{code}: {reason}"}))
        self._service.observer.event(COMPACTION_FAILED, snapshot=snapshot.name, code=code, reason=reason)
