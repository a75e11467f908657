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
from hyperbox.linux import UmountFlag, mount_erofs, mountinfo, umount
from hyperbox.snapshotter.options import Lower
from hyperbox.store.layers import LayerStore


class LayerMounts:
    """The EROFS mounts of one run folder. Thread-safe; do not call with the snapshotter's lock held."""

    def __init__(self, run: Path, layers: LayerStore) -> None:
        self._root = run / "l"
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._layers = layers
        self._lock = threading.Lock()
        self._mounted: dict[str, Lower] = {}

    def ensure(self, layer_id: str) -> Lower:
        """Return the layer as a mounted lower directory. Raises `LayerNotFound`, `MountFailed`."""
        return self._present(layer_id) or self._made(layer_id)

    def _made(self, layer_id: str) -> Lower:
        with self._lock:
            return self._present(layer_id) or self._mount(layer_id)

    def _present(self, layer_id: str) -> Lower | None:
        lower = self._mounted.get(layer_id)
        # Somebody may have unmounted it; an empty folder must never be taken for a layer.
        return lower if lower is not None and is_other_device(lower.path, self._root) else None

    def _mount(self, layer_id: str) -> Lower:
        record = self._layers.get(layer_id)
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
                if record is not None and point in images and images[point].source == str(self._layers.path(record)):
                    lower = Lower(point, composed=True, objects=record.objects > 0)
                    self._mounted[record.layer_id] = lower
                else:
                    _unmount(Path(point))

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
