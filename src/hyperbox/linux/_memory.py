"""The process's own memory: how glibc's allocator keeps it, and giving it back."""

from __future__ import annotations

import gc
from typing import Final

from hyperbox.linux import _binding

# malloc.h of glibc
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_ARENAS: Final = 1
_MAPPED_FROM: Final = 256 << 10


def keep_heap_small() -> bool:
    """Let the allocator keep little: one arena, and buffers of 256 KiB or more in mappings of their own.

    Without it, each thread that unpacks gets an arena, and the threshold for mappings grows with the first large
    buffer that is freed; both keep tens of megabytes after a pull. Call it before threads are started. Returns whether
    libc knows how.
    """
    # Both are wanted, also when the first is refused.
    return all([_binding.mallopt(_M_ARENA_MAX, _ARENAS), _binding.mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM)])


def trim_memory() -> None:
    """Give the kernel back what the process has freed. Takes a few milliseconds, more after large work."""
    gc.collect()
    _binding.malloc_trim()
