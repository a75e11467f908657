"""How much of a file is in the page cache, and dropping it from there."""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass
from typing import Final

from hyperbox.linux._binding import StrPath, address, mincore, struct_bytes, syscall, translated
from hyperbox.linux._handle import Handle

CACHESTAT_FORMAT: Final = "=5Q"
"""`struct cachestat`: pages cached, dirty, under writeback, evicted, recently evicted."""
RANGE_FORMAT: Final = "=QQ"
"""`struct cachestat_range`: offset and length; length 0 reaches to the end of the file."""


@dataclass(frozen=True, slots=True)
class CacheUse:
    """Bytes of one file in the page cache."""

    resident: int
    dirty: int
    writeback: int


def parse_cachestat(content: bytes, page_size: int) -> CacheUse:
    """Read the 40 bytes of a `struct cachestat`."""
    cached, dirty, writeback, _, _ = struct.unpack(CACHESTAT_FORMAT, content)
    return CacheUse(cached * page_size, dirty * page_size, writeback * page_size)


def cache_use(path: StrPath) -> CacheUse:
    """What the page cache holds of the file `path` (cachestat(2), 6.5; before that mincore(2), without dirty pages).

    Ask for the real file: the cache of a file that is seen through an overlay belongs to the layer's own inode, and
    the overlay's path says 0. Opening the file reads nothing of it. `KernelCallFailed`.
    """
    with translated(f"cachestat {os.fsdecode(path)}"), _open(path) as handle:
        wanted = struct_bytes(16, struct.pack(RANGE_FORMAT, 0, 0))
        result = struct_bytes(40)
        page = os.sysconf("SC_PAGE_SIZE")
        try:
            syscall("cachestat", handle.fileno(), address(wanted), address(result), 0)
        except OSError as error:
            # EPERM: seccomp filters of container engines answer it for calls that they do not know.
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise
        else:
            return parse_cachestat(result.raw, page)
        length = os.fstat(handle.fileno()).st_size
        pages = sum(flag & 1 for flag in mincore(handle.fileno(), length)) if length else 0
        return CacheUse(pages * page, 0, 0)


def resident_bytes(path: StrPath) -> int:
    """Bytes of `path` in the page cache, in whole pages; see `cache_use`."""
    return cache_use(path).resident


def drop_file_cache(path: StrPath) -> None:
    """Ask the kernel to forget the clean, unmapped pages of `path`; what is dirty is written out first."""
    with translated(f"posix_fadvise {os.fsdecode(path)}"), _open(path) as handle:
        os.fdatasync(handle.fileno())
        os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def drop_lookups() -> bool:
    """Have the kernel forget all names and inodes that nobody uses; whether it was allowed to.

    An overlay keeps the data file of each inode that it has looked up, and no call forgets a single one. This one is
    for the whole machine and costs everybody some look-ups, so it is for emergencies. Files that are open stay.
    """
    try:
        with open("/proc/sys/vm/drop_caches", "w") as control:
            control.write("2")
    except OSError:
        return False
    return True


def read_ahead(path: StrPath, offset: int = 0, length: int = 0) -> None:
    """Ask the kernel to bring a range of `path` (length 0: to the end) into the page cache without waiting for it."""
    with translated(f"posix_fadvise {os.fsdecode(path)}"), _open(path) as handle:
        os.posix_fadvise(handle.fileno(), offset, length, os.POSIX_FADV_WILLNEED)


def _open(path: StrPath) -> Handle:
    return Handle(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
