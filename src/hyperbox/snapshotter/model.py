"""What a snapshot is: the records that the state machine decides on. No I/O.

Times are nanoseconds since the epoch, sizes are bytes.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

LABEL_TARGET: Final = "containerd.io/snapshot.ref"
"""Chain ID of the layer that a Prepare is for; on a committed snapshot, the layer that it is."""
LABEL_UID_MAPPING: Final = "containerd.io/snapshot/uidmapping"
LABEL_GID_MAPPING: Final = "containerd.io/snapshot/gidmapping"
LABEL_MAX_SIZE: Final = "containerd.io/snapshot/max-size"
"""Quota of the writable layer. Read by nobody yet: like containerd's overlayfs snapshotter, HyperBox sets no quota."""


class Kind(enum.IntEnum):
    """containerd's snapshot kinds, by their numbers in its protocol."""

    VIEW = 1
    ACTIVE = 2
    COMMITTED = 3

    @property
    def word(self) -> str:
        """The name that containerd's filters use."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Usage:
    """What a snapshot takes by itself, without its parents."""

    size: int
    inodes: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot. `id` names its folder and never changes; `name` is the key until the commit, the name after it."""

    id: int
    name: str
    parent: str
    kind: Kind
    labels: Mapping[str, str]
    created_ns: int
    updated_ns: int
    layer: str | None = None
    """Layer id (hex) when its files are an EROFS image and objects; None when they are in a folder."""
    usage: Usage | None = None
    """What its folder took when it was last measured; None when not measured."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What HyperBox itself remembers, as JSON: reasons, and what keeps a folder that was compacted."""

    @property
    def unpacking(self) -> bool:
        """Whether an engine is to unpack a layer into it: containerd and BuildKit name such keys `extract-…`."""
        last = self.name.partition(" ")[0].rpartition("/")[2]
        return self.kind is Kind.ACTIVE and (LABEL_TARGET in self.labels or last.startswith("extract-"))


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount as containerd wants it: an fstab line without target."""

    type: str
    source: str
    options: tuple[str, ...]
