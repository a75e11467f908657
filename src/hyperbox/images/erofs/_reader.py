"""EROFS images read in Python: single look-ups without parsing the rest, or the whole tree.

Reads what `build` writes, and uncompressed images of other tools as far as they mean the same. Trusts nothing: every
offset is checked, and what is read in all never exceeds the length of the image. So a hostile image costs time and
memory in proportion to its own length.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from collections.abc import Iterator
from typing import Self

from hyperbox.images.erofs import _format as fmt
from hyperbox.images.erofs._image import Budget, Image, Names, RawInode, SharedXattrs, malformed
from hyperbox.images.tree import Inode, Kind, Tree


class Reader:
    """A read-only view of an EROFS image, given as bytes or as the path of a file (which is mapped, not read).

    Raises `ErofsMalformed` wherever the image contradicts the format or itself, and `OSError` where the file cannot
    be opened. Safe to use from several threads until it is closed. Close it, or use it as a context manager.
    """

    def __init__(self, source: bytes | bytearray | memoryview | str | os.PathLike[str]) -> None:
        self._map: mmap.mmap | None = None
        if isinstance(source, bytes | bytearray | memoryview):
            self._image = Image(bytes(source))
            return
        with open(source, "rb") as file:
            if os.fstat(file.fileno()).st_size < fmt.BLOCK:
                malformed(0, "shorter than one block")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            self._image = Image(self._map)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file. Harmless when repeated."""
        if self._map is not None:
            self._map.close()

    def lookup(self, path: bytes) -> Inode | None:
        """Return the inode at `path` (relative, `b""` is the root) or None. Follows no symbolic links.

        Reads the blocks on the way only: a binary search per directory. Each call returns a new `Inode`, for hard
        links too.
        """
        image = self._image
        try:
            raw = image.raw(image.root)
            for name in path.split(b"/") if path else ():
                if name in (b"", b".", b"..") or not stat.S_ISDIR(raw.mode):
                    return None
                nid = image.find(raw, name)
                if nid is None:
                    return None
                raw = image.raw(nid)
            return image.inode(raw, SharedXattrs(image, Budget(len(image.data))))
        except (struct.error, IndexError):
            malformed(len(image.data), "cut short")

    def tree(self) -> Tree:
        """Return everything. Paths of one inode share one `Inode`; `implicit` is never set."""
        try:
            return _Walk(self._image).run()
        except (struct.error, IndexError):
            malformed(len(self._image.data), "cut short")


class _Walk:
    """One reading of a whole image."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.budget = Budget(len(image.data))
        self.shared = SharedXattrs(image, self.budget)
        self.known: dict[int, Inode] = {}
        self.inodes: dict[bytes, Inode] = {}

    def run(self) -> Tree:
        """Walk depth first."""
        image = self.image
        todo = [(b"", image.root, image.root, fmt.KIND_DIRENT_TYPES[Kind.DIRECTORY])]
        while todo:
            path, nid, parent, kind = todo.pop()
            if len(path) > fmt.PATH_MAX:
                malformed(image.offset(parent), "a path too long")
            raw = None
            inode = self.known.get(nid)
            if inode is None:
                raw = image.raw(nid)
                inode = self.known[nid] = image.inode(raw, self.shared)
                self._spend(raw, inode)
            elif inode.kind is Kind.DIRECTORY:
                malformed(image.offset(nid), "a directory under two names")
            if fmt.KIND_DIRENT_TYPES[inode.kind] != kind:
                malformed(image.offset(nid), "an inode of another type than its name says")
            self.inodes[path] = inode
            if inode.kind is Kind.DIRECTORY and raw is not None:
                prefix = path + b"/" if path else b""
                todo.extend((prefix + name, child, nid, kind) for name, child, kind in self._entries(raw, parent))
        tree = Tree()
        tree.inodes = self.inodes
        return tree

    def _spend(self, raw: RawInode, inode: Inode) -> None:
        size = raw.end - self.image.offset(raw.nid)
        if inode.digest is not None:
            size += len(fmt.CHUNK_HOLE) * fmt.chunk_count(raw.size, raw.union) if raw.size else 0
        elif inode.kind in (Kind.FILE, Kind.SYMLINK, Kind.DIRECTORY):
            size += raw.size
        self.budget.spend(size, raw.body)

    def _entries(self, raw: RawInode, parent: int) -> Iterator[tuple[bytes, int, int]]:
        """Yield name, nid and type of what is in a directory; check order, `.` and `..`."""
        image = self.image
        image.check_directory(raw)
        own = {b".": raw.nid, b"..": parent}
        before = b""
        for index in range((raw.size - 1) // fmt.BLOCK + 1):
            for name, nid, kind in Names(raw, image.block(raw, index)).entries():
                if name <= before or b"/" in name or b"\0" in name:
                    malformed(raw.body, "names out of order, or a name that is a path")
                before = name
                if name not in own:
                    yield name, nid, kind
                elif own.pop(name) != nid:
                    malformed(raw.body, "a directory that is not where it says")
        if own:
            malformed(raw.body, "a directory without itself or its parent")
