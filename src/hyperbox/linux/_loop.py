"""Loop devices, for EROFS images on kernels that cannot mount a file directly."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Final

from hyperbox.linux._binding import StrPath
from hyperbox.linux._handle import Handle

_CTL_GET_FREE: Final = 0x4C82
_CONFIGURE: Final = 0x4C0A  # 5.8
_READ_ONLY: Final = 1
_AUTOCLEAR: Final = 4
_ATTEMPTS: Final = 32

LOOP_CONFIG_FORMAT: Final = "=II5Q4I64s64s32s2Q8Q"
"""`struct loop_config`: fd, block size, `struct loop_info64`, eight reserved words."""


class LoopDevice(Handle):
    """A read-only loop device that frees itself when its last user (this handle or a mount) is gone."""

    def __init__(self, fd: int, path: str) -> None:
        super().__init__(fd)
        self.path = path

    @classmethod
    def attach(cls, image: StrPath) -> LoopDevice:
        """Attach `image` to a free device; `OSError` when there is none or loop devices are missing."""
        backing = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
        try:
            control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
            try:
                return cls._claim(control, backing, os.fsencode(image))
            finally:
                os.close(control)
        finally:
            os.close(backing)

    @classmethod
    def _claim(cls, control: int, backing: int, name: bytes) -> LoopDevice:
        for _ in range(_ATTEMPTS):
            path = f"/dev/loop{fcntl.ioctl(control, _CTL_GET_FREE)}"
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(fd, _CONFIGURE, _config(backing, name))
                return cls(fd, path)
            except OSError as error:
                os.close(fd)
                # Between "this one is free" and "take it" another process may have taken it.
                if error.errno != errno.EBUSY:
                    raise
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), "LOOP_CONFIGURE")


def _config(backing: int, name: bytes) -> bytes:
    flags = _READ_ONLY | _AUTOCLEAR
    info = (0, 0, 0, 0, 0, 0, 0, 0, flags, name[:63], b"", b"", 0, 0)
    return struct.pack(LOOP_CONFIG_FORMAT, backing, 0, *info, *([0] * 8))
