"""The catalogue's schema as a list of migrations; `PRAGMA user_version` is the number of those applied.

A released migration is never changed: a new one is appended. Times are integer nanoseconds since the epoch (UTC),
sizes are bytes, digests are text (`sha256:…` where the OCI specifications write them so, bare hex for layer ids).
"""

from __future__ import annotations

from typing import Final

MIGRATIONS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

    -- AUTOINCREMENT: the number names a mount point, so that of a deleted layer must not come back.
    CREATE TABLE layers (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        layer_id TEXT NOT NULL UNIQUE,
        diff_id TEXT,
        blob_digest TEXT,
        media_type TEXT,
        source TEXT NOT NULL,
        reference TEXT,
        entries INTEGER NOT NULL,
        size INTEGER NOT NULL,
        metadata_bytes INTEGER NOT NULL,
        objects INTEGER NOT NULL,
        objects_bytes INTEGER NOT NULL,
        objects_digest TEXT NOT NULL,
        created INTEGER NOT NULL,
        last_used INTEGER NOT NULL
    );

    -- What a layer can be found by. Several diff IDs can give one layer (equal trees from different tars).
    CREATE TABLE layer_names (
        kind TEXT NOT NULL CHECK (kind IN ('diff', 'chain')),
        digest TEXT NOT NULL,
        layer_id TEXT NOT NULL REFERENCES layers (layer_id) ON DELETE CASCADE,
        PRIMARY KEY (kind, digest)
    ) WITHOUT ROWID;
    CREATE INDEX layer_names_by_layer ON layer_names (layer_id);

    CREATE TABLE snapshots (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL UNIQUE,
        parent TEXT,
        kind TEXT NOT NULL,
        labels TEXT NOT NULL,
        created INTEGER NOT NULL,
        updated INTEGER NOT NULL,
        layer_id TEXT REFERENCES layers (layer_id),
        raw INTEGER NOT NULL CHECK (raw IN (0, 1)),
        usage_bytes INTEGER NOT NULL,
        usage_inodes INTEGER NOT NULL,
        extra TEXT NOT NULL
    );
    CREATE INDEX snapshots_by_parent ON snapshots (parent);
    CREATE INDEX snapshots_by_layer ON snapshots (layer_id);

    CREATE TABLE images (
        reference TEXT NOT NULL,
        platform TEXT NOT NULL,
        manifest_digest TEXT NOT NULL,
        layers TEXT NOT NULL,
        pinned INTEGER NOT NULL CHECK (pinned IN (0, 1)),
        first_seen INTEGER NOT NULL,
        last_used INTEGER NOT NULL,
        PRIMARY KEY (reference, platform)
    ) WITHOUT ROWID;

    CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        time INTEGER NOT NULL,
        name TEXT NOT NULL,
        data TEXT NOT NULL
    );
    """,
)
