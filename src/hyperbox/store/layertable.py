"""Rows of layers and the names (diff IDs, chain IDs) that they are found by."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import astuple, replace
from typing import Final

from hyperbox.store.database import Database
from hyperbox.store.rows import LayerRecord

_COLUMNS: Final = (
    "id, layer_id, diff_id, blob_digest, media_type, source, reference, entries, size, metadata_bytes, objects,"
    " objects_bytes, objects_digest, created, last_used"
)
_SELECT: Final = f"SELECT {_COLUMNS} FROM layers"  # noqa: S608 (constant)


class LayerTable:
    """Typed access; `LayerStore` keeps rows and files in step, so others only read here."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def upsert(self, record: LayerRecord, *, chain_id: str | None = None) -> LayerRecord:
        """Add a layer (its `id` is ignored), or fill what a known one lacks; returns the row as it is now."""
        with self._database.transaction():
            old = self.get(record.layer_id)
            if old is None:
                marks = ", ".join("?" * (_COLUMNS.count(",")))
                _, number = self._database.write(
                    f"INSERT INTO layers ({_COLUMNS.removeprefix('id, ')}) VALUES ({marks})",  # noqa: S608 (constant)
                    astuple(record)[1:],
                )
                new = replace(record, id=number)
            else:
                new = self._merge(old, record)
            for kind, digest in (("diff", record.diff_id), ("chain", chain_id)):
                if digest is not None:
                    self._database.write(
                        "INSERT OR REPLACE INTO layer_names (kind, digest, layer_id) VALUES (?, ?, ?)",
                        (kind, digest, record.layer_id),
                    )
        return new

    def _merge(self, old: LayerRecord, new: LayerRecord) -> LayerRecord:
        merged = replace(
            new,
            id=old.id,
            diff_id=old.diff_id or new.diff_id,
            blob_digest=old.blob_digest or new.blob_digest,
            media_type=old.media_type or new.media_type,
            reference=new.reference or old.reference,
            source=old.source if old.source != "rebuilt" else new.source,
            created=old.created,
        )
        assignments = ", ".join(f"{name.strip()}=?" for name in _COLUMNS.split(",")[1:])
        self._database.write(
            f"UPDATE layers SET {assignments} WHERE id=?",  # noqa: S608 (constant)
            (*astuple(merged)[1:], old.id),
        )
        return merged

    def get(self, layer_id: str) -> LayerRecord | None:
        """The layer of an id."""
        return self._one(f"{_SELECT} WHERE layer_id=?", layer_id)

    def get_id(self, number: int) -> LayerRecord | None:
        """The layer of a row number."""
        return self._one(f"{_SELECT} WHERE id=?", number)

    def by_name(self, kind: str, digest: str) -> LayerRecord | None:
        """The layer that a `diff` or `chain` ID names."""
        return self._one(
            f"{_SELECT} JOIN layer_names USING (layer_id) WHERE kind=? AND digest=?",
            kind,
            digest,
        )

    def _one(self, statement: str, *values: str | int) -> LayerRecord | None:
        rows = self._database.read(statement, values)
        return LayerRecord(*rows[0]) if rows else None

    def list(self) -> list[LayerRecord]:
        """All layers in order of their row number."""
        return [LayerRecord(*row) for row in self._database.read(f"{_SELECT} ORDER BY id")]

    def touch(self, layer_id: str, *, now: int | None = None) -> None:
        """Note that the layer was used now."""
        when = time.time_ns() if now is None else now
        self._database.write("UPDATE layers SET last_used=? WHERE layer_id=?", (when, layer_id))

    def referenced(self) -> set[str]:
        """Ids of the layers that a snapshot has."""
        return {row[0] for row in self._database.read("SELECT DISTINCT layer_id FROM snapshots WHERE layer_id NOTNULL")}

    def delete(self, layer_id: str) -> bool:
        """Remove the row unless a snapshot has the layer; one statement, so no snapshot can come in between."""
        try:
            count, _ = self._database.write("DELETE FROM layers WHERE layer_id=?", (layer_id,))
        except sqlite3.IntegrityError:
            return False
        return count > 0
