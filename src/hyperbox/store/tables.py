"""The catalogue's tables beside layers: typed methods over SQL. Each call is its own transaction unless inside one."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Final

from hyperbox.api.errors.store import (
    CatalogueFailed,
    ImageNotFound,
    LayerNotFound,
    SnapshotExists,
    SnapshotNotFound,
)
from hyperbox.store.database import Database
from hyperbox.store.rows import Event, ImageLayer, ImageRow, SnapshotRow

EVENTS_KEPT: Final = 10_000
"""The events table keeps this many of the newest."""

_SNAPSHOT: Final = "id, key, parent, kind, labels, created, updated, layer_id, raw, usage_bytes, usage_inodes, extra"
_IMAGE: Final = "reference, platform, manifest_digest, layers, pinned, first_seen, last_used"


class SnapshotTable:
    """Rows of snapshots. The rules of their state machine live with their owner, not here."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(
        self,
        key: str,
        *,
        kind: str,
        parent: str | None = None,
        labels: Mapping[str, str] | None = None,
        layer_id: str | None = None,
        raw: bool = False,
        usage_bytes: int = 0,
        usage_inodes: int = 0,
        extra: Mapping[str, Any] | None = None,
        now: int | None = None,
    ) -> SnapshotRow:
        """Add a row and return it. Raises `SnapshotExists`, or `LayerNotFound` when GC has taken the layer."""
        now = time.time_ns() if now is None else now
        row = SnapshotRow(
            0, key, parent, kind, dict(labels or {}), now, now, layer_id, raw, usage_bytes, usage_inodes, extra or {}
        )
        try:
            _, number = self._database.write(
                "INSERT INTO snapshots (key, parent, kind, labels, created, updated, layer_id, raw, usage_bytes,"
                " usage_inodes, extra) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                _snapshot_values(row),
            )
        except sqlite3.IntegrityError as error:
            raise _violation(error, row) from error
        return replace(row, id=number)

    def update(self, key: str, /, **changes: Any) -> SnapshotRow:
        """Change fields of a row (any of `SnapshotRow` but `id`) and return it; `updated` becomes now unless given.

        Raises `SnapshotNotFound`, `SnapshotExists` (for a changed key), `LayerNotFound`.
        """
        with self._database.transaction():
            row = self.get(key)
            if row is None:
                raise SnapshotNotFound(key=key)
            changes.setdefault("updated", time.time_ns())
            new = replace(row, **changes)
            try:
                self._database.write(
                    "UPDATE snapshots SET key=?, parent=?, kind=?, labels=?, created=?, updated=?, layer_id=?, raw=?,"
                    " usage_bytes=?, usage_inodes=?, extra=? WHERE id=?",
                    (*_snapshot_values(new), row.id),
                )
            except sqlite3.IntegrityError as error:
                raise _violation(error, new) from error
        return new

    def rename(self, key: str, new_key: str, /, **changes: Any) -> SnapshotRow:
        """Give a row another key, with other changes, at once: what a commit does. Raises as `update`."""
        return self.update(key, key=new_key, **changes)

    def delete(self, key: str) -> SnapshotRow:
        """Remove a row and return what it was. Raises `SnapshotNotFound`."""
        with self._database.transaction():
            row = self.get(key)
            if row is None:
                raise SnapshotNotFound(key=key)
            self._database.write("DELETE FROM snapshots WHERE id=?", (row.id,))
        return row

    def get(self, key: str) -> SnapshotRow | None:
        """The row of a key, None when there is none."""
        rows = self._database.read(f"SELECT {_SNAPSHOT} FROM snapshots WHERE key=?", (key,))  # noqa: S608 (constant)
        return _snapshot(rows[0]) if rows else None

    def get_id(self, number: int) -> SnapshotRow | None:
        """The row of a number, None when there is none."""
        rows = self._database.read(f"SELECT {_SNAPSHOT} FROM snapshots WHERE id=?", (number,))  # noqa: S608 (constant)
        return _snapshot(rows[0]) if rows else None

    def list(self) -> list[SnapshotRow]:
        """All rows in order of their number."""
        rows = self._database.read(f"SELECT {_SNAPSHOT} FROM snapshots ORDER BY id")  # noqa: S608 (constant)
        return [_snapshot(row) for row in rows]

    def children(self, key: str) -> tuple[str, ...]:
        """Keys of the rows whose parent is `key`."""
        rows = self._database.read("SELECT key FROM snapshots WHERE parent=? ORDER BY id", (key,))
        return tuple(row[0] for row in rows)


def _snapshot(row: tuple[Any, ...]) -> SnapshotRow:
    number, key, parent, kind, labels, created, updated, layer_id, raw, size, inodes, extra = row
    return SnapshotRow(
        number, key, parent, kind, json.loads(labels), created, updated, layer_id, bool(raw), size, inodes,
        json.loads(extra),
    )  # fmt: skip


def _snapshot_values(row: SnapshotRow) -> tuple[Any, ...]:
    return (
        row.key, row.parent, row.kind, json.dumps(dict(row.labels)), row.created, row.updated, row.layer_id,
        int(row.raw), row.usage_bytes, row.usage_inodes, json.dumps(dict(row.extra)),
    )  # fmt: skip


def _violation(error: sqlite3.IntegrityError, row: SnapshotRow) -> Exception:
    code = error.sqlite_errorcode
    if code == sqlite3.SQLITE_CONSTRAINT_UNIQUE:
        return SnapshotExists(key=row.key)
    if code == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
        return LayerNotFound(layer=row.layer_id)
    return CatalogueFailed(reason=error)


class ImageTable:
    """What is known of images that were pulled through HyperBox."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def upsert(
        self,
        reference: str,
        *,
        platform: str,
        manifest_digest: str,
        layers: tuple[ImageLayer, ...] | None = None,
        pinned: bool | None = None,
        now: int | None = None,
    ) -> ImageRow:
        """Add or replace what is known of a reference on a platform; None leaves a known value as it is.

        A reference that now names another manifest loses the layers of the old one, and keeps `first_seen`.
        """
        now = time.time_ns() if now is None else now
        with self._database.transaction():
            old = self.get(reference, platform)
            same = old is not None and old.manifest_digest == manifest_digest
            row = ImageRow(
                reference=reference,
                platform=platform,
                manifest_digest=manifest_digest,
                layers=layers if layers is not None else (old.layers if old and same else ()),
                pinned=pinned if pinned is not None else bool(old and old.pinned),
                first_seen=old.first_seen if old else now,
                last_used=now,
            )
            self._database.write(
                f"INSERT OR REPLACE INTO images ({_IMAGE}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 (constant)
                (
                    row.reference, row.platform, row.manifest_digest,
                    json.dumps([asdict(layer) for layer in row.layers]), int(row.pinned), row.first_seen, row.last_used,
                ),
            )  # fmt: skip
        return row

    def get(self, reference: str, platform: str | None = None) -> ImageRow | None:
        """The row of a reference (the last used one when no platform is given), None when there is none."""
        rows = self._database.read(
            f"SELECT {_IMAGE} FROM images WHERE reference=? AND platform=coalesce(?, platform)"  # noqa: S608 (constant)
            " ORDER BY last_used DESC LIMIT 1",
            (reference, platform),
        )
        return _image(rows[0]) if rows else None

    def list(self) -> list[ImageRow]:
        """All rows by reference and platform."""
        rows = self._database.read(f"SELECT {_IMAGE} FROM images ORDER BY reference, platform")  # noqa: S608 (constant)
        return [_image(row) for row in rows]

    def delete(self, reference: str, platform: str | None = None) -> int:
        """Forget a reference (on one platform or all); returns the row count. Raises `ImageNotFound` when it is 0."""
        count, _ = self._database.write(
            "DELETE FROM images WHERE reference=? AND platform=coalesce(?, platform)", (reference, platform)
        )
        if not count:
            raise ImageNotFound(reference=reference)
        return count


def _image(row: tuple[Any, ...]) -> ImageRow:
    reference, platform, manifest, layers, pinned, first_seen, last_used = row
    parsed = tuple(ImageLayer(**layer) for layer in json.loads(layers))
    return ImageRow(reference, platform, manifest, parsed, bool(pinned), first_seen, last_used)


class EventTable:
    """A bounded ring of the newest events."""

    def __init__(self, database: Database, kept: int = EVENTS_KEPT) -> None:
        self._database = database
        self._kept = kept

    def add(self, name: str, data: Mapping[str, Any] | None = None, *, now: int | None = None) -> Event:
        """Append an event and let the oldest go."""
        now = time.time_ns() if now is None else now
        with self._database.transaction():
            _, number = self._database.write(
                "INSERT INTO events (time, name, data) VALUES (?, ?, ?)", (now, name, json.dumps(dict(data or {})))
            )
            self._database.write("DELETE FROM events WHERE id <= ?", (number - self._kept,))
        return Event(number, now, name, dict(data or {}))

    def list(self, *, after: int = 0, limit: int = 1000, name: str | None = None) -> list[Event]:
        """The newest `limit` events (of one name, if given) with an id above `after`, oldest first."""
        rows = self._database.read(
            "SELECT id, time, name, data FROM events WHERE id > ? AND name = coalesce(?, name)"
            " ORDER BY id DESC LIMIT ?",
            (after, name, limit),
        )
        return [Event(number, when, name, json.loads(data)) for number, when, name, data in reversed(rows)]


class MetaTable:
    """Single values: the clean-stop marker, the last checkpoint, what daemons want to remember."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, key: str, default: str | None = None) -> str | None:
        """The value of a key."""
        rows = self._database.read("SELECT value FROM meta WHERE key=?", (key,))
        return rows[0][0] if rows else default

    def set(self, **values: str | int) -> None:
        """Set values, all in one transaction."""
        with self._database.transaction():
            for key, value in values.items():
                self._database.write("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, str(value)))
