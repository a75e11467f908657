"""ID-mapped mounts: the same files with other owners, without changing a file (5.12; EROFS and overlay layers 5.19)."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Final, NamedTuple

from hyperbox.api.errors.linux import FeatureMissing
from hyperbox.linux._binding import StrPath, clone_sleeper, reap, translate
from hyperbox.linux._handle import Handle
from hyperbox.linux._mountapi import MOUNT_ATTR_IDMAP, MOUNT_ATTR_RDONLY, DetachedMount
from hyperbox.linux._mounts import mount_error

_CLONE_NEWUSER: Final = 0x10000000
_LIFETIME: Final = 10


class IdMap(NamedTuple):
    """`size` ids from `inside` on (as the files have them) are shown as ids from `outside` on."""

    inside: int
    outside: int
    size: int


def parse_id_maps(text: str) -> list[IdMap]:
    """Read containerd's form `inside:outside:size[,…]` (label `snapshot/uidmapping`); `ValueError` for all else."""
    maps = []
    for part in text.split(","):
        numbers = part.split(":")
        if len(numbers) != 3 or not all(number.isascii() and number.isdigit() for number in numbers):
            raise ValueError(f"not an id map: {part!r}")
        entry = IdMap(*(int(number) for number in numbers))
        if entry.size < 1 or max(entry.inside, entry.outside) + entry.size > 1 << 32:
            raise ValueError(f"id map out of range: {part!r}")
        maps.append(entry)
    return maps


def open_user_namespace(uid_maps: Sequence[IdMap], gid_maps: Sequence[IdMap]) -> Handle:
    """A new user namespace with these maps, kept alive by the descriptor alone; `OSError`."""
    pid = clone_sleeper(_CLONE_NEWUSER, _LIFETIME)
    try:
        for name, maps in (("uid_map", uid_maps), ("gid_map", gid_maps)):
            content = "".join(f"{entry.inside} {entry.outside} {entry.size}\n" for entry in maps)
            # The kernel takes a map in one write only.
            with open(f"/proc/{pid}/{name}", "wb", buffering=0) as file:
                file.write(content.encode())
        return Handle(os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC))
    finally:
        reap(pid)


def clone_idmapped(
    source: StrPath,
    target: StrPath,
    uid_maps: Sequence[IdMap | tuple[int, int, int]],
    gid_maps: Sequence[IdMap | tuple[int, int, int]],
    *,
    readonly: bool = False,
) -> None:
    """Show the folder `source` at `target` with owners mapped.

    `FeatureMissing` when the file system of `source` cannot be mapped (an overlay cannot: map its layers),
    `MountFailed`, `NotPrivileged`.
    """
    try:
        namespace = open_user_namespace([IdMap(*m) for m in uid_maps], [IdMap(*m) for m in gid_maps])
    except OSError as error:
        raise translate(error, "creating a user namespace") from error
    with namespace:
        try:
            with DetachedMount.clone(source) as detached:
                attributes = MOUNT_ATTR_IDMAP | (MOUNT_ATTR_RDONLY if readonly else 0)
                try:
                    detached.set_attributes(set_=attributes, userns=namespace.fileno())
                except OSError as error:
                    if error.errno in (errno.EINVAL, errno.ENOSYS):
                        where = os.fsdecode(source)
                        raise FeatureMissing(feature=f"ID-mapped mounts of the file system of {where}") from error
                    raise
                detached.attach(target)
        except OSError as error:
            raise mount_error(error, "bind", target) from error
