"""The composition root: makes the parts, starts them in order, and stops them in the reverse one."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import signal
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import structlog
from fastapi import FastAPI

from hyperbox import __version__, linux
from hyperbox.api import events as e
from hyperbox.api import messages as m
from hyperbox.api import metrics as metric
from hyperbox.api.errors import HyperBoxError
from hyperbox.api.errors.linux import FeatureMissing
from hyperbox.api.settings import RegistrySettings, Settings
from hyperbox.daemon import pins
from hyperbox.daemon.blobs import BlobKeeper
from hyperbox.daemon.handlers import Operations, Parts
from hyperbox.daemon.http import HttpServer, make_app
from hyperbox.daemon.images import Images
from hyperbox.daemon.logs import configure_logs
from hyperbox.daemon.provider import Provider, Repair, missing_objects
from hyperbox.daemon.sockets import claimed, clear_socket, listen
from hyperbox.daemon.supervisor import Supervisor
from hyperbox.daemon.telemetry import Events, Metrics, Watcher
from hyperbox.engines.containerd import Containerd
from hyperbox.engines.content import ContentStore
from hyperbox.images import ImagePuller, PullProgress, RegistryClient, registry
from hyperbox.images.limits import LayerLimits
from hyperbox.snapshotter import Snapshotter, SnapshotterServer
from hyperbox.store import Store

log = structlog.get_logger("hyperbox.daemon")

_COMPACTION_DELAY = 3.0
"""Seconds from a commit: a container's start, or the next step of a build, is over by then."""


def run_daemon(settings: Settings, source: str, *, rebuild: bool = False) -> None:
    """Run until SIGTERM or SIGINT. `rebuild` makes a new catalogue where the old one is damaged or lost.

    Raises:
        HyperBoxError: The daemon cannot start: another one has the state folder or a socket, the kernel lacks what the
            configuration insists on, the catalogue is damaged, …
    """
    linux.keep_heap_small()
    configure_logs(settings.daemon)
    asyncio.run(_serve(settings, source, rebuild))


async def _serve(settings: Settings, source: str, rebuild: bool) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    daemon = Daemon(settings, source, rebuild=rebuild)
    try:
        async with contextlib.AsyncExitStack() as http_ends:
            daemon.start()
            api = settings.daemon.run / "api.sock"
            http = HttpServer(daemon.app(), listen(api, settings.daemon.api_group))
            http_ends.callback(api.unlink, missing_ok=True)
            await http.start()
            http_ends.push_async_callback(http.stop)
            daemon.serve()
            await ended.wait()
            linux.notify_systemd(stopping=True)
            log.info("stopping")
    finally:
        # Not on the event loop's own thread pool: an overdue part must not hold up the end of the process.
        daemon.close()


class Daemon:
    """All parts of a running daemon. `close` may be called at any time, also after a start that failed half-way."""

    def __init__(self, settings: Settings, source: str, *, rebuild: bool = False) -> None:
        self._settings = settings
        self._rebuild = rebuild
        self._source = source
        self._began = time.monotonic()
        self._started = datetime.now(UTC)
        self._ends = contextlib.ExitStack()
        self._ready = False
        self._metrics = Metrics()

    def start(self) -> None:
        """Open the store, take up what a daemon before this one left, and begin the background tasks."""
        daemon = self._settings.daemon
        # Others must be able to pass through to the control socket when a group may use it; not to read.
        daemon.run.mkdir(mode=0o711, parents=True, exist_ok=True)
        store = Store.open(daemon.state, rebuild=self._rebuild)
        self._ends.callback(store.close)
        # Before anything of a run folder is touched that may be another's, on another state folder.
        self._ends.enter_context(claimed(daemon.run))
        self._store = store
        self._events = Events(store.catalogue)
        self._report_recovery()
        self._data_path = self._choose_data_path()
        self._supervisor = Supervisor(lambda task, why: self._events.record(e.DAEMON_DEGRADED, task=task, reason=why))
        images, limits = self._settings.images, self._settings.snapshotter
        client = RegistryClient(_registry_settings(self._settings.registry))
        self._ends.callback(client.close)
        self._watcher = watcher = Watcher(self._events, self._metrics)
        self._puller = ImagePuller(
            store,
            client,
            workers=images.concurrent_layers,
            limits=LayerLimits(unpacked=images.max_layer_bytes, entries=images.max_layer_files),
            progress=self._progress,
        )
        self._ends.callback(self._puller.close)
        self._repair = Repair(store, client, self._puller)
        provider = Provider(store, self._puller, limits.remote_timeout_seconds, self._blob_keeper(client))
        self._snapshotter = Snapshotter(
            store,
            daemon.run,
            data_path=self._data_path,
            provider=provider if limits.remote_layers else None,
            remote_timeout=limits.remote_timeout_seconds,
            compaction=limits.compaction,
            compaction_delay=_COMPACTION_DELAY,
            observer=watcher,
        )
        self._ends.callback(self._snapshotter.close)
        self._start_tasks()

    def _blob_keeper(self, client: RegistryClient) -> BlobKeeper | None:
        if not self._settings.images.keep_blobs:
            return None
        keeper = BlobKeeper(ContentStore(self._settings.engine.containerd_address), client, self._watcher.event)
        self._ends.callback(keeper.close)
        return keeper

    def _start_tasks(self) -> None:
        settings, tasks = self._settings.store, self._supervisor
        self._ends.callback(functools.partial(tasks.stop, self._settings.daemon.shutdown_seconds))
        tasks.every("checkpoint", settings.checkpoint_seconds, self._checkpoint)
        missing = missing_objects(self._store)
        if missing:
            # Containers that need these objects would fail: fetch them again at once, and again until they are here.
            tasks.every("repair", 60.0, functools.partial(self._mend, missing))
            tasks.wake("repair")
        if settings.gc_interval_seconds:
            tasks.every(
                "collect", settings.gc_interval_seconds, lambda: self._collect(settings.gc_grace_seconds, False)
            )

    def serve(self) -> None:
        """Open the snapshotter socket, last of all, and say that the daemon is ready."""
        daemon = self._settings.daemon
        socket = daemon.run / "snapshotter.sock"
        clear_socket(socket)
        server = SnapshotterServer(self._snapshotter, socket, mode=0o600)
        server.start()
        self._ends.callback(functools.partial(server.stop, grace=daemon.shutdown_seconds / 2))
        self._ready = True
        seconds = round(time.monotonic() - self._began, 3)
        self._events.record(e.DAEMON_STARTED, version=__version__, data_path=self._data_path, seconds=seconds)
        linux.notify_systemd(ready=True, status=f"serving containers, {self._data_path} data path")
        # What the imports made lives as long as the process: collections need not look at it again and again.
        gc.collect()
        gc.freeze()

    def app(self) -> FastAPI:
        """The HTTP application over all operations."""
        parts = Parts(
            settings=self._settings,
            source=self._source,
            store=self._store,
            images=Images(self._store, Containerd(self._settings.engine.containerd_address)),
            puller=self._puller,
            repair=self._repair,
            events=self._events,
            health=self.health,
            pending_compactions=self._snapshotter.pending_compactions,
            collect=self._collect,
            data_path=self._data_path,
            started=self._started,
        )
        return make_app(Operations(parts).handlers(), self.health, self._scrape)

    def health(self) -> m.Health:
        """Whether all parts do their work."""
        tasks = self._supervisor.states()
        degraded = any(task.state == "failed" for task in tasks)
        return m.Health(status="degraded" if degraded else "ok", ready=self._ready, tasks=tasks)

    def close(self) -> None:
        """Stop everything, the last started first, within the configured time; then leave the store clean."""
        self._ready = False
        limit = self._settings.daemon.shutdown_seconds
        # A part that hangs must not keep the process: its thread dies with it, and nothing of ours is lost by that.
        ender = threading.Thread(target=self._end, name="shutdown", daemon=True)
        ender.start()
        ender.join(limit + 5.0)
        log.info("stopped" if not ender.is_alive() else "stopped without waiting for everything")

    def _end(self) -> None:
        try:
            self._ends.close()
        except HyperBoxError as error:  # the rest has been closed all the same
            log.error("a part did not end well", code=error.code, reason=error.message)

    def _choose_data_path(self) -> Literal["composed", "vanilla"]:
        wanted = self._settings.snapshotter.data_path
        if wanted == "vanilla":
            return "vanilla"
        features = linux.probe(self._settings.daemon.state)
        missing = features.missing_for_composed
        if wanted == "composed" and missing:
            raise FeatureMissing(feature=", ".join(f"{feature.name} ({feature.detail})" for feature in missing))
        for feature in missing:
            log.warning("vanilla data path", missing=feature.name, detail=feature.detail, remedy=feature.remedy)
        return features.data_path

    def _report_recovery(self) -> None:
        found = self._store.recovered
        if found.hashed or not found.clean:
            missing = len(missing_objects(self._store))
            self._events.record(
                e.RECOVERED,
                reason=found.reason,
                checked=found.hashed,
                quarantined=len(found.quarantined),
                missing=missing,
            )

    def _progress(self, progress: PullProgress) -> None:
        self._watcher.progress(progress)
        if progress.state == "fetched":
            self._supervisor.wake("checkpoint")

    def _mend(self, missing: set[bytes]) -> None:
        if missing:
            missing -= self._repair(missing)

    def _checkpoint(self) -> None:
        if self._store.dirty:
            self._store.checkpoint()
            linux.trim_memory()

    def _collect(self, grace: float, dry_run: bool) -> m.GcResult:
        if not dry_run:
            # Whoever leaves no grace wants the disk back.
            pins.release(self._store.catalogue, kept=pins.KEPT if grace else 0.0)
        found = self._store.gc(dry_run=dry_run, grace=grace, keep_layers=self._snapshotter.mounted_layers())
        if not dry_run and (found.layers or found.objects):
            self._events.record(e.GC_DONE, layers=len(found.layers), objects=found.objects, bytes=found.freed_bytes)
        items = [m.GcItem(name=x.layer_id, reason="no snapshot uses it", bytes=x.metadata_bytes) for x in found.layers]
        return m.GcResult(
            dry_run=dry_run, layers=items, objects=found.objects, bytes=found.freed_bytes, seconds=found.seconds
        )

    def _scrape(self) -> bytes:
        stats = self._store.stats()
        self._metrics.set(metric.OBJECTS, stats.objects)
        self._metrics.set(metric.OBJECT_BYTES, stats.object_bytes)
        self._metrics.set(metric.REFERENCED_BYTES, stats.layer_bytes)
        self._metrics.set(metric.LAYERS, stats.layers)
        kinds = [row.kind for row in self._store.catalogue.snapshots.list()]
        for kind in ("active", "view", "committed"):
            self._metrics.set(metric.SNAPSHOTS, kinds.count(kind), kind=kind)
        failed = sum(task.state == "failed" for task in self._supervisor.states())
        self._metrics.set(metric.TASKS_FAILED, failed)
        self._metrics.set(metric.RESIDENT_BYTES, linux.rss_bytes())
        return self._metrics.text()


def _registry_settings(settings: RegistrySettings) -> registry.RegistrySettings:
    tls: dict[str, Any] = {}
    if settings.ca_file is not None:
        tls["tls"] = registry.TlsFiles(authorities=(Path(settings.ca_file),))
    return registry.RegistrySettings(
        docker_configs=(settings.docker_config,),
        plain_http=frozenset(settings.plain_http),
        mirrors={host: tuple(mirrors) for host, mirrors in settings.mirrors.items()},
        connect_seconds=settings.connect_seconds,
        read_seconds=settings.read_seconds,
        attempts=settings.attempts,
        **tls,
    )
