"""Overlays that HyperBox mounts itself, at `RUN/m/<snapshot id>`, because option strings cannot say them.

Two cases: more layers than fit into a page of options, and ID-mapped layers. The engine gets a bind mount of it.
For ID mapping each lower layer is cloned with the mapping; once the overlay is mounted it has clones of its own, so
these are unmounted at once. The upper directory is not mapped: what a container with a user namespace writes there
already has the outside IDs.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

from hyperbox.api.errors.linux import NotMounted
from hyperbox.linux import UmountFlag, clone_idmapped, mount_overlay, umount
from hyperbox.snapshotter.layers import is_other_device
from hyperbox.snapshotter.options import Overlay


class AssembledMounts:
    """The overlays of one run folder. Thread-safe."""

    def __init__(self, run: Path) -> None:
        self._root = run / "m"
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._made: dict[int, Overlay] = {}

    def ensure(self, identity: int, overlay: Overlay) -> str:
        """Return where the overlay of this snapshot is mounted; made anew when its layers are others than before.

        Raises `MountFailed`, `FeatureMissing` (ID-mapped mounts, or many layers on kernels before 6.7).
        """
        point = self._root / str(identity)
        with self._lock:
            if self._made.get(identity) == overlay and is_other_device(point, self._root):
                return str(point)
            self._remove(identity)
            point.mkdir(mode=0o700)
            try:
                _mount(point, overlay)
            except BaseException:
                point.rmdir()
                raise
            self._made[identity] = overlay
        return str(point)

    def remove(self, identity: int) -> None:
        """Unmount the overlay of a snapshot, if there is one. Containers that use it keep it."""
        with self._lock:
            self._remove(identity)

    def _remove(self, identity: int) -> None:
        self._made.pop(identity, None)
        _unmount(self._root / str(identity))

    def clear(self) -> None:
        """Unmount everything below the run folder, whoever mounted it."""
        with self._lock:
            self._made.clear()
            for name in sorted(os.listdir(self._root)):
                _unmount(self._root / name)

    @contextlib.contextmanager
    def temporary(self, overlay: Overlay) -> Iterator[str]:
        """Have an overlay mounted for a while."""
        point = Path(tempfile.mkdtemp(prefix="t-", dir=self._root))
        try:
            _mount(point, overlay)
            yield str(point)
        finally:
            _unmount(point)

    def sweep(self, known: Collection[int]) -> None:
        """Unmount what belongs to no known snapshot, and clones that a crash left."""
        names = {str(identity) for identity in known}
        with self._lock:
            for name in sorted(os.listdir(self._root)):
                if name not in names:
                    _unmount(self._root / name)


def _mount(point: Path, overlay: Overlay) -> None:
    readonly, mapping = overlay.upper is None, overlay.mapping
    if mapping is not None and readonly and len(overlay.lowers) == 1 and not overlay.datas:
        # An overlay needs two layers; one folder can be shown as it is.
        clone_idmapped(overlay.lowers[0], point, mapping.uids, mapping.gids, readonly=True)
        return
    with contextlib.ExitStack() as clones:
        lowers = list(overlay.lowers)
        for number, lower in enumerate(lowers if mapping is not None else ()):
            assert mapping is not None
            clone = Path(f"{point}.{number}")
            clone.mkdir(mode=0o700, exist_ok=True)
            clones.callback(_unmount, clone)
            clone_idmapped(lower, clone, mapping.uids, mapping.gids, readonly=True)
            lowers[number] = str(clone)
        mount_overlay(
            point,
            lowers=lowers,
            datas=overlay.datas,
            upper=overlay.upper,
            work=overlay.work,
            options=overlay.options,
            readonly=readonly,
        )


def _unmount(point: Path) -> None:
    if not point.exists():
        return
    with contextlib.suppress(NotMounted):
        while True:
            umount(point, UmountFlag.DETACH | UmountFlag.NOFOLLOW)
    point.rmdir()
