"""Sharing files on kernels without composed layers: equal files of committed folders become hard links.

Files are equal here when content, owner, mode, modification time and all extended attributes agree; then nothing but
the link count can tell them apart. `links/ab/cdef…` holds one link for each such file, named by a digest over all of
that: whether an equal file is here is one look-up, and an entry with a single link left belongs to nobody.

A file is replaced by `rename`, so it is there at every instant. That changes the folder's modification time, which is
written down before and set again after; `restore` does so at the next start for a process that was killed in between.
Folders that a container may have mounted are left as they are.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hyperbox.linux import mountinfo
from hyperbox.snapshotter.keeping import names_folder
from hyperbox.snapshotter.model import Kind, Snapshot
from hyperbox.snapshotter.worker import Worker

if TYPE_CHECKING:
    from hyperbox.snapshotter.service import Snapshotter

SMALLEST: Final = 1024
"""Bytes under which a file is not worth a look."""

_JOURNAL: Final = "linking.json"
_TEMPORARY: Final = "linking.tmp"
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class FolderLinking:
    """Links equal files of committed folders, one folder at a time, in the background."""

    def __init__(self, service: Snapshotter, worker: Worker) -> None:
        self._service = service
        self._worker = worker
        self._index = service.store.state / "links"
        self._index.mkdir(mode=0o700, exist_ok=True)

    def enqueue(self, identity: int) -> None:
        """Have the committed snapshot of this id looked at when its turn comes."""
        self._worker.submit(f"link {identity}", lambda: self._link(identity))

    def prune(self) -> None:
        """Have entries removed that no folder shares any more."""
        self._worker.submit("prune links", self._prune)

    def restore(self) -> None:
        """Set folder times that a killed process could not set any more."""
        for identity in self._service.folders.present():
            self._settle(self._service.folders.root / str(identity))

    def _link(self, identity: int) -> None:
        top = self._service.folders.root / str(identity)
        for folder, _, names in os.walk(os.fsencode(top / "fs")):
            if self._worker.stopping.is_set() or not self._free(identity):
                return
            self._link_in(top, folder, names)

    def _free(self, identity: int) -> bool:
        """Whether nobody can have it mounted: engines unpack layers above it without mounting."""
        with self._service.lock:
            snapshot = self._service.machine.by_id(identity)
            if snapshot is None or snapshot.kind is not Kind.COMMITTED:
                return False
            above = self._service.machine.descendants(snapshot.name)
        return not any(map(_mountable, above)) and not names_folder(
            mountinfo(), str(self._service.folders.root), identity
        )

    def _link_in(self, top: Path, folder: bytes, names: list[bytes]) -> None:
        temporary = top / _TEMPORARY
        journalled = False
        for name in names:
            path = folder + b"/" + name
            key = _key(path)
            if key is None or not self._take(key, path, temporary):
                continue
            if not journalled:
                info = os.stat(folder)
                noted = {"folder": os.fsdecode(folder), "atime": info.st_atime_ns, "mtime": info.st_mtime_ns}
                (top / _JOURNAL).write_text(json.dumps(noted))
                journalled = True
            os.rename(temporary, path)
        if journalled:
            self._settle(top)

    def _take(self, key: str, path: bytes, temporary: Path) -> bool:
        """Link the known equal file to `temporary`; when there is none, this one becomes it."""
        entry = self._index / key[:2] / key[2:]
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        try:
            os.link(entry, temporary)
        except FileNotFoundError:
            entry.parent.mkdir(mode=0o700, exist_ok=True)
            os.link(path, entry)
            return False
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            os.unlink(entry)  # full: the next ones share this file
            os.link(path, entry)
            return False
        return True

    def _settle(self, top: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(top / _TEMPORARY)
        try:
            noted = json.loads((top / _JOURNAL).read_text())
            os.utime(os.fsencode(noted["folder"]), ns=(noted["atime"], noted["mtime"]))
        except FileNotFoundError:
            return
        except ValueError:
            pass  # killed while it was written: nothing had been replaced yet
        os.unlink(top / _JOURNAL)

    def _prune(self) -> None:
        for part in self._index.iterdir():
            for entry in os.scandir(part):
                if entry.stat(follow_symlinks=False).st_nlink == 1:
                    os.unlink(entry.path)


def _mountable(snapshot: Snapshot) -> bool:
    return snapshot.kind is not Kind.COMMITTED and not snapshot.unpacking


def _key(path: bytes) -> str | None:
    """Return a digest over everything that must agree, or None for what is left alone (linked already, small)."""
    try:
        fd = os.open(path, _FLAGS)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1 or info.st_size < SMALLEST:
            return None
        content = hashlib.file_digest(file, "sha256").hexdigest()
        xattrs = sorted((name, os.getxattr(fd, name).hex()) for name in os.listxattr(fd))
    facts = [content, info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, xattrs]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
