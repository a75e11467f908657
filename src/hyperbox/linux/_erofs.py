"""Mounting EROFS images: from the file where the kernel can (6.12), through a loop device elsewhere."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final, Literal

from hyperbox.api.errors.linux import NotPrivileged
from hyperbox.linux._binding import StrPath
from hyperbox.linux._loop import LoopDevice
from hyperbox.linux._mountapi import MOUNT_ATTR_RDONLY, FsContext, short_path
from hyperbox.linux._mounts import mount_error

Backing = Literal["file", "loop"]

# ENOTBLK: no file-backed mounts before 6.12, or built without them. EINVAL: a stacked file system or another EROFS
# holds the image, which file-backed mounts refuse; a broken image says EINVAL too and fails again on the loop device.
_TRY_LOOP: Final = frozenset({errno.ENOTBLK, errno.EINVAL, errno.EOPNOTSUPP, errno.ELOOP})


def mount_erofs(image: StrPath, target: StrPath, *, backing: Backing | Literal["auto"] = "auto") -> Backing:
    """Mount the EROFS file `image` read-only (ro,relatime) on `target`; says what it is backed by.

    Devices and set-user-id programs in it work: it is a lower layer of containers. `MountFailed` for a bad image or a
    missing loop device, `FeatureMissing` when the kernel has no EROFS, `NotPrivileged`.
    """
    said: list[str] = []
    if backing != "loop":
        try:
            _mount_device(image, target, said)
        except OSError as error:
            if backing == "file" or error.errno not in _TRY_LOOP:
                raise mount_error(error, "erofs", target, *said) from error
        else:
            return "file"
    try:
        with LoopDevice.attach(image) as device:
            said.clear()
            _mount_device(device.path, target, said)
    except OSError as error:
        if error.errno == errno.EACCES and os.geteuid() != 0:
            raise NotPrivileged(call="attaching a loop device", capability="CAP_SYS_ADMIN") from error
        # The kernel tells what is wrong with an image only to its log.
        hint = ["not an EROFS image that this kernel can read"] if error.errno == errno.EINVAL and not said else []
        raise mount_error(error, "erofs", target, *said, *hint) from error
    return "loop"


def _mount_device(source: StrPath, target: StrPath, said: list[str]) -> None:
    """Mount `source`; on failure `said` gets the kernel's messages and `OSError` goes on."""
    with FsContext.open("erofs") as context:
        try:
            with contextlib.ExitStack() as held:
                context.set("source", short_path(source, held))
                context.set("ro")
                context.create()
        except OSError:
            said += context.log()
            raise
        with context.mount(MOUNT_ATTR_RDONLY) as mount:
            mount.attach(target)
