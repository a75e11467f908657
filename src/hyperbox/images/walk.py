"""An ordinary layer folder (what overlayfs or the engine's unpack left behind) as a `Tree`, its files in objects.

Overlay's own marks are read for their meaning and dropped: opaque folders, whiteouts (0/0 device or xattr form). Two
marks mean that the folder alone does not tell the whole story, and then a *merged view* is needed, a read-only overlay
mount of this folder over the layers below it:

- `metacopy` on a file: only attributes are here, the content is below and is read through the merged view;
- `redirect` on a folder: it was renamed, and what it holds lies below under the old name. The folder is emitted in full
  from the merged view and marked opaque, so that it no longer depends on the old name. Hard links between files
  inside it stay; one to a file of a lower layer outside of it becomes a file of its own, with the same content.

Sizes in bytes, times in nanoseconds. The folder must not change meanwhile; nobody may write its files afterwards,
because large ones become objects by hard link.

Raises `FolderChanged`, `FolderNotCompactable`, `MergedViewNeeded`, and what the object store raises.
"""

from __future__ import annotations

import errno
import os
import stat
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from hyperbox.api.errors.images import FolderChanged, FolderNotCompactable, MergedViewNeeded
from hyperbox.images.ingest import INLINE, ObjectSink
from hyperbox.images.limits import NAME_BYTES, PATH_BYTES
from hyperbox.images.tree import Inode, Kind, Tree
from hyperbox.images.walk_files import FileIntake

_OVERLAY: Final = b"trusted.overlay."
_ESCAPED: Final = b"trusted.overlay.overlay."
_KINDS: Final = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
}
_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_BATCH: Final = 32


@dataclass(frozen=True, slots=True)
class FolderContent:
    """What a folder turned out to be. Sizes in bytes."""

    tree: Tree
    new_objects: int
    new_bytes: int
    """Content that became objects now."""
    known_objects: int
    known_bytes: int
    """Content that was in objects before: the folder's own copies of it are what compaction saves."""
    inline_bytes: int


def walk_folder(
    path: str | os.PathLike[str],
    sink: ObjectSink,
    *,
    merged: str | os.PathLike[str] | None = None,
    threads: int = 2,
) -> FolderContent:
    """Read a layer folder and bring its files into objects; the folder itself stays as it is.

    `merged` is a read-only overlay mount of `path` over the layers below; without one, a folder that needs it raises
    `MergedViewNeeded` (see `needs_merged_view`). `threads` read and hash files side by side.
    """
    intake = FileIntake(sink)
    with ThreadPoolExecutor(threads, thread_name_prefix="walk") as pool:
        walk = _Walk(os.fsencode(path), os.fsencode(merged) if merged is not None else None, intake, pool)
        try:
            tree = walk.run()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return FolderContent(
        tree=tree,
        new_objects=intake.new_objects,
        new_bytes=intake.new_bytes,
        known_objects=intake.known_objects,
        known_bytes=intake.known_bytes,
        inline_bytes=intake.inline_bytes,
    )


def needs_merged_view(path: str | os.PathLike[str]) -> bool:
    """Whether a layer folder holds a metacopy file or a redirected folder: one look at each name, no content read."""
    waiting = [os.fsencode(path)]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if b"redirect" in _marks(entry.path):
                            return True
                        waiting.append(entry.path)
                    elif entry.is_file(follow_symlinks=False) and b"metacopy" in _marks(entry.path):
                        return True
        except OSError as error:
            raise _changed(folder, error) from error
    return False


def _marks(path: bytes) -> set[bytes]:
    names = (os.fsencode(name) for name in os.listxattr(path, follow_symlinks=False))
    return {name[len(_OVERLAY) :] for name in names if name.startswith(_OVERLAY)}


class _Walk:
    """One walk. Folders are listed by the calling thread, files are read by the pool."""

    def __init__(self, raw: bytes, merged: bytes | None, intake: FileIntake, pool: ThreadPoolExecutor) -> None:
        self._raw = raw
        self._merged = merged
        self._intake = intake
        self._pool = pool
        self._tree = Tree()
        self._links: dict[tuple[bool, int, int], Inode] = {}
        self._batch: list[tuple[Inode, bytes, bool]] = []
        self._futures: list[Future[None]] = []

    def run(self) -> Tree:
        waiting = [(b"", self._root())]
        while waiting:
            folder, moved = waiting.pop()
            for name in self._names(folder, moved):
                path = folder + b"/" + name if folder else name
                if len(name) > NAME_BYTES or len(path) > PATH_BYTES:
                    raise FolderNotCompactable(path=_shown(path), reason="its path is too long")
                below = self._visit(path, moved)
                if below is not None:
                    waiting.append((path, below))
            self._collect(wait=False)
        self._send()
        self._collect(wait=True)
        return self._tree

    def _root(self) -> bool:
        inode, marks = self._inode(b"", self._raw, os.lstat(self._raw), moved=False)
        if inode.kind is not Kind.DIRECTORY:
            raise FolderNotCompactable(path=_shown(self._raw), reason="it is no folder")
        inode.opaque = marks.get(b"opaque") == b"y"
        self._tree.inodes[b""] = inode
        return False

    def _names(self, folder: bytes, moved: bool) -> list[bytes]:
        where = self._where(folder, moved)
        try:
            return sorted(os.listdir(where))
        except OSError as error:
            raise _changed(where, error) from error

    def _where(self, path: bytes, moved: bool) -> bytes:
        root = self._raw
        if moved:
            assert self._merged is not None
            root = self._merged
        return root + b"/" + path if path else root

    def _visit(self, path: bytes, moved: bool) -> bool | None:
        """Take over one name. For a folder to go into, returns whether its content is that of the merged view."""
        where = self._where(path, moved)
        try:
            info = os.lstat(where)
            # In the merged view, a file that is in the folder itself is taken from there: it can be hard-linked.
            own = self._own(path) if moved and stat.S_ISREG(info.st_mode) else None
            source, seen = (where, info) if own is None else own
            key = (moved and own is None, seen.st_dev, seen.st_ino)
            inode = self._links.get(key)
            if inode is not None:
                self._tree.inodes[path] = inode
                return None
            inode, marks = self._inode(path, where, info, moved=moved)
        except OSError as error:
            raise _changed(where, error) from error
        if seen.st_nlink > 1 and inode.kind is not Kind.DIRECTORY:
            self._links[key] = inode
        self._tree.inodes[path] = inode
        if inode.kind is Kind.FILE:
            if b"metacopy" in marks:
                source = self._where(path, self._need(path, "metacopy mark"))
            # Only a file of the folder itself may become an object as it is.
            self._read(inode, source, adopt=source == self._raw + b"/" + path)
        elif inode.kind is Kind.DIRECTORY:
            if marks.get(b"opaque") == b"y":
                inode.opaque = True
            elif b"redirect" in marks:
                inode.opaque = moved = self._need(path, "redirect")
            return moved
        return None

    def _need(self, path: bytes, what: str) -> bool:
        if self._merged is None:
            raise MergedViewNeeded(path=_shown(path), what=what)
        return True

    def _own(self, path: bytes) -> tuple[bytes, os.stat_result] | None:
        """The folder's own inode of a regular file in the merged view, if it is here, and where its content is."""
        where = self._where(path, moved=False)
        try:
            info = os.lstat(where)
            if not stat.S_ISREG(info.st_mode):
                return None
            return self._where(path, moved=b"metacopy" in _marks(where)), info
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise

    def _inode(
        self, path: bytes, where: bytes, info: os.stat_result, *, moved: bool
    ) -> tuple[Inode, dict[bytes, bytes]]:
        kind = _KINDS[stat.S_IFMT(info.st_mode)]
        inode = Inode(kind, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns)
        if kind in (Kind.CHARACTER, Kind.BLOCK):
            inode.rdev = (os.major(info.st_rdev), os.minor(info.st_rdev))
            if kind is Kind.CHARACTER and info.st_rdev == 0:
                return Inode(Kind.WHITEOUT, 0), {}
        elif kind is Kind.SYMLINK:
            inode.target = os.readlink(where)
        marks: dict[bytes, bytes] = {}
        for text in os.listxattr(where, follow_symlinks=False):
            name = os.fsencode(text)
            # Through the merged view the kernel has taken one `overlay.` off already.
            if name.startswith(_ESCAPED) or (moved and name.startswith(_OVERLAY)):
                raise FolderNotCompactable(
                    path=_shown(path), reason="it holds layers of an overlay inside the container"
                )
            value = os.getxattr(where, text, follow_symlinks=False)
            if name.startswith(_OVERLAY):
                marks[name[len(_OVERLAY) :]] = value
            else:
                inode.xattrs[name] = value
        if kind is Kind.FILE:
            inode.size = info.st_size
            if b"whiteout" in marks and not info.st_size:
                return Inode(Kind.WHITEOUT, 0), {}
        return inode, marks

    # --- contents

    def _read(self, inode: Inode, source: bytes, *, adopt: bool) -> None:
        if not inode.size:
            inode.data = b""
            return
        self._batch.append((inode, source, adopt))
        if len(self._batch) >= _BATCH or inode.size > INLINE << 10:
            self._send()

    def _send(self) -> None:
        if self._batch:
            batch, self._batch = self._batch, []
            self._futures.append(self._pool.submit(self._take_batch, batch))

    def _take_batch(self, batch: list[tuple[Inode, bytes, bool]]) -> None:
        for inode, source, adopt in batch:
            self._intake.take(inode, source, adopt=adopt)

    def _collect(self, *, wait: bool) -> None:
        """Raise what went wrong in the pool, as soon as it is known."""
        left: list[Future[None]] = []
        for future in self._futures:
            if wait or future.done():
                future.result()
            else:
                left.append(future)
        self._futures = left


def _changed(where: bytes, error: OSError) -> FolderChanged:
    return FolderChanged(path=_shown(where), reason=error.strerror or error)


def _shown(path: bytes) -> str:
    return path[-200:].decode("utf-8", "backslashreplace")
