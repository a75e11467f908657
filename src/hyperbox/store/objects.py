"""Objects: file contents, each once, named by their sha256. Presence of the file is the index.

`objects/ab/cdef…` holds the content whose sha256 begins with `ab`; `ingest/` holds what is being written, on the same
file system. A digest is 32 raw bytes everywhere in this room. Invariants:

- a name under `objects/` appears with all its bytes (rename or link, never writing in place);
- while an object is present its inode stays: whoever comes second drops what he wrote. Mounts therefore share one
  inode, hence one set of page-cache pages, per content;
- the sweep removes an object only under the lock of its folder, after seeing that no lease holds it, and a lease
  notes the digest under the same lock before it looks. So what a lease has seen stays.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from hyperbox.api.errors.store import ObjectSizeMismatch, StoreUnusable
from hyperbox.store.leases import Lease
from hyperbox.store.writes import translate

FOLDERS: Final = tuple(f"{number:02x}" for number in range(256))
"""Names of the folders under `objects/`."""

_COPY_INSTEAD: Final = frozenset({errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP})


def hash_file(path: str | os.PathLike[str]) -> bytes:
    """sha256 of a file's content. Raises `OSError` (EIO for a bad disk block)."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").digest()


class ObjectStore:
    """The objects of one state folder; safe to use from any number of threads of the one process that has the lock."""

    def __init__(self, state: Path, on_lease: Callable[[], None] = lambda: None) -> None:
        self._on_lease: Final = on_lease
        self.root: Final = state / "objects"
        self.ingest: Final = state / "ingest"
        self.quarantine_folder: Final = state / "quarantine"
        self._root: Final = os.fspath(self.root)
        self._ingest: Final = os.fspath(self.ingest)
        self._locks: Final = tuple(threading.Lock() for _ in FOLDERS)
        self._leases: tuple[Lease, ...] = ()
        self._leases_lock: Final = threading.Lock()
        self._lingering: list[Lease] | None = None
        self._make_folders(state)

    def _make_folders(self, state: Path) -> None:
        try:
            for folder in (self.root, self.ingest, self.quarantine_folder):
                folder.mkdir(mode=0o700, exist_ok=True)
            have = set(os.listdir(self._root))
            for name in FOLDERS:
                if name not in have:
                    os.mkdir(f"{self._root}/{name}", 0o700)
        except OSError as error:
            raise StoreUnusable(state=state, reason=error.strerror or error) from error
        if os.stat(self._root).st_dev != os.stat(self._ingest).st_dev:
            raise StoreUnusable(state=state, reason="objects/ and ingest/ are on different file systems")

    # --- looking up

    def name(self, digest: bytes) -> str:
        """Where the object of this digest is or would be, as a string (the fast form of `path`)."""
        text = digest.hex()
        return f"{self._root}/{text[:2]}/{text[2:]}"

    def path(self, digest: bytes) -> Path:
        """Where the object of this digest is or would be."""
        return Path(self.name(digest))

    def has(self, digest: bytes) -> bool:
        """Whether the object is here: one look-up. Without a lease the answer may be outdated when it arrives."""
        # access(2) walks the path as stat(2) does, without an exception (3 µs) to make where there is nothing.
        return os.access(self.name(digest), os.F_OK)

    def size(self, digest: bytes) -> int | None:
        """Length of a present object in bytes, None when it is not here."""
        try:
            return os.stat(self.name(digest)).st_size
        except FileNotFoundError:
            return None

    # --- leases

    def lease(self, purpose: str) -> Lease:
        """Begin a lease: what it takes or stores is safe from GC until it is released. Use it in a `with`."""
        self._on_lease()
        lease = Lease(self, purpose)
        with self._leases_lock:
            self._leases = (*self._leases, lease)
        return lease

    def leases(self) -> tuple[Lease, ...]:
        """The leases that are live now."""
        return self._leases

    def release(self, lease: Lease) -> None:
        """End a lease (called by the lease itself). It goes on protecting until a running sweep has ended."""
        with self._leases_lock:
            # In this order: `is_held` looks at the live ones first, without the lock, and must not miss it in between.
            if self._lingering is not None:
                self._lingering.append(lease)
            self._leases = tuple(other for other in self._leases if other is not lease)

    @contextlib.contextmanager
    def sweeping(self) -> Iterator[None]:
        """The span of one collection, from before its mark phase to the end of its sweep.

        A lease that ends in between may have added a layer after the mark phase read the catalogue, so its objects
        stay protected until the span is over. One that ended before has its layer in the catalogue already.
        """
        with self._leases_lock:
            self._lingering = []
        try:
            yield
        finally:
            with self._leases_lock:
                self._lingering = None

    def hold(self, lease_held: set[bytes], digest: bytes) -> os.stat_result | None:
        """Note the digest in a lease's set, then look: what is found stays as long as the lease lives."""
        with self._locks[digest[0]]:
            lease_held.add(digest)
            try:
                return os.stat(self.name(digest))
            except FileNotFoundError:
                return None

    def is_held(self, digest: bytes) -> bool:
        """Whether a live (or, during a sweep, a just released) lease protects the digest."""
        return any(digest in lease.held for lease in (*self._leases, *(self._lingering or ())))

    def layer_is_held(self, layer_id: str) -> bool:
        """Whether a lease protects the layer of this id."""
        return any(layer_id in lease.held_layers for lease in (*self._leases, *(self._lingering or ())))

    # --- arriving

    def admit(self, staged: str, digest: bytes, held: set[bytes]) -> bool:
        """Rename a finished file of `ingest/` to its object name; False (and it is dropped) when that one is here."""
        target = self.name(digest)
        with self._locks[digest[0]]:
            held.add(digest)
            try:
                if os.access(target, os.F_OK):
                    os.unlink(staged)
                    return False
                os.rename(staged, target)
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.unlink(staged)
                raise translate(error, target) from error
        return True

    def link(self, source: str, digest: bytes, size: int, held: set[bytes]) -> bool:
        """Hard-link a file into place; False when the file system cannot and the caller has to copy."""
        target = self.name(digest)
        with self._locks[digest[0]]:
            held.add(digest)
            if os.access(target, os.F_OK):
                return True
            try:
                info = os.lstat(source)
                if not stat.S_ISREG(info.st_mode) or info.st_size != size:
                    raise ObjectSizeMismatch(digest=digest.hex(), actual=info.st_size, expected=size)
                os.link(source, target, follow_symlinks=False)
            except OSError as error:
                if error.errno in _COPY_INSTEAD:
                    return False
                raise translate(error, target) from error
        return True

    # --- leaving

    def remove(self, digest: bytes, *, older_than_ns: int, dry_run: bool = False) -> int | None:
        """Delete the object unless a lease holds it or it changed at or after `older_than_ns`.

        Returns the bytes (allocated) that this frees, 0 where another hard link keeps them, None when it stays.
        """
        target = self.name(digest)
        with self._locks[digest[0]]:
            if self.is_held(digest):
                return None
            try:
                info = os.stat(target)
                if info.st_ctime_ns >= older_than_ns:
                    return None
                if not dry_run:
                    os.unlink(target)
            except FileNotFoundError:
                return None
        return info.st_blocks * 512 if info.st_nlink == 1 else 0

    def quarantine(self, digest: bytes) -> Path | None:
        """Move a damaged object out of every mount's sight: opens of it fail from now on and never read wrong bytes.

        Hashed once more under the folder's lock, since another thread may have put a good one in its place. Returns
        where the damaged one is now, None when there is none.
        """
        target = self.quarantine_folder / f"{digest.hex()}.{time.time_ns()}"
        with self._locks[digest[0]]:
            if self.check(digest):
                return None
            try:
                os.rename(self.name(digest), target)
            except FileNotFoundError:
                return None
            except OSError as error:
                raise translate(error, target) from error
        return target

    def check(self, digest: bytes) -> bool:
        """Hash a present object and compare; a disk that cannot read it counts as damage."""
        try:
            return hash_file(self.name(digest)) == digest
        except OSError:
            return False

    def scan(self, folder: str) -> Iterator[tuple[bytes | None, os.DirEntry[str]]]:
        """The entries of one of `FOLDERS` with their digests; None for a name that no object has."""
        with os.scandir(f"{self._root}/{folder}") as entries:
            for entry in entries:
                try:
                    digest = bytes.fromhex(folder + entry.name)
                except ValueError:
                    digest = b""
                yield (digest if len(digest) == 32 else None), entry

    def clear_ingest(self) -> int:
        """Delete what an earlier process left in `ingest/`; only while opening the store. Returns the file count."""
        names = os.listdir(self._ingest)
        for name in names:
            os.unlink(f"{self._ingest}/{name}")
        return len(names)
