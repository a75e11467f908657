"""SQLite as the catalogue uses it: one writer, pooled readers, transactions, migrations, named errors.

WAL with `synchronous=FULL`: a committed transaction survives process death and power loss, an uncommitted one leaves
no trace. Readers see the last commit and never wait for the writer; the thread inside a transaction reads its own
writes.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from hyperbox.api.errors.base import HyperBoxError
from hyperbox.api.errors.store import CatalogueDamaged, CatalogueFailed, CatalogueNewer, StoreFull
from hyperbox.store.schema import MIGRATIONS

_BUSY_SECONDS: Final = 30.0
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class Database:
    """One SQLite file. Any thread may call anything; transactions of different threads take turns."""

    def __init__(self, path: Path, migrations: Sequence[str] = MIGRATIONS) -> None:
        self.path: Final = path
        self._lock: Final = threading.RLock()
        self._depth = 0
        self._owner: int | None = None
        self._idle: list[sqlite3.Connection] = []
        self._pool_lock: Final = threading.Lock()
        self._writer: sqlite3.Connection | None = None
        with self._translated():
            self._writer = self._connect()
            try:
                self._prepare(self._writer, migrations)
            except BaseException:
                self.close()
                raise

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection, migrations: Sequence[str]) -> None:
        os.chmod(self.path, 0o600)
        found: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if found > len(migrations):
            raise CatalogueNewer(path=self.path, found=found, known=len(migrations))
        verdict: str = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise CatalogueDamaged(path=self.path, reason=verdict)
        for number in range(found, len(migrations)):
            # One transaction for script and number: a crash leaves the one schema or the other.
            # executescript() commits first what is open, so BEGIN and COMMIT stand inside the script.
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{migrations[number]}\nPRAGMA user_version={number + 1};\nCOMMIT;"
            )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise self._named(error) from error

    def _named(self, error: sqlite3.Error) -> HyperBoxError:
        code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
        if code in _DAMAGE:
            return CatalogueDamaged(path=self.path, reason=error)
        if code == sqlite3.SQLITE_FULL:
            return StoreFull(path=self.path, reason=error)
        return CatalogueFailed(reason=error)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is committed together at the end, or not at all when an exception leaves the block.

        A transaction inside another one of the same thread is part of it. Raises `StoreFull`, `CatalogueFailed`.
        """
        with self._lock, self._translated():
            writer = self._opened()
            if self._depth:
                yield
                return
            writer.execute("BEGIN IMMEDIATE")
            self._depth, self._owner = 1, threading.get_ident()
            try:
                yield
                writer.execute("COMMIT")
            except BaseException:
                if writer.in_transaction:
                    writer.execute("ROLLBACK")
                raise
            finally:
                self._depth, self._owner = 0, None

    def write(self, statement: str, values: Sequence[Any] = ()) -> tuple[int, int]:
        """Run one changing statement (in the thread's transaction or its own); returns rows changed and last row id.

        `sqlite3.IntegrityError` passes, so that a table can name what was violated.
        """
        with self.transaction():
            cursor = self._opened().execute(statement, values)
            return cursor.rowcount, cursor.lastrowid or 0

    def read(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self._translated():
            if self._owner == threading.get_ident():
                return self._opened().execute(statement, values).fetchall()
            self._opened()
            try:
                reader = self._idle.pop()
            except IndexError:
                reader = self._connect()
            try:
                rows = reader.execute(statement, values).fetchall()
            except BaseException:
                reader.close()
                raise
            with self._pool_lock:
                if self._writer is not None:
                    self._idle.append(reader)
                    return rows
            reader.close()
            return rows

    def _opened(self) -> sqlite3.Connection:
        if self._writer is None:
            raise CatalogueFailed(reason="it is closed")
        return self._writer

    def close(self) -> None:
        """Close all connections (SQLite folds the WAL into the file); a second call does nothing."""
        with self._lock:
            with self._pool_lock:
                writer, self._writer = self._writer, None
                idle, self._idle = self._idle, []
            for reader in idle:
                reader.close()
            if writer is not None:
                writer.close()
