"""From tar entries to a `Tree`, by the rules of a real unpack: names, parents, replacement, links, whiteouts.

The rules are containerd's (its `archive` package with overlay whiteouts), because a layer must become the same tree
with HyperBox and without:

- names are cleaned lexically and rooted; one that climbs above the root is refused (containerd would root it);
- symlinks among the parents of a name are followed inside the layer, never out of its root;
- missing parents are made (`Inode.implicit`); an entry for the root itself is ignored;
- an entry replaces what has its name, a folder with all it holds; only a folder over a folder is merged;
- a hard link's header sets the attributes of the inode that it links;
- `.wh.NAME` hides NAME in the layers below, `.wh..wh..opq` hides everything in its folder there, other names in
  `.wh..wh.` mean nothing, nor does what is below them (AUFS kept its own things there); a 0/0 character device is
  a whiteout too;
- `trusted.*` xattrs are dropped, and so are namespaces that Linux does not have and `user.*` where no file may
  have it.

Beyond containerd, a whiteout beside an entry of the same name is allowed in any order: the entry stays, and a folder
becomes opaque.

Raises `EntryRefused`, `LinkTargetMissing`, `LayerTooLarge`.
"""

from __future__ import annotations

from typing import Final

from hyperbox.api.errors.images import EntryRefused, LayerTooLarge, LinkTargetMissing
from hyperbox.images import tar
from hyperbox.images.limits import NAME_BYTES, PATH_BYTES, XATTR_NAME_BYTES, XATTR_VALUE_BYTES, LayerLimits
from hyperbox.images.tree import Inode, Kind, Tree

_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
_META: Final = b".wh..wh."
_MOST_LINKS: Final = 255
_DOTS: Final = frozenset({b"", b".", b".."})
_ACLS: Final = frozenset({b"system.posix_acl_access", b"system.posix_acl_default"})
_KINDS: Final = {
    ord("0"): Kind.FILE,
    tar.SYMLINK: Kind.SYMLINK,
    tar.CHARACTER: Kind.CHARACTER,
    tar.BLOCK_DEVICE: Kind.BLOCK,
    tar.DIRECTORY: Kind.DIRECTORY,
    tar.FIFO: Kind.FIFO,
}


class TreeBuilder:
    """Grows a tree entry by entry. `tree` is whole after each `add`."""

    __slots__ = ("_children", "_limits", "_metadata", "_parents", "dropped_xattrs", "tree")

    def __init__(self, limits: LayerLimits) -> None:
        self.tree = Tree()
        self.dropped_xattrs = 0
        """Extended attributes that the layer brought and that were not taken over."""
        self._limits = limits
        self._metadata = 0
        self._parents: dict[bytes, bytes] = {b"": b""}  # parent as written → its path in the tree
        self._children: dict[bytes, set[bytes]] | None = None  # made when the first folder is replaced

    def add(self, entry: tar.Entry, inode: Inode | None = None) -> None:
        """Take over one entry. `inode` brings the content of a regular file (`size` and `digest` or `data`)."""
        parent, base = self._place(entry.name)
        if not base:
            return
        self._count(len(entry.name) + len(entry.link) + 64)
        if base.startswith(_WHITEOUT):
            self._whiteout(entry.name, parent, base)
            return
        if entry.type == tar.LINK:
            self._link(entry, _join(parent, base))
            return
        if inode is None:
            inode = Inode(_KINDS[entry.type])
        inode.mode, inode.uid, inode.gid, inode.mtime_ns = entry.mode, entry.uid, entry.gid, entry.mtime_ns
        if inode.data:
            self._count(len(inode.data))
        if inode.kind is Kind.SYMLINK:
            inode.target = self._target(entry)
            inode.mode = 0o777
        elif inode.kind in (Kind.CHARACTER, Kind.BLOCK):
            inode.rdev = self._rdev(entry)
            if inode.kind is Kind.CHARACTER and inode.rdev == (0, 0):
                inode.kind = Kind.WHITEOUT
        if entry.xattrs:
            inode.xattrs = self._xattrs(entry, inode.kind)
        self._insert(_join(parent, base), inode)

    # --- names

    def _place(self, name: bytes) -> tuple[bytes, bytes]:
        """The parent's path in the tree (made if missing) and the last part of the name; `b""` where there is none."""
        head, _, base = name.rpartition(b"/")
        if base in _DOTS:
            head, _, base = self._clean(name).rpartition(b"/")
            if not base:
                return b"", b""
        if len(base) > NAME_BYTES:
            raise EntryRefused(path=_shown(name), reason=f"a name of more than {NAME_BYTES} bytes")
        if 0 in base:
            raise EntryRefused(path=_shown(name), reason="a NUL in the name")
        parent = self._parents.get(head)
        if parent is None:
            path = self._clean(head)
            if path.startswith(_META) or b"/" + _META in path:
                return b"", b""
            self._count(len(head) + 64)
            parent = self._directory(self._resolve(path, name), name)
            self._parents[head] = parent
        return parent, base

    def _clean(self, name: bytes) -> bytes:
        parts: list[bytes] = []
        for part in name.split(b"/"):
            if part == b"..":
                if not parts:
                    raise EntryRefused(path=_shown(name), reason="it climbs out of the root")
                parts.pop()
            elif part not in _DOTS:
                parts.append(part)
        return b"/".join(parts)

    def _resolve(self, path: bytes, name: bytes) -> bytes:
        """Follow the symlinks in a cleaned path inside the tree; parts that do not exist stay as they are."""
        waiting = path.split(b"/")[::-1] if path else []
        at = b""
        links = 0
        while waiting:
            part = waiting.pop()
            if part in _DOTS:
                if part == b"..":
                    at = at.rpartition(b"/")[0]
                continue
            step = _join(at, part)
            inode = self.tree.inodes.get(step)
            if inode is None or inode.kind is not Kind.SYMLINK:
                at = step
                continue
            links += 1
            if links > _MOST_LINKS:
                raise EntryRefused(path=_shown(name), reason="its parents are a loop of symlinks")
            if inode.target.startswith(b"/"):
                at = b""
            waiting += inode.target.split(b"/")[::-1]
        return at

    def _directory(self, path: bytes, name: bytes) -> bytes:
        """Make sure that a path and everything above it is a folder."""
        inodes = self.tree.inodes
        known = inodes.get(path)
        if known is not None and known.kind is Kind.DIRECTORY:
            return path
        if len(path) > PATH_BYTES:
            raise EntryRefused(path=_shown(name), reason=f"a path of more than {PATH_BYTES} bytes")
        at = b""
        for part in path.split(b"/"):
            if len(part) > NAME_BYTES or 0 in part:
                raise EntryRefused(path=_shown(name), reason="a parent with an impossible name")
            at = _join(at, part)
            inode = inodes.get(at)
            if inode is None or inode.kind is Kind.WHITEOUT:
                self._insert(at, Inode(Kind.DIRECTORY, 0o755, implicit=True))
                self._count(len(at) + 64)
            elif inode.kind is not Kind.DIRECTORY:
                raise EntryRefused(path=_shown(name), reason=f"its parent {_shown(at)} is not a folder")
        return path

    # --- the tree

    def _insert(self, path: bytes, inode: Inode) -> None:
        inodes = self.tree.inodes
        present = inodes.get(path)
        if present is None:
            if len(path) > PATH_BYTES:
                raise EntryRefused(path=_shown(path), reason=f"a path of more than {PATH_BYTES} bytes")
            if self._children is not None:
                self._children.setdefault(path.rpartition(b"/")[0], set()).add(path)
        elif present.kind is Kind.DIRECTORY:
            if inode.kind is Kind.DIRECTORY:
                inode.opaque = present.opaque
                inode.xattrs = present.xattrs | inode.xattrs
            else:
                self._clear(path)
        elif present.kind is Kind.WHITEOUT:
            inode.opaque = inode.kind is Kind.DIRECTORY
        elif present.kind is Kind.SYMLINK:
            self._parents = {b"": b""}
        inodes[path] = inode

    def _clear(self, path: bytes) -> None:
        """Drop everything below a folder."""
        if self._children is None:
            self._children = {}
            for known in self.tree.inodes:
                if known:
                    self._children.setdefault(known.rpartition(b"/")[0], set()).add(known)
        self._parents = {b"": b""}
        waiting = [path]
        while waiting:
            below = self._children.pop(waiting.pop(), ())
            for child in below:
                del self.tree.inodes[child]
            waiting += below

    def _link(self, entry: tar.Entry, path: bytes) -> None:
        head, _, base = self._clean(entry.link).rpartition(b"/")
        source = _join(self._resolve(head, entry.name), base)
        present = self.tree.inodes.get(path)
        if source != path and present is not None and present.kind is Kind.DIRECTORY:
            self._clear(path)
        inode = self.tree.inodes.get(source)
        if not base or inode is None or source == path:
            raise LinkTargetMissing(path=_shown(entry.name), target=_shown(entry.link))
        if inode.kind in (Kind.DIRECTORY, Kind.WHITEOUT):
            raise EntryRefused(path=_shown(entry.name), reason="a hard link to a folder or whiteout")
        inode.uid, inode.gid, inode.mtime_ns = entry.uid, entry.gid, entry.mtime_ns
        if inode.kind is not Kind.SYMLINK:
            inode.mode = entry.mode
        if entry.xattrs:
            inode.xattrs = inode.xattrs | self._xattrs(entry, inode.kind)
        self._insert(path, inode)

    def _whiteout(self, name: bytes, parent: bytes, base: bytes) -> None:
        if base == _OPAQUE:
            self.tree.inodes[parent].opaque = True
            return
        if base.startswith(_META):
            return
        hidden = base[len(_WHITEOUT) :]
        if hidden in _DOTS:
            raise EntryRefused(path=_shown(name), reason="a whiteout of nothing")
        path = _join(parent, hidden)
        present = self.tree.inodes.get(path)
        if present is None:
            self._insert(path, Inode(Kind.WHITEOUT, 0))
        elif present.kind is Kind.DIRECTORY:
            present.opaque = True

    # --- attributes

    def _target(self, entry: tar.Entry) -> bytes:
        if not entry.link or len(entry.link) > PATH_BYTES or 0 in entry.link:
            raise EntryRefused(path=_shown(entry.name), reason="a symlink to nowhere or too far")
        return entry.link

    def _rdev(self, entry: tar.Entry) -> tuple[int, int]:
        major, minor = entry.rdev
        if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
            raise EntryRefused(path=_shown(entry.name), reason=f"device number {major}:{minor}")
        return entry.rdev

    def _xattrs(self, entry: tar.Entry, kind: Kind) -> dict[bytes, bytes]:
        kept: dict[bytes, bytes] = {}
        for name, value in (entry.xattrs or {}).items():
            space, dot, rest = name.partition(b".")
            known = name in _ACLS or (dot and rest and space in (b"security", b"user"))
            if not known or (space == b"user" and kind not in (Kind.FILE, Kind.DIRECTORY)):
                self.dropped_xattrs += 1
                continue
            if len(name) > XATTR_NAME_BYTES or len(value) > XATTR_VALUE_BYTES:
                raise EntryRefused(path=_shown(entry.name), reason="an extended attribute too long for Linux")
            kept[name] = value
            self._count(len(name) + len(value) + 64)
        return kept

    def _count(self, size: int) -> None:
        self._metadata += size
        if self._metadata > self._limits.metadata:
            raise LayerTooLarge(limit=self._limits.metadata, what="bytes of metadata")


def _join(parent: bytes, base: bytes) -> bytes:
    return parent + b"/" + base if parent else base


def _shown(name: bytes) -> str:
    return name[:200].decode("utf-8", "backslashreplace")
