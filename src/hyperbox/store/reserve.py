"""A file that takes some space until the disk is full: then it goes, so that what frees space can be written down.

Removing a snapshot or a layer changes the catalogue, which takes a few pages itself. Without the reserve, nobody could
remove anything from a disk without a free block.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

_MOST: Final = 4 << 20
"""Bytes, enough for hundreds of removals."""
_SHARE: Final = 16
"""On a small file system, this part of it at most."""


class Reserve:
    """The file `STATE/reserve`. Thread-safe: each method is one or two system calls that may fail harmlessly."""

    def __init__(self, state: Path) -> None:
        self._path = state / "reserve"
        room = os.statvfs(state)
        self._size = min(_MOST, room.f_blocks * room.f_frsize // _SHARE)

    def fill(self) -> None:
        """Take the space, if it is not taken and there is that much and as much again."""
        if self._path.exists():
            return
        room = os.statvfs(self._path.parent)
        if room.f_bavail * room.f_frsize < 2 * self._size:
            return
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self._size)
            finally:
                os.close(descriptor)
        except OSError:
            self.release()

    def release(self) -> bool:
        """Give the space up; whether there was any."""
        with contextlib.suppress(OSError):
            self._path.unlink()
            return True
        return False
