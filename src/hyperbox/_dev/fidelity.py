"""Compares the trees that two containers see, in everything that a program could notice.

Compared: path, type, permission bits, owner, size and content of files, target of links, modification time to the
nanosecond, extended attributes, device numbers, hard-link groups and link counts of files, and whether the whole tree
has one device number. Not compared: size and link count of directories and inode numbers, which each file system
gives as it likes.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

_ENGINE_TREES = ("proc", "sys", "dev")
"""Folders that the engine fills in every container; whatever else it mounts is found in the container's mount table."""
_ENGINE_MADE = frozenset({b"", b".dockerenv", b"etc", b"etc/mtab"})
"""What Docker writes into when it creates a container: their modification time is the moment of that."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a program sees of one path."""

    type: str
    mode: int
    uid: int
    gid: int
    size: int
    """Bytes of a file, length of a link's target, 0 for all else."""
    mtime_ns: int
    content: str
    """sha256 of a file, target of a link, empty for all else."""
    device: tuple[int, int]
    """Numbers of a device node."""
    xattrs: tuple[tuple[str, bytes], ...]
    links: int
    """Link count of what is not a directory."""
    group: bytes
    """First path, in byte order, that is the same inode."""


@dataclass(frozen=True, slots=True)
class Scan:
    """All paths of a tree, relative to its root, and the device numbers that occur in it."""

    paths: dict[bytes, Facts]
    devices: frozenset[int]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two containers see."""

    paths: int
    """Number of paths that were compared."""
    differences: tuple[str, ...]
    """One line each; none when the trees are the same."""


def compare_containers(left: int, right: int) -> Comparison:
    """Compare the root folders of two running containers, given by the id of a process in each.

    Left out: what the engine mounts in every container, and the modification time of the four paths that Docker itself
    writes when it creates a container. That the whole tree has one device number is part of the comparison.
    """
    trees = []
    for pid in (left, right):
        root = Path(f"/proc/{pid}/root")
        trees.append(scan(root, (*_ENGINE_TREES, *_mount_points(pid))))
    found = [f"{side}: device numbers {sorted(tree.devices)}, not one" for side, tree in zip(("left", "right"), trees,
             strict=True) if len(tree.devices) != 1]  # fmt: skip
    found += differences(*trees, made_by_engine=_ENGINE_MADE)
    return Comparison(len(trees[0].paths), tuple(found))


def _mount_points(pid: int) -> list[str]:
    with open(f"/proc/{pid}/mountinfo") as table:
        points = [line.split()[4].encode().decode("unicode_escape") for line in table]
    return [point for point in points if point != "/"]


def scan(root: Path, skip: Iterable[str] = ()) -> Scan:
    """Read a whole tree; `skip` names paths below it (mount points of the engine) that are left out."""
    skipped = {os.fsencode(name.strip("/")) for name in skip}
    found = sorted(_walk(os.fsencode(root), b"", skipped))
    groups: dict[tuple[int, int], bytes] = {}
    for path, status in found:
        groups.setdefault((status.st_dev, status.st_ino), path)
    base = os.fsencode(root)
    paths = {
        path: _facts(os.path.join(base, path), status, groups[status.st_dev, status.st_ino]) for path, status in found
    }
    return Scan(paths, frozenset(status.st_dev for _, status in found))


def _walk(base: bytes, path: bytes, skipped: set[bytes]) -> Iterator[tuple[bytes, os.stat_result]]:
    full = os.path.join(base, path) if path else base
    yield path, os.lstat(os.path.join(full, b"."))
    with os.scandir(full) as entries:
        for entry in entries:
            below = os.path.join(path, entry.name) if path else entry.name
            if below in skipped:
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(base, below, skipped)
            else:
                yield below, os.lstat(os.path.join(base, below))


def _facts(full: bytes, status: os.stat_result, group: bytes) -> Facts:
    kind = stat.S_IFMT(status.st_mode)
    content, size = "", 0
    if kind == stat.S_IFREG:
        content, size = _digest(full), status.st_size
    elif kind == stat.S_IFLNK:
        content, size = os.fsdecode(os.readlink(full)), status.st_size
    names = sorted(os.listxattr(full, follow_symlinks=False))
    device = kind in (stat.S_IFCHR, stat.S_IFBLK)
    return Facts(
        type=stat.filemode(status.st_mode)[0],
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        size=size,
        mtime_ns=status.st_mtime_ns,
        content=content,
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if device else (0, 0),
        xattrs=tuple((name, os.getxattr(full, name, follow_symlinks=False)) for name in names),
        links=0 if kind == stat.S_IFDIR else status.st_nlink,
        group=group,
    )


def _digest(path: bytes) -> str:
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(left: Scan, right: Scan, *, made_by_engine: Collection[bytes] = ()) -> list[str]:
    """Say in one line each what differs; empty when the trees are the same.

    The modification time of the paths in `made_by_engine` does not count.
    """
    lines = []
    for path in sorted(left.paths.keys() | right.paths.keys()):
        name = "/" + path.decode(errors="backslashreplace")
        one, other = left.paths.get(path), right.paths.get(path)
        if one is None or other is None:
            lines.append(f"{name}: only on the {'right' if one is None else 'left'}")
            continue
        lines += [
            f"{name}: {field}: {getattr(one, field)!r} and {getattr(other, field)!r}"
            for field in _FIELDS
            if getattr(one, field) != getattr(other, field) and not (field == "mtime_ns" and path in made_by_engine)
        ]
    return lines


_FIELDS = tuple(field.name for field in fields(Facts))
