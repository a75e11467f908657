"""fanotify permission events, as far as finding out whether they work needs them."""

from __future__ import annotations

import os
import struct
from typing import Final, NamedTuple, Self

from hyperbox.linux._binding import AT_FDCWD, O_LARGEFILE, StrPath, syscall
from hyperbox.linux._handle import Handle

FAN_OPEN_PERM: Final = 0x00010000
FAN_PRE_ACCESS: Final = 0x00100000  # 6.14
FAN_EVENT_ON_CHILD: Final = 0x08000000

_FAN_CLOEXEC: Final = 1
_FAN_NONBLOCK: Final = 2
_FAN_CLASS_PRE_CONTENT: Final = 8
_FAN_MARK_ADD: Final = 1
_FAN_ALLOW: Final = 1

METADATA_FORMAT: Final = "=IBBHQii"
"""`struct fanotify_event_metadata`: event length, version, reserved, metadata length, mask, fd, pid."""
RESPONSE_FORMAT: Final = "=iI"
"""`struct fanotify_response`: fd, answer."""


class PermissionEvent(NamedTuple):
    """One event that waits for an answer; the receiver owns `fd`."""

    mask: int
    fd: int
    pid: int


def parse_events(content: bytes) -> list[PermissionEvent]:
    """The events in what read(2) of a group gave; `ValueError` for a version or length that the kernel never sends."""
    events = []
    offset = 0
    while offset < len(content):
        if len(content) - offset < 24:
            raise ValueError("fanotify event cut short")
        length, version, _, _, mask, fd, pid = struct.unpack_from(METADATA_FORMAT, content, offset)
        if version != 3 or length < 24 or length > len(content) - offset:
            raise ValueError(f"fanotify event of version {version} and {length} bytes")
        events.append(PermissionEvent(mask, fd, pid))
        offset += length
    return events


class PermissionGroup(Handle):
    """A fanotify group that is asked before files are opened. Closing it allows everything that waits."""

    @classmethod
    def open(cls) -> Self:
        """fanotify_init(2): class pre-content, non-blocking reads; `OSError`."""
        flags = _FAN_CLOEXEC | _FAN_NONBLOCK | _FAN_CLASS_PRE_CONTENT
        # Event descriptors are read-only: below an overlay the file is on a private read-only mount.
        return cls(syscall("fanotify_init", flags, os.O_RDONLY | os.O_CLOEXEC | O_LARGEFILE))

    def mark(self, path: StrPath, mask: int) -> None:
        """Ask for the events `mask` of the inode of `path`; `EINVAL` when the kernel does not know them."""
        syscall("fanotify_mark", self.fileno(), _FAN_MARK_ADD, mask, AT_FDCWD, os.fsencode(path))

    def read(self) -> list[PermissionEvent]:
        """The events that wait now; empty when there are none."""
        try:
            return parse_events(os.read(self.fileno(), 4096))
        except BlockingIOError:
            return []

    def allow(self, event: PermissionEvent) -> None:
        """Let the access go on and close the event's descriptor."""
        try:
            os.write(self.fileno(), struct.pack(RESPONSE_FORMAT, event.fd, _FAN_ALLOW))
        finally:
            os.close(event.fd)
