"""A layer as a tree of inodes: what tar readers and folder walkers produce and the EROFS writer consumes.

A tree maps paths to inodes. Hard links are several paths that map to the *same* `Inode` object. Whiteouts and opaque
directories are inodes and flags of their own; how a file system spells them (0/0 character device, xattr) is the
business of whoever writes it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field


class Kind(enum.IntEnum):
    """What an inode is."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    CHARACTER = 4
    BLOCK = 5
    FIFO = 6
    SOCKET = 7
    WHITEOUT = 8
    """Hides the name in the layers below."""


@dataclass(slots=True)
class Inode:
    """One file-system object of a layer. Two paths that share one `Inode` are hard links of each other."""

    kind: Kind
    mode: int = 0o644
    """Permission bits with set-uid, set-gid and sticky (07777); never the file type."""
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    """Nanoseconds since the epoch; may be negative."""
    size: int = 0
    """Bytes of content (regular files only)."""
    digest: bytes | None = None
    """Raw sha256 (32 bytes) of a regular file's content; None where `data` holds it or the file is empty."""
    data: bytes | None = None
    """Content of a regular file that travels inside the layer metadata (tiny and empty files)."""
    target: bytes = b""
    """Where a symlink points to."""
    rdev: tuple[int, int] = (0, 0)
    """Major and minor number of a device."""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    """Extended attributes by full name; never any in `trusted.overlay.`."""
    opaque: bool = False
    """A directory that hides the content of the directories of the same path below."""
    implicit: bool = False
    """A directory that the layer does not name itself: its attributes come from the layers below."""


class Tree:
    """Paths of one layer and their inodes. Paths are relative bytes without leading slash; `b""` is the root."""

    __slots__ = ("inodes",)

    def __init__(self) -> None:
        self.inodes: dict[bytes, Inode] = {b"": Inode(Kind.DIRECTORY, 0o755, implicit=True)}

    def __len__(self) -> int:
        return len(self.inodes)

    def __getitem__(self, path: bytes) -> Inode:
        return self.inodes[path]

    def __contains__(self, path: bytes) -> bool:
        return path in self.inodes

    def get(self, path: bytes) -> Inode | None:
        """Return the inode at `path`, or None."""
        return self.inodes.get(path)

    def items(self) -> Iterator[tuple[bytes, Inode]]:
        """Yield paths and inodes in no particular order."""
        yield from self.inodes.items()

    def objects(self) -> dict[bytes, int]:
        """Return raw digest → size of all content that lies outside the tree."""
        return {i.digest: i.size for i in self.inodes.values() if i.digest is not None}
