"""Handles of the mount API of Linux 5.2 and newer: file system contexts and detached mounts.

A context collects options one call each, so there is no limit of one page for all of them, and the kernel's own words
about a refused option can be read from it. Everything here raises `OSError`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from typing import Final, Self

from hyperbox.linux._binding import AT_EMPTY_PATH, AT_FDCWD, AT_RECURSIVE, StrPath, address, struct_bytes, syscall
from hyperbox.linux._handle import Handle

_FSOPEN_CLOEXEC: Final = 1
_FSMOUNT_CLOEXEC: Final = 1
_OPEN_TREE_CLONE: Final = 1
_MOVE_MOUNT_F_EMPTY_PATH: Final = 4

_SET_FLAG: Final = 0
_SET_STRING: Final = 1
_CREATE: Final = 6

VALUE_LIMIT: Final = 255
"""Longest string that fsconfig(2) takes as a value; the kernel copies at most 256 bytes with the zero."""

MOUNT_ATTR_RDONLY: Final = 0x01
MOUNT_ATTR_NOSUID: Final = 0x02
MOUNT_ATTR_NODEV: Final = 0x04
MOUNT_ATTR_NOEXEC: Final = 0x08
MOUNT_ATTR_IDMAP: Final = 0x00100000  # 5.12

MOUNT_ATTR_FORMAT: Final = "=QQQQ"
"""`struct mount_attr`: attributes to set, to clear, propagation, user namespace fd."""


def short_path(path: StrPath, held: contextlib.ExitStack, limit: int = VALUE_LIMIT) -> bytes:
    """`path` made absolute; when that is longer than `limit`, a name in /proc/self/fd that is valid while `held` is."""
    absolute = os.path.abspath(os.fsencode(path))
    if len(absolute) <= limit:
        return absolute
    handle = held.enter_context(Handle(os.open(absolute, os.O_PATH | os.O_CLOEXEC)))
    return b"/proc/self/fd/%d" % handle.fileno()


class DetachedMount(Handle):
    """A mount that is in no mount namespace yet; it goes with the last descriptor unless it is attached."""

    @classmethod
    def clone(cls, source: StrPath, *, recursive: bool = False) -> Self:
        """A copy of the mount that holds `source`, with `source` as its root (a bind mount in the making)."""
        flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (AT_RECURSIVE if recursive else 0)
        return cls(syscall("open_tree", AT_FDCWD, os.fsencode(source), flags))

    def set_attributes(self, *, set_: int = 0, clear: int = 0, propagation: int = 0, userns: int = 0) -> None:
        """mount_setattr(2), 5.12; `userns` is the descriptor of a user namespace for `MOUNT_ATTR_IDMAP`."""
        attributes = struct_bytes(32, struct.pack(MOUNT_ATTR_FORMAT, set_, clear, propagation, userns))
        syscall("mount_setattr", self.fileno(), b"", AT_EMPTY_PATH, address(attributes), 32)

    def attach(self, target: StrPath) -> None:
        """Put the mount on `target`."""
        syscall("move_mount", self.fileno(), b"", AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)


class FsContext(Handle):
    """A file system in the making: options are set one after the other, then `create`, then `mount`."""

    @classmethod
    def open(cls, fstype: str) -> Self:
        """fsopen(2); `ENODEV` when the kernel has no such file system."""
        return cls(syscall("fsopen", fstype.encode(), _FSOPEN_CLOEXEC))

    def set(self, key: str, value: StrPath | None = None) -> None:
        """Set one option: a flag without a value, else a string of at most `VALUE_LIMIT` bytes (`EINVAL`)."""
        if value is None:
            syscall("fsconfig", self.fileno(), _SET_FLAG, key.encode(), None, 0)
        else:
            syscall("fsconfig", self.fileno(), _SET_STRING, key.encode(), os.fsencode(value), 0)

    def create(self) -> None:
        """Make the superblock; the kernel looks at the options as a whole here."""
        syscall("fsconfig", self.fileno(), _CREATE, None, None, 0)

    def mount(self, attributes: int = 0) -> DetachedMount:
        """fsmount(2): a mount of the created superblock; relatime is the kernel's default."""
        return DetachedMount(syscall("fsmount", self.fileno(), _FSMOUNT_CLOEXEC, attributes))

    def log(self) -> list[str]:
        """What the kernel has said about this context so far (at most 8 messages), each once, oldest first."""
        messages: list[str] = []
        while len(messages) < 64:
            try:
                line = os.read(self.fileno(), 4096)
            except OSError as error:
                if error.errno in (errno.ENODATA, errno.EAGAIN, errno.EINVAL):
                    break
                raise
            # Each message is "<level e|w|i> <text>".
            text = line.decode(errors="replace").strip()
            messages.append(text[2:] if text[1:2] == " " else text)
        return messages
