"""What images take: blocks on the disk and pages in the page cache."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from hyperbox import linux
from hyperbox.api.errors.linux import KernelCallFailed


def disk_bytes(folders: Iterable[Path]) -> int:
    """Bytes of allocated blocks in folders, each inode once. Other file systems mounted in them are left out."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for folder in folders:
        for _, status in _walk(os.fsencode(folder)):
            inode = (status.st_dev, status.st_ino)
            if inode not in seen:
                seen.add(inode)
                total += status.st_blocks * 512
    return total


def cached_bytes(folders: Iterable[Path], mounts: Iterable[Path] = ()) -> int:
    """Bytes in the page cache of all files in folders, each inode once, and of those in `mounts`.

    `mounts` are mounted EROFS images: a small file that lies in its image, and a folder, has pages of its own there
    besides those of the image file. They are counted last, because looking at them reads the image.
    """
    seen: set[tuple[int, int]] = set()
    total = 0
    for top in (*folders, *mounts):
        for path, status in _walk(os.fsencode(top)):
            inode = (status.st_dev, status.st_ino)
            if inode in seen or not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                continue
            seen.add(inode)
            try:
                total += linux.resident_bytes(path)
            except KernelCallFailed:
                continue  # it went away between the listing and now
    return total


def drop_caches() -> None:
    """Write out what is dirty and empty the kernel's caches of pages, folders and inodes: the whole machine's."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def cache_drops() -> int:
    """How often the machine's caches have been emptied by hand since boot, by anybody."""
    fields = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(fields["drop_pagecache"])


def _walk(top: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """All paths of one file system at and below `top`; a folder comes before anything has listed it."""
    try:
        status = os.lstat(top)
    except FileNotFoundError:
        return
    yield from _below(top, status)


def _below(path: bytes, status: os.stat_result) -> Iterator[tuple[bytes, os.stat_result]]:
    yield path, status
    if not stat.S_ISDIR(status.st_mode):
        return
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        return
    for name in names:
        below = os.path.join(path, name)
        try:
            found = os.lstat(below)
        except FileNotFoundError:
            continue
        if found.st_dev == status.st_dev:
            yield from _below(below, found)
