"""From a chain of layers to what containerd mounts: a pure function of paths.

Three shapes come out:

- a chain of folders only gives exactly what containerd's own overlayfs snapshotter returns;
- a chain with EROFS layers is one overlay with `::objects` below it, its files found through metacopy and redirect;
- what does not fit into option strings (too long, ID-mapped, or for an engine that changes them) is an overlay that
  HyperBox mounts itself (see `hyperbox.snapshotter.assembled`) and returns as a bind mount.

Kernel facts: mount(2) takes one page of options, and containerd refuses more than 4096 bytes itself. A read-only
overlay needs two lower layers, where a data-only one counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from hyperbox.linux import overlay_options
from hyperbox.snapshotter.idmap import IdMapping
from hyperbox.snapshotter.model import Mount

LONGEST: Final = 3500
"""Bytes of options that are returned as a string; the rest of the page is for what engines add (SELinux labels)."""

COMPOSED_OPTIONS: Final = ("index=off", "xino=on", "metacopy=on", "redirect_dir=on")
"""xino: one st_dev and stable inode numbers over EROFS and the objects' file system."""
FOLDER_OPTIONS: Final = ("index=off",)

_BUILDKIT_KEY: Final = re.compile(r"[0-9a-z]{25}(-.*)?")
"""BuildKit's identities: 125 random bits to the base 36."""


@dataclass(frozen=True, slots=True)
class Lower:
    """One layer as a lower directory."""

    path: str
    composed: bool
    """An EROFS image, whose larger files are objects."""
    objects: bool = False
    """It names at least one object."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """An overlay of any size, before it is decided who mounts it."""

    lowers: tuple[str, ...]
    datas: tuple[str, ...]
    upper: str | None
    work: str | None
    options: tuple[str, ...]
    mapping: IdMapping | None = None
    """The lower layers are shown with other owners."""

    def as_mount(self) -> Mount:
        """Return it as one mount with option strings, in containerd's order."""
        parts = overlay_options(self.lowers, self.datas, self.upper, self.work)
        lowerdir, above = parts[0], parts[1:]
        return Mount("overlay", "overlay", (*reversed(above), lowerdir, *self.options))

    def for_unpacking(self) -> Overlay:
        """Return it without the objects, for an engine that unpacks a layer.

        containerd does that without mounting: it writes to `upperdir`, and takes the attributes of folders that the
        archive does not name from the parts of `lowerdir`, split at single colons. The empty part of `::` is the
        host's own root to it, whose folders must not end up in an image. Should somebody mount this all the same,
        looking at a file whose content is an object fails, and no wrong byte is read.
        """
        return replace(self, datas=())

    def fits(self) -> bool:
        """Whether option strings can say it, in a page with room to spare."""
        return self.mapping is None and len(",".join(self.as_mount().options).encode()) <= LONGEST


def changes_options(key: str) -> bool:
    """Whether whoever asked for the snapshot of this key is BuildKit, which changes the options of overlays.

    It sets `redirect_dir=off` in all of them, for its own way to compare layers. The kernel refuses that together with
    `metacopy=on` and an upper directory.
    """
    return _BUILDKIT_KEY.fullmatch(key.rpartition("/")[2]) is not None


def bind_mount(source: str, *, readonly: bool) -> Mount:
    """Return a bind mount as containerd's overlayfs snapshotter spells it."""
    return Mount("bind", source, ("ro" if readonly else "rw", "rbind"))


def compose(
    lowers: Sequence[Lower],
    *,
    objects: str,
    upper: str | None,
    work: str | None,
    mapping: IdMapping | None = None,
) -> Overlay | None:
    """Return the overlay of `lowers` (from the top down), or None where a bind mount is all there is.

    `upper` and `work` are None for a view. None comes back for no lower at all, and for a plain view of one folder.
    """
    if not lowers:
        return None
    paths = tuple(lower.path for lower in lowers)
    if not any(lower.composed for lower in lowers):
        if len(lowers) == 1 and upper is None and mapping is None:
            return None
        return Overlay(paths, (), upper, work, FOLDER_OPTIONS, mapping)
    alone = len(lowers) == 1 and upper is None
    datas = (objects,) if alone or any(lower.objects for lower in lowers) else ()
    return Overlay(paths, datas, upper, work, COMPOSED_OPTIONS, mapping)
