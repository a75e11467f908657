"""Parser of /proc/PID/mountinfo, and questions that it answers.

The parser is a pure function of bytes. A line that does not look like a mount is left out, because one strange
mount of somebody else must not hide all others.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from hyperbox.linux._binding import StrPath, translated

_ESCAPE = re.compile(rb"\\([0-3][0-7]{2})")


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of mountinfo; paths are decoded with the file system encoding (`os.fsencode` gives the bytes back)."""

    mount_id: int
    parent_id: int
    major: int
    minor: int
    root: str
    """The folder inside the file system that is the root of this mount."""
    target: str
    """Mount point, relative to the reading process's root."""
    options: tuple[str, ...]
    """Options of this mount: `ro`, `relatime`, …"""
    propagation: tuple[str, ...]
    """Optional fields: `shared:7`, `master:3`, `propagate_from:2`, `unbindable`; empty for a private mount."""
    fstype: str
    source: str
    super_options: tuple[str, ...]
    """Options of the file system itself, as the kernel shows them."""

    @property
    def device(self) -> int:
        """The device number, as in `st_dev` of `os.stat` (for most file systems)."""
        return os.makedev(self.major, self.minor)

    @property
    def shared(self) -> bool:
        """Whether mounts below this one propagate to other mount namespaces."""
        return any(field.startswith("shared:") for field in self.propagation)


def parse_mountinfo(content: bytes) -> list[MountEntry]:
    """All mounts that `content` lists, in its order; lines that are not mounts are left out."""
    entries = (_parse_line(line) for line in content.split(b"\n"))
    return [entry for entry in entries if entry is not None]


def mountinfo(pid: int | str = "self") -> list[MountEntry]:
    """The mounts that the process `pid` sees (or the calling thread: `"thread-self"`); `KernelCallFailed`."""
    with translated(f"reading /proc/{pid}/mountinfo"), open(f"/proc/{pid}/mountinfo", "rb") as file:
        return parse_mountinfo(file.read())


def is_mount_point(path: StrPath) -> bool:
    """Whether something is mounted on `path` itself, bind mounts of files and folders included.

    Links in the parents are followed, a link at the end is not. Reads the mount table of the calling thread.
    """
    head, tail = os.path.split(os.path.abspath(os.fsencode(path)))
    wanted = os.fsdecode(os.path.join(os.path.realpath(head), tail))
    return any(entry.target == wanted for entry in mountinfo("thread-self"))


def _parse_line(line: bytes) -> MountEntry | None:
    fields = line.split(b" ")
    try:
        # Optional fields end with a lone "-"; it cannot be a path, paths start with "/" or are escaped.
        dash = fields.index(b"-", 6)
        major, minor = fields[2].split(b":")
        fstype, source, super_options = fields[dash + 1 : dash + 4]
        return MountEntry(
            mount_id=int(fields[0]),
            parent_id=int(fields[1]),
            major=int(major),
            minor=int(minor),
            root=_text(fields[3]),
            target=_text(fields[4]),
            options=_list(fields[5]),
            propagation=tuple(_text(field) for field in fields[6:dash] if field),
            fstype=_text(fstype),
            source=_text(source),
            super_options=_list(super_options),
        )
    except ValueError:
        return None


def _text(field: bytes) -> str:
    """Undo the kernel's octal escapes of space, tab, newline, backslash and (in sources) `#`."""
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))


def _list(field: bytes) -> tuple[str, ...]:
    # The comma that separates options is never escaped by mountinfo, a comma of a value is "\," or "\054".
    return tuple(_text(option) for option in re.split(rb"(?<!\\),", field))
