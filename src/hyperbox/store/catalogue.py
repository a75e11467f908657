"""The catalogue: what the folders alone cannot tell (snapshots, images, where layers came from), in one SQLite file."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hyperbox.store.database import Database
from hyperbox.store.layertable import LayerTable
from hyperbox.store.schema import MIGRATIONS
from hyperbox.store.tables import EventTable, ImageTable, MetaTable, SnapshotTable


class Catalogue:
    """All tables, over one database. Opening migrates it.

    Raises `CatalogueDamaged`, `CatalogueNewer`, `CatalogueFailed`, `StoreFull`.
    """

    def __init__(self, path: Path, migrations: Sequence[str] = MIGRATIONS) -> None:
        self._database: Final = Database(path, migrations)
        self.path: Final = path
        self.layers: Final = LayerTable(self._database)
        self.snapshots: Final = SnapshotTable(self._database)
        self.images: Final = ImageTable(self._database)
        self.events: Final = EventTable(self._database)
        self.meta: Final = MetaTable(self._database)

    def transaction(self) -> contextlib.AbstractContextManager[None]:
        """Everything done on the tables inside is committed together and durably, or not at all."""
        return self._database.transaction()

    def close(self) -> None:
        """Close the database; a second call does nothing."""
        self._database.close()
