"""Plain mounts, binds, unmounting, propagation.

All functions raise `MountFailed` with the kernel's reason, `NotPrivileged` without CAP_SYS_ADMIN, `FeatureMissing`
where this kernel cannot. A mount that failed leaves nothing behind.
"""

from __future__ import annotations

import enum
import errno
import os

from hyperbox.api.errors.base import HyperBoxError
from hyperbox.api.errors.linux import FeatureMissing, MountBusy, MountFailed, NotMounted, NotPrivileged
from hyperbox.linux._binding import StrPath, reason, syscall, translated
from hyperbox.linux._mountinfo import is_mount_point


class MountFlag(enum.IntFlag):
    """Flags of mount(2)."""

    RDONLY = 0x1
    NOSUID = 0x2
    NODEV = 0x4
    NOEXEC = 0x8
    REMOUNT = 0x20
    NOATIME = 0x400
    BIND = 0x1000
    MOVE = 0x2000
    REC = 0x4000
    PRIVATE = 0x40000
    SLAVE = 0x80000
    SHARED = 0x100000
    RELATIME = 0x200000


class UmountFlag(enum.IntFlag):
    """Flags of umount2(2)."""

    FORCE = 1
    DETACH = 2
    """Take it out of the tree now, clean up when the last user is gone."""
    EXPIRE = 4
    NOFOLLOW = 8


def mount(
    source: StrPath | None, target: StrPath, fstype: str | None = None, flags: int = 0, data: str | bytes = ""
) -> None:
    """mount(2); `data` holds the options, shorter than one page."""
    options = os.fsencode(data)
    if len(options) >= 4096:  # the kernel copies one page and cuts the rest off without a word
        raise MountFailed(fstype=fstype, target=os.fsdecode(target), reason="options are longer than 4095 bytes")
    try:
        syscall(
            "mount",
            None if source is None else os.fsencode(source),
            os.fsencode(target),
            None if fstype is None else fstype.encode(),
            int(flags),
            options or None,
        )
    except OSError as error:
        raise mount_error(error, fstype or "bind", target) from error


def umount(target: StrPath, flags: int = UmountFlag.NOFOLLOW) -> None:
    """umount2(2); `MountBusy` while somebody uses it, `NotMounted` when nothing is mounted there."""
    with translated("umount2"):
        try:
            syscall("umount2", os.fsencode(target), int(flags))
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise MountBusy(target=os.fsdecode(target), reason=reason(error)) from error
            if error.errno in (errno.EINVAL, errno.ENOENT) and not is_mount_point(target):
                raise NotMounted(target=os.fsdecode(target)) from error
            raise


def bind(source: StrPath, target: StrPath, *, readonly: bool = False, recursive: bool = False) -> None:
    """Show `source` (a folder or a file) at `target` too."""
    flags = MountFlag.BIND | (MountFlag.REC if recursive else 0)
    mount(source, target, None, flags)
    if readonly:
        # A bind takes no other flags with it; they need a second call.
        try:
            mount(None, target, None, MountFlag.BIND | MountFlag.REMOUNT | MountFlag.RDONLY)
        except HyperBoxError:
            umount(target, UmountFlag.DETACH | UmountFlag.NOFOLLOW)
            raise


def make_private(target: StrPath, *, recursive: bool = False) -> None:
    """Stop mounts below `target` from appearing in other mount namespaces, and theirs from appearing here.

    `NotMounted` when `target` is no mount point.
    """
    try:
        mount(None, target, None, MountFlag.PRIVATE | (MountFlag.REC if recursive else 0))
    except MountFailed as error:
        if not is_mount_point(target):
            raise NotMounted(target=os.fsdecode(target)) from error
        raise


def ensure_private_folder(folder: StrPath) -> None:
    """Make `folder` a private mount point (bound on itself when nothing is mounted there): mounts inside stay here.

    Under a shared parent every mount is copied into the namespaces of services with `PrivateMounts=` and the like,
    which keep it busy after we unmounted ours.
    """
    if not is_mount_point(folder):
        bind(folder, folder)
    make_private(folder)


def mount_error(error: OSError, fstype: str, target: StrPath, *said: str) -> HyperBoxError:
    """The error for a refused mount; `said` are the kernel's own messages."""
    if error.errno == errno.EPERM and not said:
        return NotPrivileged(call=f"mounting {fstype}", capability="CAP_SYS_ADMIN")
    if error.errno == errno.ENODEV and not said:
        return FeatureMissing(feature=f"the file system type {fstype}")
    return MountFailed(fstype=fstype, target=os.fsdecode(target), reason="; ".join([*said, reason(error)]))
