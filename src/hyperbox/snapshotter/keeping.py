"""When the folder of a compacted layer may go: once no mount can use it any more.

At the switch from folder to EROFS image, every active snapshot and view above the layer may have been given mounts that
name the folder; they are written down with the layer's row, and with the boot that they belong to. The folder goes when
none of them is left and no mount in the mount table names it. A reboot ends all mounts, so it clears the list.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import TYPE_CHECKING, Any, Final

from hyperbox.linux import MountEntry, boot_id, mountinfo
from hyperbox.snapshotter.model import Kind, Snapshot
from hyperbox.snapshotter.worker import Worker

if TYPE_CHECKING:
    from hyperbox.snapshotter.service import Snapshotter

KEPT: Final = "folder"
"""Member of `Snapshot.extra` while the folder of a compacted layer is still there."""

_SOON: Final = 1.0
"""Seconds in which folders gather that can go together: a sweep waits for the disk."""

_AGAIN: Final = 30.0
"""Seconds until a folder that only the mount table held is looked at again."""

_LAYER_OPTIONS: Final = ("lowerdir", "lowerdir+", "upperdir", "datadir+")


class FolderKeeping:
    """Folders that wait for their last mount to end."""

    def __init__(self, service: Snapshotter, worker: Worker) -> None:
        self._service = service
        self._worker = worker
        self._boot = boot_id()

    def note(self, snapshot: Snapshot) -> dict[str, Any]:
        """Return what to write down at the switch; call with the lock held."""
        above = self._service.machine.descendants(snapshot.name)
        users = [s.id for s in above if s.kind is not Kind.COMMITTED]
        return {KEPT: {"boot": self._boot, "users": users}}

    def poke(self) -> None:
        """A snapshot went: see soon whether a folder can go, too."""
        if self._waiting():
            self._worker.submit("folders", self.sweep, delay=_SOON)

    def sweep(self) -> None:
        """Remove the folders that nothing uses."""
        waiting = [snapshot for snapshot in self._waiting() if not self._has_users(snapshot)]
        mounts = mountinfo() if waiting else []
        free = [s for s in waiting if not names_folder(mounts, str(self._service.folders.root), s.id)]
        if free:
            # What the folders hold is in objects now, maybe only in memory: a power loss must not find neither.
            self._service.store.checkpoint()
        for snapshot in free:
            self._drop(snapshot)
        if len(free) < len(waiting):
            self._worker.submit("folders", self.sweep, delay=_AGAIN)

    def _waiting(self) -> list[Snapshot]:
        with self._service.lock:
            return [snapshot for snapshot in self._service.machine if KEPT in snapshot.extra]

    def _has_users(self, snapshot: Snapshot) -> bool:
        kept = snapshot.extra[KEPT]
        if kept["boot"] != self._boot:
            return False
        with self._service.lock:
            users = (self._service.machine.by_id(identity) for identity in kept["users"])
            return any(user is not None and user.kind is not Kind.COMMITTED for user in users)

    def _drop(self, snapshot: Snapshot) -> None:
        # The row first: a folder that no row asks to keep is swept at the next start.
        with self._service.lock:
            now = self._service.machine.by_id(snapshot.id)
            if now is None or KEPT not in now.extra:
                return
            self._service.persist(self._service.machine.amend(now.name, extra={KEPT: None}))
        self._service.folders.remove(snapshot.id)


def names_folder(mounts: Iterable[MountEntry], root: str, identity: int, *, writable: bool = False) -> bool:
    """Whether a mount shows or overlays the folder `root/<identity>/fs`; with `writable`, in a way that can write it.

    containerd shortens long lists of layers by mounting with names relative to their common folder; of those only the
    end can be compared. A layer of another snapshotter may then be taken for ours, and the folder only stays longer.
    """
    full = f"{root}/{identity}/fs"
    inside = "/" + "/".join(full.split("/")[-4:])  # a mount's root is told relative to its file system
    keys = ("upperdir",) if writable else _LAYER_OPTIONS
    for entry in mounts:
        shown = entry.root.endswith(inside) or entry.target.startswith(f"{full}/")
        if shown and not (writable and "ro" in entry.options):
            return True
        if entry.fstype == "overlay" and any(_names(option, keys, full) for option in entry.super_options):
            return True
    return False


def _names(option: str, keys: Container[str], full: str) -> bool:
    key, _, value = option.partition("=")
    if key not in keys:
        return False
    end = "/".join(full.rsplit("/", 2)[1:])
    for path in value.split(":"):
        if path == full or path.startswith("/proc/self/fd/"):  # a name too long for the kernel says nothing
            return True
        if not path.startswith("/") and (path == end or path.endswith(f"/{end}")):
            return True
    return False
