"""Mounts of layers' EROFS images at `RUN/l/<row number>`, made when first needed.

A mount point exists only while something is mounted on it: an engine that comes late with options of before a restart
gets ENOENT from the kernel, never an empty layer. Overlayfs keeps private clones of its layers, so unmounting here
takes nothing away from containers that run.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

from hyperbox.api.errors.linux import NotMounted
from hyperbox.api.errors.store import LayerDamaged
from hyperbox.linux import MountEntry, UmountFlag, mount_erofs, mountinfo, umount
from hyperbox.snapshotter.options import Lower
from hyperbox.store.layers import LayerStore
from hyperbox.store.rows import LayerRecord


class LayerMounts:
    """The EROFS mounts of one run folder. Thread-safe; do not call with the snapshotter's lock held."""

    def __init__(self, run: Path, layers: LayerStore) -> None:
        self._root = run / "l"
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._layers = layers
        self._lock = threading.Lock()
        self._mounted: dict[str, Lower] = {}
        self._images: dict[str, int] = {}
        """Inode numbers of the files that are mounted, by layer."""

    def ensure(self, layer_id: str) -> Lower:
        """Return the layer as a mounted lower directory. Raises `LayerNotFound`, `LayerDamaged`, `MountFailed`."""
        return self._present(layer_id) or self._made(layer_id)

    def _made(self, layer_id: str) -> Lower:
        with self._lock:
            return self._present(layer_id) or self._mount(layer_id)

    def _present(self, layer_id: str) -> Lower | None:
        lower = self._mounted.get(layer_id)
        # Somebody may have unmounted it; an empty folder must never be taken for a layer. And a damaged image that was
        # moved aside stays mounted from where it is now; it must not be given to anybody any more.
        if lower is None or self._images.get(layer_id) != self._inode(layer_id):
            return None
        return lower if is_other_device(lower.path, self._root) else None

    def _inode(self, layer_id: str) -> int | None:
        try:
            return self._layers.image_path(layer_id).stat().st_ino
        except FileNotFoundError:
            return None

    def _mount(self, layer_id: str) -> Lower:
        record = self._layers.get(layer_id)
        inode = self._inode(layer_id)
        if inode is None:
            raise LayerDamaged(layer=layer_id, reason="its image was damaged and moved aside")
        point = self._root / str(record.id)
        try:
            point.mkdir(mode=0o700)
        except FileExistsError:
            _unmount(point)
            point.mkdir(mode=0o700)
        try:
            mount_erofs(self._layers.path(record), point)
        except BaseException:
            point.rmdir()
            raise
        self._images[layer_id] = inode
        lower = self._mounted[layer_id] = Lower(str(point), composed=True, objects=record.objects > 0)
        return lower

    def release(self, layer_id: str, in_use: Callable[[str], bool]) -> None:
        """Unmount a layer unless `in_use` still says so."""
        with self._lock:
            if layer_id in self._mounted and not in_use(layer_id):
                _unmount(Path(self._mounted.pop(layer_id).path))

    def adopt(self) -> None:
        """Take over, or take away, what a process before this one left mounted in the run folder."""
        images = {entry.target: entry for entry in mountinfo() if entry.target.startswith(f"{self._root}/")}
        wanted = {str(self._root / str(record.id)): record for record in self._layers.list()}
        with self._lock:
            for name in os.listdir(self._root):
                point = str(self._root / name)
                record = wanted.get(point)
                if record is not None and point in images and self._is_of(images[point], record):
                    lower = Lower(point, composed=True, objects=record.objects > 0)
                    self._mounted[record.layer_id] = lower
                    self._images[record.layer_id] = self._layers.path(record).stat().st_ino
                else:
                    _unmount(Path(point))

    def _is_of(self, mount: MountEntry, record: LayerRecord) -> bool:
        path = self._layers.path(record)
        return mount.source == str(path) and path.exists()

    def mounted(self) -> frozenset[str]:
        """Return the ids of the layers that are mounted."""
        return frozenset(self._mounted)

    def close(self) -> None:
        """Unmount everything."""
        with self._lock:
            for lower in self._mounted.values():
                _unmount(Path(lower.path))
            self._mounted.clear()


def is_other_device(path: str | Path, folder: Path) -> bool:
    """Whether `path` lies on another device than `folder`, as a mounted EROFS or overlay does: two stats, no table."""
    try:
        return os.stat(path).st_dev != os.stat(folder).st_dev
    except FileNotFoundError:
        return False


def _unmount(point: Path) -> None:
    """Unmount all that is stacked on `point` and remove it. A mount that will not go is detached."""
    with contextlib.suppress(NotMounted):
        while True:
            umount(point, UmountFlag.DETACH | UmountFlag.NOFOLLOW)
    with contextlib.suppress(FileNotFoundError):
        point.rmdir()
