"""The store of one state folder: objects, layers and catalogue, opened and closed together."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from hyperbox import linux
from hyperbox.api.errors.store import CatalogueLost, StoreFull, StoreUnusable
from hyperbox.store import collection, rebuilding, recovery, scrub, statistics
from hyperbox.store.catalogue import Catalogue
from hyperbox.store.layers import LayerStore
from hyperbox.store.objects import ObjectStore
from hyperbox.store.reserve import Reserve
from hyperbox.store.statelock import StateLock

CATALOGUE_NAME: Final = "catalogue.sqlite"


class Store:
    """Everything that HyperBox keeps. Made by `Store.open`; a context manager that closes it.

    Safe to use from any number of threads.
    """

    def __init__(self, state: Path, lock: StateLock, catalogue: Catalogue, boot: str, workers: int) -> None:
        self.state: Final = state
        self.catalogue: Final = catalogue
        self.objects: Final = ObjectStore(state, self._notice_clock)
        self._checkpoint_ns = int(catalogue.meta.get("checkpoint") or 0)
        self.layers: Final = LayerStore(state, self.objects, catalogue)
        self.recovered: recovery.Recovery = recovery.Recovery(reason="new")
        self.reserve: Final = Reserve(state)
        self._lock: Final = lock
        self._boot: Final = boot
        self._workers: Final = workers
        self._maintenance: Final = threading.Lock()
        self._checkpointing: Final = threading.Lock()
        self._statistics: Final = statistics.Counter(self.layers)
        self._closed = False
        self._dirty = False

    @classmethod
    def open(
        cls, state: Path, *, rebuild: bool = False, boot_id: str | None = None, workers: int | None = None
    ) -> Self:
        """Make or open the store: takes the lock, migrates the catalogue, recovers after an unclean stop.

        What recovery found is in `recovered`. `rebuild` makes a new catalogue when the old one is damaged or lost.
        `boot_id` stands for the kernel's (a test plays a reboot with it); `workers` is the number of hashing threads.

        Raises `StoreLocked`, `StoreUnusable`, `StoreFull`, `CatalogueDamaged`, `CatalogueLost`, `CatalogueNewer`.
        """
        _make_state_folder(state)
        lock = StateLock(state)
        try:
            path = state / CATALOGUE_NAME
            lost = not path.exists() and _holds_something(state)
            if lost and not rebuild:
                raise CatalogueLost(path=path)
            with contextlib.ExitStack() as undo:
                catalogue, renewed = rebuilding.open_catalogue(path, state / "quarantine", rebuild=rebuild)
                undo.callback(catalogue.close)
                boot = linux.boot_id() if boot_id is None else boot_id
                store = cls(state, lock, catalogue, boot, workers or os.cpu_count() or 1)
                store._start(lost=lost or renewed)
                undo.pop_all()
                return store
        except BaseException:
            lock.release()
            raise

    def _start(self, *, lost: bool) -> None:
        leftovers = self.objects.clear_ingest()
        reason = recovery.stop_reason(self.catalogue, self._boot)
        if lost:
            rebuilding.set_snapshots_aside(self.state)
            rebuilding.rebuild_layers(self.layers, self.catalogue)
            reason = "power loss"  # nothing is known of the last stop, so everything counts as young
        if reason == "power loss":
            since = int(self.catalogue.meta.get("checkpoint") or 0)
            found = recovery.check_young(self.objects, self.layers, since_ns=since, workers=self._workers)
        else:
            suspects = json.loads(self.catalogue.meta.get("incomplete") or "[]")
            found = recovery.check_known(self.objects, self.layers, suspects)
        self.recovered = replace(found, reason=reason, leftovers=leftovers)
        # Losses are told again at each start until they are made good, also when this process dies before it could.
        self.catalogue.meta.set(incomplete=json.dumps(sorted(found.incomplete_layers)))
        # The check is repeated until its outcome is on disk: only then does this boot's id stand in the catalogue.
        if reason in ("new", "power loss"):
            self.checkpoint()
        self.catalogue.meta.set(state="open", boot_id=self._boot)
        self.reserve.fill()

    # --- use

    @property
    def dirty(self) -> bool:
        """Whether something may have been written since the last checkpoint."""
        return self._dirty

    def _notice_clock(self) -> None:
        self._dirty = True
        # A clock that was set back would make new files look older than the checkpoint (see `recovery`).
        now = time.time_ns()
        if now < self._checkpoint_ns:
            self._checkpoint_ns = now
            self.catalogue.meta.set(checkpoint=now)

    def checkpoint(self) -> int:
        """Put everything that was written before this call on disk (syncfs) and note it; returns the generation.

        Call it after a pull and every few minutes while objects arrive: it bounds what a power loss makes doubtful.
        It blocks for as long as the disk takes. Raises `KernelCallFailed` when the disk reported lost writes.
        """
        with self._checkpointing:
            now = time.time_ns()
            self._dirty = bool(self.objects.leases())  # who holds a lease may write at any moment
            linux.syncfs(self.state)
            self.reserve.fill()
            generation = int(self.catalogue.meta.get("generation") or 0) + 1
            self.catalogue.meta.set(checkpoint=now, generation=generation)
            self._checkpoint_ns = now
            return generation

    def verify(
        self,
        *,
        progress: Callable[[scrub.Progress], None] | None = None,
        repair: Callable[[Collection[bytes]], Collection[bytes]] | None = None,
    ) -> scrub.Verification:
        """Hash everything and compare; move damaged objects aside and have them fetched again (see `scrub`)."""
        with self._maintenance:
            return scrub.verify(self.objects, self.layers, workers=self._workers, progress=progress, repair=repair)

    def gc(
        self, *, dry_run: bool = False, grace: float = collection.GRACE, keep_layers: Collection[str] = ()
    ) -> collection.Collected:
        """Delete what nothing refers to (see `collection`). `grace` is in seconds."""

        def collect() -> collection.Collected:
            return collection.collect(
                self.objects, self.layers, self.catalogue, dry_run=dry_run, grace=grace, keep_layers=keep_layers
            )

        with self._maintenance:
            try:
                return collect()
            except StoreFull:
                if not self.reserve.release():
                    raise
                return collect()

    def stats(self, *, walk: bool = False) -> statistics.StoreStats:
        """Counts and sizes from the object lists; with `walk`, also what the folders really hold."""
        return self._statistics.stats(self.objects, self.catalogue, walk=walk)

    # --- end

    def close(self) -> None:
        """Sync, leave the clean-stop marker, close and unlock; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self.checkpoint()
            self.catalogue.meta.set(state="clean")
        finally:
            self.catalogue.close()
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _make_state_folder(state: Path) -> None:
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = state.stat()
        if info.st_uid != os.geteuid():
            raise StoreUnusable(state=state, reason=f"it belongs to user {info.st_uid}")
        if info.st_mode & 0o077:
            state.chmod(0o700)
        (state / "quarantine").mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StoreUnusable(state=state, reason=error.strerror or error) from error


def _holds_something(state: Path) -> bool:
    for name in ("layers", "snapshots"):
        with contextlib.suppress(FileNotFoundError):
            if any((state / name).iterdir()):
                return True
    return False
