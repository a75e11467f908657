"""The handle layer: an object that owns one file descriptor and closes it once."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self


class Handle:
    """Owns one file descriptor; a context manager. Closing twice is allowed, using it afterwards is `ValueError`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """The descriptor, still owned by this object."""
        if self._fd < 0:
            raise ValueError("the file descriptor is closed")
        return self._fd

    def close(self) -> None:
        """Close the descriptor if that has not happened yet."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
