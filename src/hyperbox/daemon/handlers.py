"""What the operations do: the daemon's parts, asked in the words of the typed core."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hyperbox import __version__, linux
from hyperbox.api import events as e
from hyperbox.api import messages as m
from hyperbox.api.errors.daemon import LayerAmbiguous
from hyperbox.api.errors.store import LayerNotFound
from hyperbox.api.settings import Settings
from hyperbox.daemon.http import Handlers
from hyperbox.daemon.images import Images
from hyperbox.daemon.pins import pin
from hyperbox.daemon.provider import Repair
from hyperbox.daemon.sharing import unique_bytes
from hyperbox.daemon.telemetry import Events
from hyperbox.engines.doctor import examine
from hyperbox.images import ImagePuller, erofs
from hyperbox.store import LayerRecord, Store, Verification


@dataclass(frozen=True, slots=True)
class Parts:
    """What the operations need of the daemon."""

    settings: Settings
    source: str
    store: Store
    images: Images
    puller: ImagePuller
    repair: Repair
    events: Events
    health: Callable[[], m.Health]
    pending_compactions: Callable[[], int]
    collect: Callable[[float, bool], m.GcResult]
    """Collects with a grace time in seconds, or only says what it would take."""
    data_path: str
    started: datetime


class Operations:
    """One method for each operation of `hyperbox.api.operations`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._store = parts.store
        self._unique: tuple[frozenset[str], dict[Hashable, int]] = (frozenset(), {})

    def handlers(self) -> Handlers:
        """Methods by operation name."""
        return {
            "system.version": self.version,
            "system.health": lambda _: self._parts.health(),
            "system.status": self.status,
            "system.doctor": self.doctor,
            "config.show": self.config,
            "event.ls": self.list_events,
            "image.ls": lambda _: self._parts.images.all(),
            "image.inspect": self.image,
            "image.explain": self.image,
            "image.pull": self.pull,
            "layer.ls": self.layers,
            "layer.inspect": self.layer,
            "store.stats": self.stats,
            "store.verify": self.verify,
            "store.gc": self.gc,
        }

    def version(self, _: m.Empty) -> m.Version:
        """Versions of everything that matters for a report."""
        return m.Version(
            version=__version__,
            python=platform.python_version(),
            kernel=platform.release(),
            machine=platform.machine(),
        )

    def status(self, _: m.Empty) -> m.Status:
        """The daemon at a glance."""
        daemon, stats = self._parts.settings.daemon, self._store.stats()
        return m.Status(
            version=__version__,
            pid=os.getpid(),
            started=self._parts.started,
            state=str(daemon.state),
            run=str(daemon.run),
            data_path="composed" if self._parts.data_path == "composed" else "vanilla",
            health=self._parts.health(),
            snapshots=len(self._store.catalogue.snapshots.list()),
            layers=stats.layers,
            objects=stats.objects,
            object_bytes=stats.object_bytes,
            referenced_bytes=stats.layer_bytes,
            compactions_pending=self._parts.pending_compactions(),
            resident_bytes=linux.rss_bytes(),
        )

    def doctor(self, _: m.Empty) -> m.Doctor:
        """What this machine allows."""
        return examine(self._parts.settings.daemon.state, engine=self._parts.settings.engine)

    def config(self, _: m.Empty) -> m.Configuration:
        """The settings in force."""
        now = self._parts.settings.model_dump(mode="json")
        default = Settings().model_dump(mode="json")
        changed = [f"{s}.{k}" for s, table in now.items() for k, v in table.items() if v != default[s][k]]
        return m.Configuration(source=self._parts.source, settings=now, changed=changed)

    def list_events(self, request: m.EventsRequest) -> m.EventList:
        """The latest events, oldest first."""
        rows = self._store.catalogue.events.list(limit=request.limit, name=request.name or None)
        return m.EventList(events=[m.EventRow(time=_moment(r.time), name=r.name, data=dict(r.data)) for r in rows])

    def image(self, request: m.ImageRequest) -> m.ImageDetail:
        """One image, layer by layer, with reasons."""
        return self._parts.images.detail(request.image)

    def pull(self, request: m.PullRequest) -> m.ImageDetail:
        """Fetch an image's layers now, and keep them until the engine asks for them."""
        image = self._parts.puller.pull(request.image).image
        row = next(r for r in self._store.catalogue.images.list() if r.manifest_digest == image.manifest_digest)
        pin(self._store.catalogue, row.reference, row.platform, row.manifest_digest)
        return self._parts.images.detail(image.manifest_digest)

    def layers(self, _: m.Empty) -> m.LayerList:
        """All layers."""
        users = self._users()
        return m.LayerList(layers=[_row(r, len(users.get(r.layer_id, ()))) for r in self._store.layers.list()])

    def layer(self, request: m.LayerRequest) -> m.LayerDetail:
        """One layer by identity, diff ID or a prefix."""
        record = self._find(request.layer)
        used_by = self._users().get(record.layer_id, [])
        mount = self._parts.settings.daemon.run / "l" / str(record.id)
        return m.LayerDetail(
            **_row(record, len(used_by)).model_dump(),
            image=record.reference or "",
            blob_digest=record.blob_digest or "",
            mount=str(mount) if mount.is_mount() else "",
            used_by=used_by,
            unique=self._unique_bytes(record.layer_id),
            files=_files(self._store.layers.path(record)) if request.files else [],
        )

    def _unique_bytes(self, layer_id: str) -> int:
        """Bytes that only one layer has. Layers never change: an answer holds while the same ones are here."""
        layers = frozenset(record.layer_id for record in self._store.layers.list())
        known, unique = self._unique
        if known != layers:
            unique = unique_bytes(self._store.layers, {one: frozenset((one,)) for one in layers})
            self._unique = layers, unique
        return unique.get(layer_id, 0)

    def _find(self, name: str) -> LayerRecord:
        digits = name.removeprefix("sha256:")
        fitting = [
            r
            for r in self._store.layers.list()
            if r.layer_id.startswith(digits) or (r.diff_id or "").removeprefix("sha256:").startswith(digits)
        ]
        if len(fitting) > 1:
            raise LayerAmbiguous(layer=name, count=len(fitting))
        if not fitting:
            raise LayerNotFound(layer=name)
        return fitting[0]

    def _users(self) -> dict[str, list[str]]:
        users: dict[str, list[str]] = {}
        for row in self._store.catalogue.snapshots.list():
            if row.layer_id:
                users.setdefault(row.layer_id, []).append(row.key)
        return users

    def stats(self, _: m.Empty) -> m.StoreStats:
        """What the store holds and saves."""
        s = self._store.stats(walk=True)
        assert s.walked is not None
        daemon = self._parts.settings.daemon
        quarantined = sum(1 for _ in os.scandir(daemon.state / "quarantine"))
        return m.StoreStats(
            objects=s.objects,
            object_bytes=s.object_bytes,
            allocated_bytes=s.walked.allocated,
            layers=s.layers,
            metadata_bytes=s.metadata_bytes,
            referenced_bytes=s.layer_bytes,
            saved_bytes=max(0, s.layer_bytes - s.object_bytes),
            sharing=s.dedup_ratio,
            quarantined=quarantined,
            free_bytes=shutil.disk_usage(daemon.state).free,
        )

    def verify(self, request: m.VerifyRequest) -> m.VerifyResult:
        """Hash everything again; with `repair`, fetch damaged layers from where they came."""
        repair = self._parts.repair if request.repair else None
        found = self._store.verify(repair=repair)
        restored = self._parts.repair.layers(found.damaged_layers) if request.repair else set()
        for digest in found.damaged:
            self._parts.events.record(e.OBJECT_QUARANTINED, object=digest.hex())
        return m.VerifyResult(
            objects=found.objects,
            layers=found.layers,
            bytes=found.hashed_bytes,
            seconds=found.seconds,
            damage=list(_damage(found, restored)),
            unreferenced=found.unreferenced,
        )

    def gc(self, request: m.GcRequest) -> m.GcResult:
        """Collect what nothing refers to."""
        grace = request.grace_seconds
        if grace is None:
            grace = self._parts.settings.store.gc_grace_seconds
        return self._parts.collect(grace, request.dry_run)


def _damage(found: Verification, restored: Collection[str]) -> Iterator[m.Damage]:
    repaired = set(found.repaired)
    for digest, layers in found.missing.items():
        kind = "damaged-object" if digest in found.damaged else "missing-object"
        detail = f"needed by {len(layers)} layers"
        yield m.Damage(kind=kind, name=digest.hex(), detail=detail, repaired=digest in repaired)
    for digest, layers in found.wrong_size.items():
        yield m.Damage(kind="wrong-size", name=digest.hex(), detail=f"{len(layers)} layers say another size")
    for layer, detail in found.damaged_layers.items():
        yield m.Damage(kind="damaged-layer", name=layer, detail=detail, repaired=layer in restored)


def _moment(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC)


def _row(record: LayerRecord, snapshots: int) -> m.LayerRow:
    return m.LayerRow(
        layer=record.layer_id,
        diff_id=record.diff_id or "",
        source=record.source,
        entries=record.entries,
        size=record.size,
        metadata_bytes=record.metadata_bytes,
        snapshots=snapshots,
        created=_moment(record.created),
    )


def _files(path: Path) -> list[m.LayerFile]:
    with erofs.Reader(path) as reader:
        return [
            m.LayerFile(
                path="/" + name.decode(errors="surrogateescape").encode(errors="replace").decode(),
                kind=inode.kind.name.lower(),
                mode=f"{inode.mode:04o}",
                uid=inode.uid,
                gid=inode.gid,
                size=inode.size,
                object=inode.digest.hex() if inode.digest else "",
            )
            for name, inode in sorted(reader.tree().items())
        ]
