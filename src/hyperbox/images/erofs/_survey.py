"""First pass of the writer: the tree in image order, every rule that an entry must keep checked, links counted."""

from __future__ import annotations

from dataclasses import dataclass, field

from hyperbox.api.errors.images import EntryNotStorable, TreeInconsistent
from hyperbox.images.erofs import _format as fmt
from hyperbox.images.tree import Inode, Kind, Tree

_I64 = 1 << 63
_TIME_LIMIT = _I64 * 1_000_000_000
"""Nanoseconds beyond which the seconds exceed 64 bits."""


@dataclass(slots=True)
class Survey:
    """The inodes of a tree, each once, ordered by their first path; inode 0 is the root. Lists run in parallel."""

    inodes: list[Inode] = field(default_factory=list)
    paths: list[bytes] = field(default_factory=list)
    links: list[int] = field(default_factory=list)
    children: dict[int, list[tuple[bytes, int]]] = field(default_factory=dict)
    """Directory → its names and their inodes, in bytewise order of the names, without `.` and `..`."""
    parents: dict[int, int] = field(default_factory=dict)
    """Directory → the directory that holds it; the root holds itself."""


def survey(tree: Tree) -> Survey:
    """Walk `tree` in path order. Raises `TreeInconsistent` and `EntryNotStorable`.

    A parent sorts before everything in it and siblings sort as their names do, so one sort of the paths gives both
    the order of the inodes and the order of the directory entries, whatever order the tree was filled in.
    """
    result = Survey()
    directories: dict[bytes, int] = {}
    numbers: dict[int, int] = {}
    inodes, links = result.inodes, result.links
    directory_kind = Kind.DIRECTORY
    for path in sorted(tree.inodes):
        inode = tree.inodes[path]
        number = numbers.get(id(inode))
        if number is None:
            number = numbers[id(inode)] = len(inodes)
            check_inode(path, inode)
            inodes.append(inode)
            result.paths.append(path)
            links.append(1)
        else:
            links[number] += 1
        directory = inode.kind is directory_kind
        if directory and links[number] > 1:
            raise TreeInconsistent(path=show(path), reason="a directory under two names")
        if path:
            parent = _file_under(result, directories, path, number)
            if directory:
                links[parent] += 1
        else:
            parent = number
        if directory:
            directories[path] = number
            links[number] = 2
            result.children[number] = []
            result.parents[number] = parent
    if not inodes or b"" not in directories:
        raise TreeInconsistent(path="/", reason="the root is missing or no directory")
    return result


def _file_under(result: Survey, directories: dict[bytes, int], path: bytes, number: int) -> int:
    """Enter `path` into its parent's names and return the parent."""
    parent_path, _, name = path.rpartition(b"/")
    parent = directories.get(parent_path)
    if parent is None or path[0] == 0x2F:
        raise TreeInconsistent(path=show(path), reason="its parent is missing or no directory")
    if name in (b"", b".", b"..") or b"\0" in name:
        raise TreeInconsistent(path=show(path), reason="no valid name")
    if len(name) > fmt.NAME_MAX:
        raise EntryNotStorable(path=show(path), reason=f"its name is longer than {fmt.NAME_MAX} bytes")
    if len(path) > fmt.PATH_MAX:
        raise EntryNotStorable(path=show(path), reason=f"its path is longer than {fmt.PATH_MAX} bytes")
    result.children[parent].append((name, number))
    return parent


def check_inode(path: bytes, inode: Inode) -> None:
    """Raise `TreeInconsistent` or `EntryNotStorable` where the inode itself cannot be written."""
    if not (0 <= inode.uid < fmt.NOBODY and 0 <= inode.gid < fmt.NOBODY):
        raise EntryNotStorable(path=show(path), reason=f"owner {inode.uid}:{inode.gid} is none that the kernel knows")
    if not -_TIME_LIMIT <= inode.mtime_ns < _TIME_LIMIT:
        raise EntryNotStorable(path=show(path), reason="its modification time is beyond 64 bits")
    if not 0 <= inode.mode <= 0o7777:
        raise TreeInconsistent(path=show(path), reason=f"mode {inode.mode:o} is more than permission bits")
    if inode.digest is not None and inode.kind is not Kind.FILE:
        raise TreeInconsistent(path=show(path), reason="content, but no regular file")
    if inode.opaque and inode.kind is not Kind.DIRECTORY:
        raise TreeInconsistent(path=show(path), reason="opaque, but no directory")
    kind = inode.kind
    if kind is Kind.FILE:
        _check_file(path, inode)
    elif kind is Kind.SYMLINK:
        if not inode.target or b"\0" in inode.target:
            raise TreeInconsistent(path=show(path), reason="a symbolic link to nothing")
        if len(inode.target) > fmt.PATH_MAX:
            raise EntryNotStorable(path=show(path), reason=f"its target is longer than {fmt.PATH_MAX} bytes")
    elif kind in (Kind.CHARACTER, Kind.BLOCK) and fmt.encode_device(*inode.rdev) is None:
        raise EntryNotStorable(path=show(path), reason=f"device number {inode.rdev[0]}:{inode.rdev[1]} is too large")


def _check_file(path: bytes, inode: Inode) -> None:
    if inode.digest is not None:
        if len(inode.digest) != 32 or inode.data is not None:
            raise TreeInconsistent(path=show(path), reason="content by a wrong digest, or by digest and data at once")
    elif inode.size != len(inode.data or b""):
        raise TreeInconsistent(path=show(path), reason="its size is not that of its content")
    if not 0 <= inode.size < _I64:
        raise EntryNotStorable(path=show(path), reason=f"size {inode.size} is beyond 63 bits")


def show(path: bytes) -> str:
    """Return `path` for a message."""
    return "/" + path.decode("utf-8", "backslashreplace")
