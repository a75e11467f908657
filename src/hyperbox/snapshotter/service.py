"""The snapshotter: the state machine's decisions made true in folders, mounts and catalogue rows.

Order of effects, so that SIGKILL at any instant leaves nothing wrong: a folder is made inside the transaction that adds
its row (a folder without row is swept at the next start) and removed after the transaction that takes the row away.
Mounts are never state: they are made when somebody asks for them.

One lock guards decide → persist → apply. It is never held while something is mounted, measured, deleted or fetched.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from hyperbox.api.errors.base import HyperBoxError
from hyperbox.api.errors.snapshotter import LayerAlreadyHere, SnapshotDamaged, SnapshotNotFound
from hyperbox.api.errors.store import LayerDamaged, LayerNotFound, StoreFull
from hyperbox.snapshotter.assembled import AssembledMounts
from hyperbox.snapshotter.compaction import Compactor
from hyperbox.snapshotter.folders import Folders, disk_usage
from hyperbox.snapshotter.idmap import id_mapping
from hyperbox.snapshotter.keeping import FolderKeeping
from hyperbox.snapshotter.layers import LayerMounts
from hyperbox.snapshotter.linking import FolderLinking
from hyperbox.snapshotter.machine import Change, Machine
from hyperbox.snapshotter.model import LABEL_TARGET, Kind, Mount, Snapshot, Usage
from hyperbox.snapshotter.observer import Observer, Silent
from hyperbox.snapshotter.options import COMPOSED_OPTIONS, Lower, Overlay, bind_mount, changes_options, compose
from hyperbox.snapshotter.remote import LayerProvider, RemoteLayers, layer_request
from hyperbox.snapshotter.rows import load_snapshots, write_change
from hyperbox.snapshotter.worker import Worker
from hyperbox.store import Store

DataPath = Literal["composed", "vanilla"]


class Snapshotter:
    """containerd's snapshot service on one store. Thread-safe; `close` unmounts everything."""

    def __init__(
        self,
        store: Store,
        run: Path,
        *,
        data_path: DataPath = "composed",
        provider: LayerProvider | None = None,
        remote_timeout: float = 600.0,
        compaction: bool = True,
        compaction_minimum: int = 1,
        compaction_delay: float = 0.0,
        observer: Observer | None = None,
    ) -> None:
        """Take up what is in the store.

        `provider` brings layers in itself (composed data path only); it is waited for `remote_timeout` seconds a layer.
        `compaction` is what happens to folders in the background: on the composed data path they become layers, on the
        vanilla one their equal files become hard links.
        `compaction_minimum` is the least number of bytes in shareable files that makes a folder worth compacting;
        `compaction_delay` seconds after its commit it begins, so that it does not compete with what the commit was for.
        """
        self._store: Final = store
        self._data_path: Final = data_path
        self._observer: Final = observer or Silent()
        # The engine mounts by these names, from a working directory of its own.
        state, run = Path(os.path.abspath(store.state)), Path(os.path.abspath(run))
        self._objects: Final = f"{state}/objects"
        self._lock: Final = threading.RLock()
        self._machine: Final = Machine(load_snapshots(store.catalogue))
        self._folders: Final = Folders(state)
        self._layers: Final = LayerMounts(run, store.layers)
        self._assembled: Final = AssembledMounts(run)
        self._worker: Final = Worker(self._observer)
        self._keeping: Final = FolderKeeping(self, self._worker)
        self._remote: Final = RemoteLayers(provider, remote_timeout) if provider and data_path == "composed" else None
        path = data_path if compaction else "as they are"
        self._compactor: Final = (
            Compactor(self, self._worker, minimum=compaction_minimum, delay=compaction_delay)
            if path == "composed"
            else None
        )
        self._linking: Final = FolderLinking(self, self._worker) if path == "vanilla" else None
        self._closed = False
        self._take_up()

    def _take_up(self) -> None:
        """Bring the folders and mounts in line with the rows, and go on with what a process before this one began."""
        self._layers.adopt()
        with self._lock:
            self._assembled.sweep({snapshot.id for snapshot in self._machine})
            for identity in self._folders.sweep(self._with_folder()):
                self._observer.fault("folder without snapshot removed", LookupError(identity))
        self._keeping.poke()
        if self._linking:
            self._linking.restore()
            self._linking.prune()
        if background := self._compactor or self._linking:
            for identity in sorted(s.id for s in self._machine if s.kind is Kind.COMMITTED and s.layer is None):
                background.enqueue(identity)

    # -- what containerd calls ---------------------------------------------------------------------------------------

    def prepare(
        self,
        key: str,
        parent: str = "",
        labels: Mapping[str, str] | None = None,
        *,
        wanted: Callable[[], bool] = lambda: True,
    ) -> list[Mount]:
        """Make an active snapshot, or provide the layer that the labels name and raise `LayerAlreadyHere`.

        May wait for a fetch while `wanted` says that somebody still waits for the answer.
        """
        labels = labels or {}
        extra: dict[str, Any] = {}
        target = labels.get(LABEL_TARGET)
        if target and self._data_path == "composed":
            reason = self._provide(key, parent, target, labels, wanted)
            if reason is not None:
                extra = {"declined": reason}
        return self._create(Kind.ACTIVE, key, parent, labels, extra)

    def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        """Make a read-only snapshot and return its mounts."""
        return self._create(Kind.VIEW, key, parent, labels or {}, {})

    def mounts(self, key: str) -> list[Mount]:
        """Return the mounts of an active snapshot or view; layers that are not mounted are mounted now."""
        with self._lock:
            snapshot = self._machine.mountable(key)
            chain = self._machine.chain(snapshot)
        return self._mounts(snapshot, chain)

    def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None, parent: str = "") -> None:
        """Turn an active snapshot into a committed one, and have its folder compacted in the background."""
        with self._lock:
            snapshot = self.persist(self._machine.commit(key, name, labels or {}, parent, now_ns=time.time_ns()))
        assert snapshot is not None
        self._assembled.remove(snapshot.id)
        if background := self._compactor or self._linking:
            background.enqueue(snapshot.id)
        self._keeping.poke()

    def remove(self, key: str) -> None:
        """Forget a snapshot and delete its folder; a layer that no other snapshot has is unmounted."""
        with self._lock:
            change = self._machine.remove(key)
            try:
                self.persist(change)
            except StoreFull:  # what frees space must not need any
                if not self._store.reserve.release():
                    raise
                self.persist(change)
        gone = change.before
        assert gone is not None
        self._assembled.remove(gone.id)
        try:
            self._folders.remove(gone.id)
        except OSError as error:  # the snapshot is gone all the same; the next start or Cleanup tries again
            self._observer.fault(f"removing the folder of {key}", error)
        if gone.layer is not None:
            self._layers.release(gone.layer, self._layer_in_use)
        self._keeping.poke()

    def stat(self, key: str) -> Snapshot:
        """Return a snapshot's record."""
        with self._lock:
            return self._machine.get(key)

    def update(self, name: str, labels: Mapping[str, str], paths: Sequence[str] = ()) -> Snapshot:
        """Change labels and return the new record."""
        with self._lock:
            snapshot = self.persist(self._machine.update(name, labels, paths, now_ns=time.time_ns()))
        assert snapshot is not None
        return snapshot

    def walk(self, filters: Sequence[str] = ()) -> list[Snapshot]:
        """Return the snapshots that any filter matches."""
        with self._lock:
            return self._machine.select(filters)

    def usage(self, key: str) -> Usage:
        """Return what a snapshot takes by itself.

        A folder is measured as `du` does. A layer counts its metadata and all objects that it names, also those that it
        shares with others: the sum over snapshots is what they would take without sharing. Views take nothing.
        """
        snapshot = self.stat(key)
        if snapshot.layer is not None:
            record = self._store.layers.get(snapshot.layer)
            return Usage(record.metadata_bytes + record.objects_bytes, record.entries)
        if snapshot.kind is Kind.VIEW:
            return Usage(0, 0)
        if snapshot.kind is Kind.COMMITTED and snapshot.usage is not None:
            return snapshot.usage
        try:
            usage = disk_usage(self._folders.fs(snapshot.id))
        except OSError as error:
            raise SnapshotDamaged(key=key, reason=error) from error
        if snapshot.kind is Kind.COMMITTED:
            with self._lock, contextlib.suppress(SnapshotNotFound):
                if self._machine.get(key) is snapshot:
                    self.persist(self._machine.amend(key, usage=usage))
        return usage

    def cleanup(self) -> None:
        """Delete what removed snapshots may have left behind."""
        with self._lock:
            orphans = self._folders.present() - self._with_folder()
        for identity in orphans:
            self._folders.remove(identity)
        self._keeping.poke()
        if self._linking:
            self._linking.prune()

    def pending(self) -> int:
        """Return how many pieces of background work wait or run."""
        return self._worker.pending()

    def settle(self, timeout: float) -> bool:
        """Wait until no background work is due; whether it came to that within `timeout` seconds."""
        return self._worker.drain(timeout)

    def pending_compactions(self) -> int:
        """Return how many jobs (compactions and removals of old folders) wait or run."""
        return self._worker.pending()

    def mounted_layers(self) -> frozenset[str]:
        """Return the ids of the layers that are mounted now: their objects may be opened at any moment."""
        return self._layers.mounted()

    def close(self) -> None:
        """End background work and unmount everything; a second call does nothing. Containers keep what they have."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._remote:
            self._remote.close()
        self._worker.close()
        self._assembled.clear()
        self._layers.close()

    # -- parts -------------------------------------------------------------------------------------------------------

    def _create(
        self, kind: Kind, key: str, parent: str, labels: Mapping[str, str], extra: Mapping[str, Any]
    ) -> list[Mount]:
        mapping = id_mapping(labels)
        owner = mapping.root if mapping else self._root_owner(key, parent)

        folder: list[int] = []

        def effect(made: Snapshot) -> None:
            folder.append(made.id)
            if kind is Kind.ACTIVE or not parent:
                self._folders.create(made.id, active=kind is Kind.ACTIVE, owner=owner)

        with self._lock:
            change = self._machine.create(kind, key, parent, labels, now_ns=time.time_ns(), extra=extra)
            try:
                snapshot = self.persist(change, effect)
            except BaseException:
                for identity in folder:  # the row could not be committed, and its number comes again
                    with contextlib.suppress(OSError):
                        self._folders.remove(identity)
                raise
            assert snapshot is not None
            chain = self._machine.chain(snapshot)
        try:
            return self._mounts(snapshot, chain)
        except BaseException:
            # The caller does not know the key now; leave nothing that blocks a second try.
            with contextlib.suppress(HyperBoxError):
                self.remove(key)
            raise

    def _root_owner(self, key: str, parent: str) -> tuple[int, int] | None:
        with self._lock:
            self._machine.check_create(key, parent)
            top = self._machine.get(parent) if parent else None
        if top is None:
            return None
        try:
            found = os.stat(self.lower(top).path)
        except FileNotFoundError as error:
            with self._lock:
                now = self._machine.get(parent)
            if now.layer == top.layer:
                raise SnapshotDamaged(key=parent, reason=error) from error
            found = os.stat(self.lower(now).path)  # compacted in between
        return found.st_uid, found.st_gid

    def _mounts(self, snapshot: Snapshot, chain: Sequence[Snapshot]) -> list[Mount]:
        active = snapshot.kind is Kind.ACTIVE
        lowers = [self.lower(layer) for layer in chain]
        own = self._folders.fs(snapshot.id)
        overlay = compose(
            lowers,
            objects=self._objects,
            upper=own if active else None,
            work=self._folders.work(snapshot.id) if active else None,
            mapping=id_mapping(snapshot.labels),
        )
        if overlay is None:
            return [bind_mount(lowers[0].path if lowers else own, readonly=not active)]
        if overlay.fits() and not (overlay.datas and changes_options(snapshot.name)):
            return [(overlay.for_unpacking() if snapshot.unpacking else overlay).as_mount()]
        return [bind_mount(self._assembled.ensure(snapshot.id, overlay), readonly=not active)]

    def lower(self, snapshot: Snapshot) -> Lower:
        """Return a committed snapshot as a lower directory, mounted if need be. Raises `SnapshotDamaged`."""
        if snapshot.layer is None:
            return Lower(self._folders.fs(snapshot.id), composed=False)
        try:
            return self._layers.ensure(snapshot.layer)
        except (LayerDamaged, LayerNotFound) as error:
            raise SnapshotDamaged(key=snapshot.name, reason=error.message) from error

    @contextlib.contextmanager
    def merged(self, snapshot: Snapshot) -> Iterator[str]:
        """Have a folder mounted read-only over the layers below it, as its containers see it."""
        with self._lock:
            chain = self._machine.chain(snapshot)
        lowers = (self._folders.fs(snapshot.id), *(self.lower(layer).path for layer in chain))
        with self._assembled.temporary(Overlay(lowers, (self._objects,), None, None, COMPOSED_OPTIONS)) as point:
            yield point

    def _provide(
        self, key: str, parent: str, target: str, labels: Mapping[str, str], wanted: Callable[[], bool]
    ) -> dict[str, str] | None:
        """Raise `LayerAlreadyHere` if the layer is or comes in; return why not, or None where nobody can provide it."""
        with self._lock:
            self._machine.check_create(key, parent)
            here = self._machine.target(target, parent) is not None
            chain = [self._machine.get(parent), *self._machine.chain(self._machine.get(parent))] if parent else []
        request = layer_request(key, target, labels, chain)
        reason = None
        if self._remote and request:
            if not here:
                reason = self._remote.fetch(
                    request, wanted, self._observer, lambda layer: self._adopt(key, parent, labels, layer)
                )
            if reason is None:
                self._remote.here(request, self._observer)
                here = True
        if here:
            raise LayerAlreadyHere(target=target)
        return reason

    def _adopt(self, key: str, parent: str, labels: Mapping[str, str], layer: str) -> None:
        """Commit a layer that is in the store as what a Prepare asked for. Several may come for the same one."""
        target = labels[LABEL_TARGET]
        with self._lock:
            if self._machine.target(target, parent) is not None:
                return
            namespace, slash, rest = key.partition("/")
            sequence = rest.partition("/")[0]
            name = f"{namespace}/{sequence}/{target}" if slash and "/" in rest else target
            if name in self._machine:
                name = f"{name}@{time.time_ns()}"
            self.persist(self._machine.create_layer(name, parent, labels, layer, now_ns=time.time_ns()))

    def _layer_in_use(self, layer: str) -> bool:
        with self._lock:
            return any(snapshot.layer == layer for snapshot in self._machine)

    def _with_folder(self) -> set[int]:
        return {s.id for s in self._machine if s.layer is None or "folder" in s.extra}

    # -- for the snapshotter's own background work -------------------------------------------------------------------

    @property
    def store(self) -> Store:
        """The store underneath."""
        return self._store

    @property
    def observer(self) -> Observer:
        """Who is told."""
        return self._observer

    @property
    def folders(self) -> Folders:
        """The snapshot folders."""
        return self._folders

    @property
    def machine(self) -> Machine:
        """The state; use it with `lock` held."""
        return self._machine

    @property
    def lock(self) -> threading.RLock:
        """Held for decide → persist → apply."""
        return self._lock

    @property
    def worker(self) -> Worker:
        """The background thread."""
        return self._worker

    @property
    def keeping(self) -> FolderKeeping:
        """Who sees to folders that were compacted."""
        return self._keeping

    def persist(self, change: Change, effect: Callable[[Snapshot], None] | None = None) -> Snapshot | None:
        """Write a decided change, with an effect that must come with it, then make it part of the state."""
        with self._store.catalogue.transaction():
            after = write_change(self._store.catalogue, change)
            if effect is not None and after is not None:
                effect(after)
        self._machine.apply(Change(change.before, after))
        return after
