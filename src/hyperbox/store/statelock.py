"""One process per state folder: an flock on `STATE/lock`, with the holder's process id in the file."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from hyperbox.api.errors.store import StoreLocked, StoreUnusable


class StateLock:
    """The lock, held from construction to `release`; the kernel frees it when the process dies.

    Raises `StoreLocked` with the holder's process id, `StoreUnusable` when the file cannot be made.
    """

    def __init__(self, state: Path) -> None:
        try:
            self._fd = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnusable(state=state, reason=error.strerror or error) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            self._fd = -1
            if isinstance(error, BlockingIOError):
                raise StoreLocked(state=state, pid=holder) from None
            raise StoreUnusable(state=state, reason=f"flock: {error.strerror}") from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let the next process in; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
