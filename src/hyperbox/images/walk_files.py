"""Contents of a folder's files on their way into objects. Raises `FolderChanged` and what the object store raises."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from typing import Final

from hyperbox.api.errors.images import FolderChanged
from hyperbox.images.ingest import INLINE, ObjectSink
from hyperbox.images.tree import Inode

_CHUNK: Final = 1 << 20
_ZEROS: Final = bytes(_CHUNK)
# A fifo that took the file's place must not make the open wait; a symlink must not lead it away.
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class FileIntake:
    """Reads, hashes and stores files, and counts what was new. Any number of threads may share one."""

    def __init__(self, sink: ObjectSink) -> None:
        self.new_objects = self.new_bytes = 0
        self.known_objects = self.known_bytes = 0
        self.inline_bytes = 0
        self._sink = sink
        self._lock = threading.Lock()

    def take(self, inode: Inode, path: bytes, *, adopt: bool) -> None:
        """Fill in `data` or `digest` of an inode whose size is known.

        With `adopt` the file itself becomes the object, by a hard link; otherwise it is copied.
        """
        try:
            fd = os.open(path, _FLAGS)
        except OSError as error:
            raise FolderChanged(path=os.fsdecode(path), reason=error.strerror or error) from error
        try:
            before = os.fstat(fd)
            if before.st_size != inode.size:
                raise FolderChanged(path=os.fsdecode(path), reason="its size changed")
            if inode.size <= INLINE:
                inode.data = os.read(fd, INLINE + 1)
            elif inode.size <= _CHUNK:
                self._small(inode, fd, path, adopt=adopt)
            else:
                self._large(inode, fd, path, adopt=adopt)
            after = os.fstat(fd)
            if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise FolderChanged(path=os.fsdecode(path), reason="it was written")
        except OSError as error:
            raise FolderChanged(path=os.fsdecode(path), reason=error.strerror or error) from error
        finally:
            os.close(fd)
        if inode.data is not None:
            if len(inode.data) != inode.size:
                raise FolderChanged(path=os.fsdecode(path), reason="its size changed")
            with self._lock:
                self.inline_bytes += inode.size

    def _small(self, inode: Inode, fd: int, path: bytes, *, adopt: bool) -> None:
        data = os.read(fd, inode.size)
        if len(data) != inode.size:
            raise FolderChanged(path=os.fsdecode(path), reason="its size changed")
        inode.digest = hashlib.sha256(data).digest()
        known = self._sink.take(inode.digest, inode.size)
        if not known:
            if adopt:
                self._sink.adopt(os.fsdecode(path), inode.digest, inode.size)
            else:
                self._sink.put(data, inode.digest)
        self._count(inode.size, known=known)

    def _large(self, inode: Inode, fd: int, path: bytes, *, adopt: bool) -> None:
        digest = hashlib.sha256()
        for piece in _pieces(fd, inode.size):
            digest.update(_ZEROS[:piece] if isinstance(piece, int) else piece)
        inode.digest = digest.digest()
        known = self._sink.take(inode.digest, inode.size)
        if not known:
            if adopt:
                self._sink.adopt(os.fsdecode(path), inode.digest, inode.size)
            else:
                self._copy(inode.digest, fd, inode.size)
        self._count(inode.size, known=known)

    def _copy(self, digest: bytes, fd: int, size: int) -> None:
        writer = self._sink.writer(size)
        try:
            for piece in _pieces(fd, size):
                if isinstance(piece, int):
                    writer.zeros(piece)
                else:
                    writer.write(piece)
            writer.commit(digest)
        except BaseException:
            writer.abort()
            raise

    def _count(self, size: int, *, known: bool) -> None:
        with self._lock:
            if known:
                self.known_objects += 1
                self.known_bytes += size
            else:
                self.new_objects += 1
                self.new_bytes += size


def _pieces(fd: int, size: int) -> Iterator[bytes | int]:
    """A file's content: bytes, and numbers for as many zeros of a hole; at most a MiB each."""
    at = 0
    while at < size:
        try:
            data = min(os.lseek(fd, at, os.SEEK_DATA), size)
        except OSError:
            data = size  # ENXIO: nothing but a hole up to the end
        for start in range(at, data, _CHUNK):
            yield min(_CHUNK, data - start)
        at = data
        if at == size:
            return
        end = min(os.lseek(fd, at, os.SEEK_HOLE), size)
        while at < end:
            piece = os.pread(fd, min(_CHUNK, end - at), at)
            if not piece:
                raise FolderChanged(path=f"/proc/self/fd/{fd}", reason="it became shorter")
            yield piece
            at += len(piece)
