"""Leases: how a pull or compaction stores objects that garbage collection cannot take away before it is done."""

from __future__ import annotations

import hashlib
import os
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from hyperbox.api.errors.store import LeaseReleased, ObjectDigestMismatch, ObjectSizeMismatch, StoreFull
from hyperbox.store.writes import StagedFile

if TYPE_CHECKING:
    from hyperbox.store.objects import ObjectStore

_ZEROS: Final = bytes(1 << 20)
_CHUNK: Final = 1 << 20
_ASK_FOR_SPACE: Final = 8 << 20


class Lease:
    """Protection for the objects and layers of one piece of work. Any number of threads may share one.

    Release it (leave the `with`) only after the layer that names the objects is in the catalogue.
    """

    __slots__ = ("_ingest", "_live", "_objects", "held", "held_layers", "purpose")

    def __init__(self, objects: ObjectStore, purpose: str) -> None:
        self.purpose: Final = purpose
        self.held: Final[set[bytes]] = set()
        self.held_layers: Final[set[str]] = set()
        self._objects: Final = objects
        self._ingest: Final = os.fspath(objects.ingest)
        self._live = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()

    def release(self) -> None:
        """End the protection; a second call does nothing."""
        if self._live:
            self._live = False
            self._objects.release(self)

    def ensure_live(self) -> None:
        """Raises `LeaseReleased` after the end of the lease."""
        if not self._live:
            raise LeaseReleased(purpose=self.purpose)

    def take(self, digest: bytes, size: int) -> bool:
        """Whether the object is here; protects it either way, also against a sweep that is running.

        A present file of another size is hashed: damaged, it goes to quarantine and the answer is False; sound, the
        claim is wrong and `ObjectSizeMismatch` is raised (a hostile table of contents must not evict good objects).
        """
        self.ensure_live()
        info = self._objects.hold(self.held, digest)
        if info is None:
            return False
        if info.st_size == size:
            return True
        if self._objects.check(digest):
            raise ObjectSizeMismatch(digest=digest.hex(), actual=info.st_size, expected=size)
        self._objects.quarantine(digest)
        return False

    def put(self, data: bytes | bytearray | memoryview, digest: bytes | None = None) -> bytes:
        """Store a whole content unless it is here, and return its digest.

        `digest` may be given by a caller that has hashed these very bytes; it is believed. A memoryview must be one
        of bytes. Not synced: see `StagedFile` for what survives. Raises `StoreFull`, `StoreWriteFailed`; nothing
        half-written is visible.
        """
        self.ensure_live()
        if digest is None:
            digest = hashlib.sha256(data).digest()
        if self.take(digest, len(data)):
            return digest
        staged = StagedFile(self._ingest)
        staged.write(data)
        staged.finish()
        self._objects.admit(staged.path, digest, self.held)
        return digest

    def writer(self, size_hint: int = 0) -> ObjectWriter:
        """Begin an object that comes in pieces. Raises `StoreFull` at once when a large `size_hint` cannot fit."""
        self.ensure_live()
        if size_hint >= _ASK_FOR_SPACE:
            space = os.statvfs(self._ingest)
            if space.f_bavail * space.f_frsize < size_hint:
                raise StoreFull(path=self._ingest, reason=f"{size_hint} bytes do not fit")
        return ObjectWriter(self, self._objects)

    def adopt(self, path: str | os.PathLike[str], digest: bytes, size: int) -> None:
        """Make an existing file an object by a hard link; copied (and hashed again) where a link cannot be made.

        The caller has hashed the file, and nobody may write it any more: the object is the same inode. Its owner
        and mode stay as they are; overlayfs takes only bytes from an object. Raises `ObjectSizeMismatch`,
        `ObjectDigestMismatch`, `StoreFull`, `StoreWriteFailed`.
        """
        self.ensure_live()
        source = os.fspath(path)
        if self._objects.link(source, digest, size, self.held):
            return
        with open(source, "rb", buffering=0) as file, self.writer(size) as writer:
            while block := file.read(_CHUNK):
                writer.write(block)
            writer.commit(expected=digest)


class ObjectWriter:
    """One object in the making: hashed while it is written, visible only after `commit`. For one thread.

    As a context manager it aborts what was not committed.
    """

    __slots__ = ("_done", "_hash", "_lease", "_objects", "_staged")

    def __init__(self, lease: Lease, objects: ObjectStore) -> None:
        self._lease = lease
        self._objects = objects
        self._hash = hashlib.sha256()
        self._staged = StagedFile(os.fspath(objects.ingest))
        self._done = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.abort()

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._staged.size

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes. Raises `StoreFull`, `StoreWriteFailed`; the object is then gone."""
        self._hash.update(data)
        self._staged.write(data)

    def zeros(self, count: int) -> None:
        """Append `count` zero bytes as a hole: hashed like any others, without blocks on disk."""
        left = count
        while left > 0:
            step = min(left, len(_ZEROS))
            self._hash.update(_ZEROS if step == len(_ZEROS) else memoryview(_ZEROS)[:step])
            left -= step
        self._staged.zeros(count)

    def commit(self, expected: bytes | None = None) -> tuple[bytes, int]:
        """Make the object visible and return its digest and size.

        With `expected`, content of another digest is dropped and `ObjectDigestMismatch` raised.
        """
        self._lease.ensure_live()
        digest = self._hash.digest()
        if expected is not None and digest != expected:
            self.abort()
            raise ObjectDigestMismatch(path=self._staged.path, actual=digest.hex(), expected=expected.hex())
        self._staged.finish()
        self._done = True
        self._objects.admit(self._staged.path, digest, self._lease.held)
        return digest, self._staged.size

    def abort(self) -> None:
        """Throw away what was written; does nothing after `commit`."""
        if not self._done:
            self._done = True
            self._staged.abort()
