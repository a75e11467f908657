"""The kernel, typed: mounts, mount table, page cache, file system facts, what this kernel can do, systemd.

In four layers: the binding (declarations, errno to exception), handles (one descriptor each), parsers (pure functions
of bytes) and what is exported here. Paths may be `str`, `bytes` or path objects. Everything raises the errors of
`hyperbox.api.errors.linux`. Names load on first use, so importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperbox.linux._erofs import Backing, mount_erofs
    from hyperbox.linux._filesystem import FilesystemUsage, filesystem_usage, parse_statfs, syncfs
    from hyperbox.linux._mountinfo import MountEntry, is_mount_point, mountinfo, parse_mountinfo
    from hyperbox.linux._mounts import (
        MountFlag,
        UmountFlag,
        bind,
        ensure_private_folder,
        make_private,
        mount,
        umount,
    )
    from hyperbox.linux._overlay import mount_overlay, overlay_options

_HOME = {
    "_erofs": ("Backing", "mount_erofs"),
    "_filesystem": ("FilesystemUsage", "filesystem_usage", "parse_statfs", "syncfs"),
    "_mountinfo": ("MountEntry", "is_mount_point", "mountinfo", "parse_mountinfo"),
    "_mounts": ("MountFlag", "UmountFlag", "bind", "ensure_private_folder", "make_private", "mount", "umount"),
    "_overlay": ("mount_overlay", "overlay_options"),
}
_WHERE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Backing",
    "FilesystemUsage",
    "MountEntry",
    "MountFlag",
    "UmountFlag",
    "bind",
    "ensure_private_folder",
    "filesystem_usage",
    "is_mount_point",
    "make_private",
    "mount",
    "mount_erofs",
    "mount_overlay",
    "mountinfo",
    "overlay_options",
    "parse_mountinfo",
    "parse_statfs",
    "syncfs",
    "umount",
]


def __getattr__(name: str) -> Any:
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
