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
    from hyperbox.linux._features import DataPath, Feature, Features
    from hyperbox.linux._filesystem import FilesystemUsage, filesystem_usage, parse_statfs, syncfs
    from hyperbox.linux._idmap import IdMap, clone_idmapped, parse_id_maps
    from hyperbox.linux._memory import keep_heap_small, trim_memory
    from hyperbox.linux._mountinfo import MountEntry, is_mount_point, mountinfo, parse_mountinfo
    from hyperbox.linux._mounts import MountFlag, UmountFlag, bind, ensure_private_folder, make_private, mount, umount
    from hyperbox.linux._overlay import mount_overlay, overlay_options
    from hyperbox.linux._pagecache import CacheUse, cache_use, drop_file_cache, drop_lookups, read_ahead, resident_bytes
    from hyperbox.linux._probe import probe
    from hyperbox.linux._process import boot_id, capabilities, kernel_version, rss_bytes
    from hyperbox.linux._systemd import listen_fds, notify_systemd, watchdog_seconds

_HOME = {
    "_erofs": (
        "Backing",
        "mount_erofs",
    ),
    "_features": (
        "DataPath",
        "Feature",
        "Features",
    ),
    "_filesystem": (
        "FilesystemUsage",
        "filesystem_usage",
        "parse_statfs",
        "syncfs",
    ),
    "_idmap": (
        "IdMap",
        "clone_idmapped",
        "parse_id_maps",
    ),
    "_mountinfo": (
        "MountEntry",
        "is_mount_point",
        "mountinfo",
        "parse_mountinfo",
    ),
    "_mounts": (
        "MountFlag",
        "UmountFlag",
        "bind",
        "ensure_private_folder",
        "make_private",
        "mount",
        "umount",
    ),
    "_overlay": (
        "mount_overlay",
        "overlay_options",
    ),
    "_pagecache": (
        "CacheUse",
        "cache_use",
        "drop_file_cache",
        "drop_lookups",
        "drop_lookups",
        "read_ahead",
        "resident_bytes",
    ),
    "_probe": ("probe",),
    "_memory": ("keep_heap_small", "trim_memory"),
    "_process": (
        "boot_id",
        "capabilities",
        "kernel_version",
        "rss_bytes",
    ),
    "_systemd": (
        "listen_fds",
        "notify_systemd",
        "watchdog_seconds",
    ),
}
_WHERE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Backing",
    "CacheUse",
    "DataPath",
    "Feature",
    "Features",
    "FilesystemUsage",
    "IdMap",
    "MountEntry",
    "MountFlag",
    "UmountFlag",
    "bind",
    "boot_id",
    "cache_use",
    "capabilities",
    "clone_idmapped",
    "drop_file_cache",
    "drop_lookups",
    "ensure_private_folder",
    "filesystem_usage",
    "is_mount_point",
    "keep_heap_small",
    "kernel_version",
    "listen_fds",
    "make_private",
    "mount",
    "mount_erofs",
    "mount_overlay",
    "mountinfo",
    "notify_systemd",
    "overlay_options",
    "parse_id_maps",
    "parse_mountinfo",
    "parse_statfs",
    "probe",
    "read_ahead",
    "resident_bytes",
    "rss_bytes",
    "syncfs",
    "trim_memory",
    "umount",
    "watchdog_seconds",
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
