"""The two write primitives: every file of the state folder is written by one of them (SQLite's own apart).

What a crash leaves behind is stated on each. Two kinds of crash are told apart:

- *process death* (SIGKILL, out of memory): the page cache lives on, so everything that was written and renamed
  before the death is there, in that order;
- *power loss* (also a kernel panic): only what was synced is sure. ext4 and xfs may keep the rename of a file and
  lose its data (delayed allocation), which shows as an empty or short file under a final name.

Sizes are bytes. `OSError` never leaves this module while writing: it becomes `StoreFull` or `StoreWriteFailed`.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from pathlib import Path
from typing import Final

from hyperbox.api.errors.base import HyperBoxError
from hyperbox.api.errors.store import StoreFull, StoreWriteFailed

READ_ONLY: Final = 0o400
"""Mode of finished files: nobody writes them again; root reads them regardless."""

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_counter: Final = itertools.count()


def translate(error: OSError, path: str | os.PathLike[str]) -> HyperBoxError:
    """The named error for what the file system said about `path`."""
    kind = StoreFull if error.errno in _FULL else StoreWriteFailed
    return kind(path=os.fspath(path), reason=error.strerror or str(error))


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Make the names in a folder survive power loss. Raises `StoreWriteFailed`."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise translate(error, path) from error


def atomic_replace(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace a small file as a whole.

    At any moment, over process death and power loss alike, `path` is either the old file or the new one, never a
    mixture and never absent if it was there. When this returns, the new one survives power loss. A crash can leave
    a file `.<name>.new` beside it, which the next call overwrites.

    Raises `StoreFull` or `StoreWriteFailed`; the old file is then untouched.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            _write_all(fd, memoryview(data))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise translate(error, path) from error
    sync_directory(path.parent)


def _write_all(fd: int, view: memoryview) -> None:
    # A file system that is nearly full takes a part and refuses the next call.
    written = os.write(fd, view)
    while written < len(view):
        written += os.write(fd, view[written:])


class StagedFile:
    """The streaming write: bytes go to a nameless-to-others file in `ingest/`, then get their final name at once.

    Until `publish`, nothing outside `ingest/` has changed; a crash leaves at most that file, and opening the store
    deletes it. After `publish(durable=False)`, process death loses nothing, and after power loss the name can be
    there with wrong content: only content-addressed files may be published so, because the durability check finds
    and removes them. After `publish(durable=True)`, name and content survive power loss.

    One thread uses it. Its name has the process id and a counter, so threads never meet; the store's lock keeps
    other processes away.
    """

    __slots__ = ("_fd", "_holes", "path", "size")

    def __init__(self, ingest: str, mode: int = READ_ONLY) -> None:
        self.path = f"{ingest}/{os.getpid()}.{next(_counter)}"
        self.size = 0
        self._holes = False
        try:
            # The mode holds for later opens; this descriptor can write.
            self._fd = os.open(self.path, _NEW, mode)
        except OSError as error:
            self._fd = -1
            raise translate(error, self.path) from error

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        try:
            written = os.write(self._fd, data)
            if written < len(data):
                _write_all(self._fd, memoryview(data)[written:])
        except OSError as error:
            self.abort()
            raise translate(error, self.path) from error
        self.size += len(data)
        self._holes = False

    def zeros(self, count: int) -> None:
        """Append a hole of `count` bytes: reads as zeros and takes no blocks."""
        if count <= 0:
            return
        try:
            os.lseek(self._fd, count, os.SEEK_CUR)
        except OSError as error:
            self.abort()
            raise translate(error, self.path) from error
        self.size += count
        self._holes = True

    def finish(self, *, durable: bool = False) -> None:
        """Close the file with its whole content; `publish` or `abort` comes next."""
        fd, self._fd = self._fd, -1
        try:
            if self._holes:
                os.ftruncate(fd, self.size)
            if durable:
                os.fsync(fd)
            os.close(fd)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.close(fd)
            self.abort()
            raise translate(error, self.path) from error

    def publish(self, target: str, *, durable: bool = False) -> None:
        """Give the file its final name, replacing what has it. Raises and leaves nothing behind when it cannot."""
        if self._fd >= 0:
            self.finish(durable=durable)
        try:
            os.rename(self.path, target)
        except OSError as error:
            self.abort()
            raise translate(error, target) from error
        if durable:
            sync_directory(os.path.dirname(target))

    def abort(self) -> None:
        """Throw the file away; does nothing after `publish`."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        with contextlib.suppress(OSError):
            os.unlink(self.path)
