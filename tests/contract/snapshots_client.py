"""A client of containerd's snapshot service, and what an engine does with the mounts that it gets."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from hyperbox.linux import MountFlag, mount, mount_overlay, umount
from hyperbox.snapshotter.proto import mount_pb2
from hyperbox.snapshotter.proto import snapshots_pb2 as pb
from hyperbox.snapshotter.rpc import _MESSAGES, SERVICE

ROOTED = {"containerd.io/gc.root": "2026-01-01T00:00:00Z"}
"""Keeps containerd's own garbage collection away when the checks run through its metadata store."""


class Snapshots:
    """Calls of the service. `namespace` and `snapshotter` matter to containerd, not to a proxy snapshotter."""

    def __init__(
        self,
        socket: Path,
        *,
        namespace: str = "testsuite",
        snapshotter: str = "hyperbox",
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        self._channel = grpc.insecure_channel(f"unix:{socket}")
        self._metadata = (("containerd-namespace", namespace),)
        self._snapshotter = snapshotter
        self._settle = settle

    def close(self) -> None:
        self._channel.close()

    def _call(self, method: str, /, *, timeout: float = 60.0, **fields: Any) -> Any:
        request, response = _MESSAGES[method]
        make = self._channel.unary_stream if method == "List" else self._channel.unary_unary
        call = make(
            f"/{SERVICE}/{method}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        message = request(snapshotter=self._snapshotter, **fields)
        return call(message, metadata=self._metadata, timeout=timeout)

    def prepare(self, key: str, parent: str = "", labels: Mapping[str, str] = ROOTED) -> list[mount_pb2.Mount]:
        return list(self._call("Prepare", key=key, parent=parent, labels=labels).mounts)

    def view(self, key: str, parent: str = "", labels: Mapping[str, str] = ROOTED) -> list[mount_pb2.Mount]:
        return list(self._call("View", key=key, parent=parent, labels=labels).mounts)

    def mounts(self, key: str) -> list[mount_pb2.Mount]:
        return list(self._call("Mounts", key=key).mounts)

    def commit(self, name: str, key: str, labels: Mapping[str, str] = ROOTED, parent: str = "") -> None:
        self._call("Commit", name=name, key=key, labels=labels, parent=parent)
        self._settle()

    def remove(self, key: str) -> None:
        self._call("Remove", key=key)

    def stat(self, key: str) -> pb.Info:
        info: pb.Info = self._call("Stat", key=key).info
        return info

    def update(self, info: pb.Info, *paths: str) -> pb.Info:
        updated: pb.Info = self._call("Update", info=info, update_mask={"paths": paths}).info
        return updated

    def walk(self, *filters: str) -> list[pb.Info]:
        return [info for part in self._call("List", filters=filters) for info in part.info]

    def usage(self, key: str) -> pb.UsageResponse:
        usage: pb.UsageResponse = self._call("Usage", key=key)
        return usage

    def cleanup(self) -> None:
        self._call("Cleanup")


def mount_all(mounts: Sequence[mount_pb2.Mount], target: Path) -> None:
    """Mount as containerd does: flags out of the options, the rest as data."""
    for one in mounts:
        if one.type == "overlay" and sum(map(len, one.options)) + len(one.options) > 4000:
            _mount_long(one, target)
            continue
        flags, data = MountFlag(0), []
        for option in one.options:
            if option in _FLAGS:
                flags |= _FLAGS[option]
            elif option != "rw":
                data.append(option)
        mount(one.source, target, None if one.type == "bind" else one.type, flags, ",".join(data))
        if flags & MountFlag.BIND and flags & MountFlag.RDONLY:
            mount(None, target, None, MountFlag.BIND | MountFlag.REMOUNT | MountFlag.RDONLY)


_FLAGS = {"ro": MountFlag.RDONLY, "rbind": MountFlag.BIND | MountFlag.REC, "bind": MountFlag.BIND}


def _mount_long(one: mount_pb2.Mount, target: Path) -> None:
    """containerd shortens the list of layers with relative names; one call for each layer comes to the same."""
    settings = dict(option.partition("=")[::2] for option in one.options)
    lowers = settings.pop("lowerdir").split(":")
    upper, work = settings.pop("upperdir", None), settings.pop("workdir", None)
    options = [f"{key}={value}" if value else key for key, value in settings.items()]
    mount_overlay(target, lowers=lowers, upper=upper, work=work, options=options)


@contextlib.contextmanager
def mounted(mounts: Sequence[mount_pb2.Mount], target: Path) -> Iterator[Path]:
    """Have mounts in place for a while."""
    target.mkdir(parents=True, exist_ok=True)
    mount_all(mounts, target)
    try:
        yield target
    finally:
        umount(target)


@dataclass(frozen=True)
class Entry:
    """What must be equal of one path; times are not, since trees are made twice."""

    mode: int
    owner: tuple[int, int]
    rdev: int
    content: bytes
    links: tuple[str, ...]
    """Its hard links in the tree. `st_nlink` may be more: compaction links files of a folder into objects."""
    xattrs: Mapping[str, bytes]


def tree(root: Path) -> dict[str, Entry]:
    """Return everything below `root` by relative path."""
    groups: dict[int, list[str]] = {}
    found: dict[str, os.stat_result] = {}
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = os.path.relpath(os.path.join(folder, name), root)
            found[path] = os.lstat(root / path)
            if not stat.S_ISDIR(found[path].st_mode):
                groups.setdefault(found[path].st_ino, []).append(path)
    entries = {}
    for path, info in found.items():
        full = root / path
        content = b""
        if stat.S_ISREG(info.st_mode):
            content = full.read_bytes()
        elif stat.S_ISLNK(info.st_mode):
            content = os.fsencode(os.readlink(full))
        names = os.listxattr(full, follow_symlinks=False)
        entries[path] = Entry(
            info.st_mode,
            (info.st_uid, info.st_gid),
            info.st_rdev if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode) else 0,
            content,
            tuple(sorted(same)) if len(same := groups.get(info.st_ino, [])) > 1 else (),
            {name: os.getxattr(full, name, follow_symlinks=False) for name in names},
        )
    return entries
