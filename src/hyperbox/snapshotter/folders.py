"""The folders of snapshots: `snapshots/<id>/fs` with what a snapshot changes, and `work` for overlayfs.

No two rows ever have one id, so a folder is made before its row and removed after it: SIGKILL in between leaves a
folder without a row, which `sweep` takes at the next start. Errors of the file system are raised as `OSError`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from hyperbox.api.errors.base import HyperBoxError
from hyperbox.linux import UmountFlag, mountinfo, umount
from hyperbox.snapshotter.model import Usage

_BLOCK: Final = 512


class Folders:
    """All snapshot folders of a state folder."""

    def __init__(self, state: Path) -> None:
        self.root = state / "snapshots"
        self.root.mkdir(mode=0o700, exist_ok=True)

    def fs(self, identity: int) -> str:
        """Return the path of what the snapshot changes."""
        return f"{self.root}/{identity}/fs"

    def work(self, identity: int) -> str:
        """Return the path that overlayfs works in."""
        return f"{self.root}/{identity}/work"

    def create(self, identity: int, *, active: bool, owner: tuple[int, int] | None) -> None:
        """Make the folder of a snapshot; as in containerd its root has mode 0755 and the owner of the parent's root."""
        top = self.root / str(identity)
        try:
            top.mkdir(mode=0o700)
        except FileExistsError:
            # The number of a row that was rolled back on a disk so full that its folder could not be removed either.
            self.remove(identity)
            top.mkdir(mode=0o700)
        try:
            os.mkdir(top / "fs")
            os.chmod(top / "fs", 0o755)  # noqa: S103 - the root of a container; the folders above it are closed
            if owner is not None:
                os.chown(top / "fs", *owner)
            if active:
                os.mkdir(top / "work", 0o711)
        except OSError:
            self.remove(identity)
            raise

    def remove(self, identity: int) -> None:
        """Remove the folder of a snapshot and everything in it; mounts inside it are detached."""
        top = f"{self.root}/{identity}"
        with contextlib.suppress(FileNotFoundError):
            try:
                shutil.rmtree(top)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                detach_below(top)
                shutil.rmtree(top)

    def present(self) -> set[int]:
        """Return the ids that have a folder."""
        return {int(name) for name in os.listdir(self.root) if name.isascii() and name.isdigit()}

    def sweep(self, known: Collection[int]) -> list[int]:
        """Remove the folders of all ids that are not `known`; return these ids."""
        orphans = sorted(self.present() - set(known))
        for identity in orphans:
            self.remove(identity)
        return orphans


def detach_below(path: str) -> None:
    """Detach all mounts at or below `path`, innermost first."""
    targets = [entry.target for entry in mountinfo() if entry.target == path or entry.target.startswith(f"{path}/")]
    for target in reversed(targets):
        with contextlib.suppress(HyperBoxError):
            umount(target, UmountFlag.DETACH | UmountFlag.NOFOLLOW)


def disk_usage(path: str) -> Usage:
    """Return what a tree takes on disk: allocated bytes and inodes, hard links once, the root included."""
    seen: set[tuple[int, int]] = set()
    size = inodes = 0
    for stat in _stats(path):
        if stat.st_nlink > 1:
            key = (stat.st_dev, stat.st_ino)
            if key in seen:
                continue
            seen.add(key)
        size += stat.st_blocks * _BLOCK
        inodes += 1
    return Usage(size, inodes)


def _stats(path: str) -> Iterator[os.stat_result]:
    yield os.lstat(path)
    open_folders = [path]
    while open_folders:
        # A folder of a running container may vanish under the walk.
        with contextlib.suppress(FileNotFoundError), os.scandir(open_folders.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    yield entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        open_folders.append(entry.path)
