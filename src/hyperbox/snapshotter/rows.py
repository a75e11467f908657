"""Snapshots as rows of the catalogue, and back."""

from __future__ import annotations

from dataclasses import replace

from hyperbox.snapshotter.machine import Change
from hyperbox.snapshotter.model import Kind, Snapshot, Usage
from hyperbox.store.catalogue import Catalogue
from hyperbox.store.rows import SnapshotRow


def load_snapshots(catalogue: Catalogue) -> list[Snapshot]:
    """Return all snapshots, oldest first. Raises what the catalogue raises."""
    return [_snapshot(row) for row in catalogue.snapshots.list()]


def write_change(catalogue: Catalogue, change: Change) -> Snapshot | None:
    """Make a change durable; return the record as it is now, with its id. Call inside a transaction to add effects."""
    before, after = change.before, change.after
    if before is None:
        assert after is not None
        row = catalogue.snapshots.insert(
            after.name,
            kind=after.kind.word,
            parent=after.parent or None,
            labels=after.labels,
            layer_id=after.layer,
            raw=after.layer is None,
            usage_bytes=after.usage.size if after.usage else -1,
            usage_inodes=after.usage.inodes if after.usage else -1,
            extra=after.extra,
            now=after.created_ns,
        )
        return replace(after, id=row.id)
    if after is None:
        catalogue.snapshots.delete(before.name)
        return None
    catalogue.snapshots.update(
        before.name,
        key=after.name,
        parent=after.parent or None,
        kind=after.kind.word,
        labels=after.labels,
        created=after.created_ns,
        updated=after.updated_ns,
        layer_id=after.layer,
        raw=after.layer is None,
        usage_bytes=after.usage.size if after.usage else -1,
        usage_inodes=after.usage.inodes if after.usage else -1,
        extra=after.extra,
    )
    return after


def _snapshot(row: SnapshotRow) -> Snapshot:
    return Snapshot(
        id=row.id,
        name=row.key,
        parent=row.parent or "",
        kind=Kind[row.kind.upper()],
        labels=row.labels,
        created_ns=row.created,
        updated_ns=row.updated,
        layer=row.layer_id,
        usage=Usage(row.usage_bytes, row.usage_inodes) if row.usage_bytes >= 0 else None,
        extra=row.extra,
    )
