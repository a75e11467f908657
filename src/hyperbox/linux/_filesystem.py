"""Facts about the file system under a path, and its durability barrier."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Final

from hyperbox.linux._binding import StrPath, statfs, syscall, translated
from hyperbox.linux._handle import Handle

STATFS_FORMAT: Final = "=qq5Q2iqqq4q"
"""`struct statfs` on 64-bit machines: type, block size, blocks, free, available, files, free files, id, name length,
fragment size, flags, spare."""

_NAMES: Final = {
    0xEF53: "ext4",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0x01021994: "tmpfs",
    0x794C7630: "overlay",
    0xE0F5E1E2: "erofs",
    0x2FC12FC1: "zfs",
    0x9FA0: "proc",
    0x62656572: "sysfs",
    0xF2F52010: "f2fs",
    0x6969: "nfs",
    0x65735546: "fuse",
    0x73717368: "squashfs",
    0x63677270: "cgroup2",
    0x27E0EB: "cgroup",
    0xCA451A4E: "bcachefs",
    0xFF534D42: "cifs",
    0x01021997: "9p",
    0x858458F6: "ramfs",
}


@dataclass(frozen=True, slots=True)
class FilesystemUsage:
    """What statfs(2) says; sizes in bytes."""

    type_name: str
    """`ext4`, `xfs`, …; the hexadecimal magic number of a type that we have no name for."""
    magic: int
    block_size: int
    total_bytes: int
    free_bytes: int
    """Free for an ordinary user: what root keeps in reserve is not counted."""
    total_inodes: int
    free_inodes: int
    readonly: bool


def parse_statfs(content: bytes) -> FilesystemUsage:
    """Read the 120 bytes of a `struct statfs`."""
    magic, _, blocks, _, available, files, free_files, *rest = struct.unpack(STATFS_FORMAT, content)
    fragment, flags = rest[3], rest[4]
    magic &= 0xFFFFFFFF
    return FilesystemUsage(
        type_name=_NAMES.get(magic, hex(magic)),
        magic=magic,
        block_size=fragment,
        total_bytes=blocks * fragment,
        free_bytes=available * fragment,
        total_inodes=files,
        free_inodes=free_files,
        readonly=bool(flags & 1),
    )


def filesystem_usage(path: StrPath) -> FilesystemUsage:
    """Type, size and free space of the file system that holds `path`; `KernelCallFailed`."""
    with translated(f"statfs {os.fsdecode(path)}"):
        return parse_statfs(statfs(os.fsencode(path)))


def syncfs(target: StrPath | int) -> None:
    """Write everything of the file system that holds `target` (a path or an open descriptor) to its disk.

    Since Linux 5.8 a write error since the last call is reported: `KernelCallFailed`. Can take seconds.
    """
    with translated("syncfs"):
        if isinstance(target, int):
            syscall("syncfs", target)
            return
        with Handle(os.open(target, os.O_RDONLY | os.O_CLOEXEC)) as handle:
            syscall("syncfs", handle.fileno())
