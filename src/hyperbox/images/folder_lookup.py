"""Single paths of a layer that the engine unpacked, as inodes: just enough for folders that take over attributes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hyperbox.images.stack import Lookup
from hyperbox.images.tree import Inode, Kind

_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
}
_OVERLAY = "trusted.overlay."


def folder_lookup(folder: Path) -> Lookup:
    """Return the look-up of a raw layer folder. Contents of files are not read."""
    root = os.fsencode(folder)

    def lookup(path: bytes) -> Inode | None:
        full = os.path.join(root, path)
        try:
            status = os.lstat(full)
        except (FileNotFoundError, NotADirectoryError):
            return None
        kind = _KINDS[stat.S_IFMT(status.st_mode)]
        if kind is Kind.CHARACTER and status.st_rdev == 0:
            return Inode(Kind.WHITEOUT)
        names = os.listxattr(full, follow_symlinks=False)
        return Inode(
            kind=kind,
            mode=stat.S_IMODE(status.st_mode),
            uid=status.st_uid,
            gid=status.st_gid,
            mtime_ns=status.st_mtime_ns,
            target=os.readlink(full) if kind is Kind.SYMLINK else b"",
            xattrs={
                os.fsencode(name): os.getxattr(full, name, follow_symlinks=False)
                for name in names
                if not name.startswith(_OVERLAY)
            },
            opaque=_OVERLAY + "opaque" in names,
        )

    return lookup
