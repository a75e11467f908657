"""The parts of an EROFS image: superblock, inodes, attributes, directory blocks. Each access checks its bounds.

Everything raises `ErofsMalformed`; `struct.error` and `IndexError` may pass through where an image is cut short.
"""

from __future__ import annotations

import mmap
import stat
import struct
from collections.abc import Iterator
from typing import Final, NoReturn

from hyperbox.api.errors.images import ErofsMalformed
from hyperbox.images.erofs import _format as fmt
from hyperbox.images.erofs._xattrs import redirect_of
from hyperbox.images.tree import Inode, Kind

_SECOND: Final = 1_000_000_000
_U16: Final = struct.Struct("<H")
_REDIRECT_LENGTH: Final = len(redirect_of(bytes(32)))


def malformed(offset: int, reason: str) -> NoReturn:
    """Raise the error of this room for the byte `offset` of the image."""
    raise ErofsMalformed(offset=offset, reason=reason)


class Budget:
    """How many bytes may still be read: parts of a well-made image do not overlap, so its length is enough."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left

    def spend(self, count: int, offset: int) -> None:
        """Take `count` bytes for what lies at `offset`."""
        self.left -= count
        if self.left < 0:
            malformed(offset, "its parts overlap")


class RawInode:
    """An inode as it lies in the image, its numbers decoded and nothing else."""

    __slots__ = ("body", "body_size", "gid", "layout", "links", "mode", "mtime_ns", "nid", "size", "uid", "union")

    nid: int
    mode: int
    layout: int
    size: int
    union: int
    uid: int
    gid: int
    mtime_ns: int
    links: int
    body: int
    """Where the attributes start."""
    body_size: int

    @property
    def end(self) -> int:
        """Where inline content or the chunk table starts."""
        return self.body + self.body_size


class SharedXattrs(dict[int, tuple[bytes, bytes]]):
    """Shared attributes by number, each read once."""

    def __init__(self, image: Image, budget: Budget) -> None:
        super().__init__()
        self._image = image
        self._budget = budget

    def __missing__(self, number: int) -> tuple[bytes, bytes]:
        position = self._image.xattr_area + 4 * number
        name, value, end = self._image.entry(position, len(self._image.data))
        self._budget.spend(end - position, position)
        self[number] = name, value
        return name, value


class Image:
    """Bounds-checked access to the bytes of an image."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self.data = data
        self._read_superblock()

    def _read_superblock(self) -> None:
        data = self.data
        if len(data) < fmt.BLOCK:
            malformed(0, "shorter than one block")
        fields = fmt.SUPERBLOCK.unpack_from(data, fmt.SUPERBLOCK_OFFSET)
        magic, checksum, compat, bits, extra_slots, root, _, seconds, ns, blocks, meta, xattr = fields[:12]
        incompat, compression, extra_devices, _, directory_bits = fields[14:19]
        if magic != fmt.MAGIC:
            malformed(fmt.SUPERBLOCK_OFFSET, "no EROFS superblock")
        if 1 << bits != fmt.BLOCK or directory_bits or extra_slots:
            malformed(fmt.SUPERBLOCK_OFFSET, "an unsupported block size")
        if incompat & ~fmt.INCOMPAT_CHUNKED_FILE or compression or extra_devices:
            malformed(fmt.SUPERBLOCK_OFFSET, f"unsupported features {incompat:#x}")
        if compat & fmt.COMPAT_CHECKSUM:
            block = bytearray(data[fmt.SUPERBLOCK_OFFSET : fmt.BLOCK])
            block[4:8] = bytes(4)
            if fmt.crc32c(bytes(block)) != checksum:
                malformed(fmt.SUPERBLOCK_OFFSET, "the superblock's checksum is wrong")
        if blocks * fmt.BLOCK > len(data) or ns >= _SECOND:
            malformed(fmt.SUPERBLOCK_OFFSET, "cut short, or an impossible time")
        self.root: int = root
        self._epoch: int = seconds * _SECOND + ns
        self._meta: int = meta * fmt.BLOCK
        self.xattr_area: int = xattr * fmt.BLOCK
        self._has_filter = bool(compat & fmt.COMPAT_XATTR_FILTER)

    def offset(self, nid: int) -> int:
        """Return where inode `nid` lies."""
        return self._meta + nid * fmt.SLOT

    def raw(self, nid: int) -> RawInode:
        """Return the inode `nid` with its numbers decoded."""
        offset = self.offset(nid)
        data = self.data
        if offset + fmt.COMPACT.size > len(data):
            malformed(offset, "an inode outside of the image")
        (form,) = _U16.unpack_from(data, offset)
        raw = RawInode()
        raw.nid = nid
        raw.layout = form >> 1
        if form & fmt.FORMAT_EXTENDED:
            fields = fmt.EXTENDED.unpack_from(data, offset)
            _, count, raw.mode, _, raw.size, raw.union, _, raw.uid, raw.gid, seconds, ns, raw.links = fields
            if ns >= _SECOND:
                malformed(offset, "an impossible time")
            raw.mtime_ns = seconds * _SECOND + ns
            raw.body = offset + fmt.EXTENDED.size
        else:
            fields = fmt.COMPACT.unpack_from(data, offset)
            _, count, raw.mode, raw.links, raw.size, delta, raw.union, _, raw.uid, raw.gid, _ = fields
            if delta:
                malformed(offset, "an inode with a relative time")
            raw.mtime_ns = self._epoch
            raw.body = offset + fmt.COMPACT.size
        if fmt.NOBODY in (raw.uid, raw.gid):
            malformed(offset, "an inode without owner")
        raw.body_size = fmt.XATTR_BODY.size + 4 * (count - 1) if count else 0
        if raw.end > len(data):
            malformed(offset, "attributes outside of the image")
        if raw.layout not in (fmt.LAYOUT_PLAIN, fmt.LAYOUT_INLINE, fmt.LAYOUT_CHUNKS):
            malformed(offset, "an unsupported data layout")
        return raw

    def inode(self, raw: RawInode, shared: SharedXattrs) -> Inode:
        """Turn a raw inode into what the rest of HyperBox knows. `shared` keeps shared attributes already read."""
        kind = fmt.MODE_KINDS.get(stat.S_IFMT(raw.mode))
        if kind is None:
            malformed(raw.body, "an inode of no known type")
        inode = Inode(kind, raw.mode & 0o7777, raw.uid, raw.gid, raw.mtime_ns)
        if raw.body_size:
            self._take_xattrs(raw, inode, shared)
        if kind is Kind.FILE:
            self._take_content(raw, inode)
        elif inode.digest is not None or (inode.opaque and kind is not Kind.DIRECTORY):
            malformed(raw.body, "overlay attributes on an inode of the wrong type")
        elif kind is Kind.SYMLINK:
            if not 0 < raw.size <= fmt.PATH_MAX:
                malformed(raw.body, "a symbolic link of impossible length")
            inode.target = self._content(raw)
            if b"\0" in inode.target:
                malformed(raw.body, "a symbolic link with a zero byte")
        elif kind in (Kind.CHARACTER, Kind.BLOCK):
            inode.rdev = fmt.decode_device(raw.union)
            if kind is Kind.CHARACTER and inode.rdev == (0, 0):
                inode.kind = Kind.WHITEOUT
        return inode

    def _take_content(self, raw: RawInode, inode: Inode) -> None:
        inode.size = raw.size
        if raw.size >= 1 << 63:
            malformed(raw.body, "a file of impossible size")
        if inode.digest is None:
            if raw.layout == fmt.LAYOUT_CHUNKS:
                malformed(raw.body, "a file whose content is neither here nor in an object")
            inode.data = self._content(raw)
            return
        if not raw.size:
            return
        if raw.layout != fmt.LAYOUT_CHUNKS or raw.union != fmt.chunk_bits(raw.size):
            malformed(raw.body, "a file with content here and in an object")
        length = len(fmt.CHUNK_HOLE) * fmt.chunk_count(raw.size, raw.union)
        if raw.end + length > len(self.data):
            malformed(raw.end, "a chunk table outside of the image")
        if self.data[raw.end : raw.end + length].strip(b"\xff"):
            malformed(raw.end, "a file with content here and in an object")

    def _content(self, raw: RawInode) -> bytes:
        """Return the whole content of a file, link or directory that lies in the image."""
        size = raw.size
        if not size:
            return b""
        if size > len(self.data):
            malformed(raw.body, "content outside of the image")
        if raw.layout == fmt.LAYOUT_CHUNKS:
            malformed(raw.body, "content by chunks")
        last = (size - 1) // fmt.BLOCK
        return b"".join([self.block(raw, index) for index in range(last + 1)])

    def block(self, raw: RawInode, index: int) -> bytes:
        """Return one block of an inode's content, the last one without what lies behind the content."""
        last = (raw.size - 1) // fmt.BLOCK
        length = raw.size - last * fmt.BLOCK if index == last else fmt.BLOCK
        if index == last and raw.layout == fmt.LAYOUT_INLINE:
            start = raw.end
            if start % fmt.BLOCK + length > fmt.BLOCK:
                malformed(start, "inline content over a block boundary")
        else:
            start = (raw.union + index) * fmt.BLOCK
        if start + length > len(self.data):
            malformed(start, "content outside of the image")
        return self.data[start : start + length]

    def _take_xattrs(self, raw: RawInode, inode: Inode, shared: SharedXattrs) -> None:
        metacopy: bytes | None = None
        for name, value in self._xattrs(raw, shared).items():
            if not name.startswith(fmt.OVERLAY):
                inode.xattrs[name] = value
            elif name == fmt.METACOPY and not value:
                metacopy = value
            elif name == fmt.REDIRECT:
                inode.digest = _digest_of(raw, value)
            elif name == fmt.OPAQUE and value == b"y":
                inode.opaque = True
            else:
                malformed(raw.body, "an overlay attribute that HyperBox does not write")
        if (metacopy is None) != (inode.digest is None):
            malformed(raw.body, "metacopy without redirect, or redirect without metacopy")

    def _xattrs(self, raw: RawInode, shared: SharedXattrs) -> dict[bytes, bytes]:
        data, position, end = self.data, raw.body, raw.end
        absent, count = fmt.XATTR_BODY.unpack_from(data, position)
        position += fmt.XATTR_BODY.size
        if position + 4 * count > end:
            malformed(position, "more shared attributes than there is room for")
        found = [shared[number] for number in struct.unpack_from(f"<{count}I", data, position)]
        position += 4 * count
        while position < end:
            name, value, position = self.entry(position, end)
            found.append((name, value))
        result = dict(found)
        if len(result) != len(found):
            malformed(raw.body, "an attribute twice on one inode")
        if self._has_filter and any(absent & fmt.xattr_filter_bit(name) for name in result):
            malformed(raw.body, "an attribute that the name filter denies")
        return result

    def entry(self, position: int, end: int) -> tuple[bytes, bytes, int]:
        if position + fmt.XATTR_ENTRY.size > end:
            malformed(position, "an attribute outside of its area")
        name_length, index, value_length = fmt.XATTR_ENTRY.unpack_from(self.data, position)
        start = position + fmt.XATTR_ENTRY.size
        middle = start + name_length
        stop = middle + value_length
        if stop > end:
            malformed(position, "an attribute outside of its area")
        name = fmt.join_xattr_name(index, self.data[start:middle])
        if name is None or b"\0" in name or len(name) > fmt.NAME_MAX:
            malformed(position, "an attribute without a valid name")
        return name, self.data[middle:stop], stop + (-(stop - position) % 4)

    def find(self, raw: RawInode, name: bytes) -> int | None:
        """Return the nid of `name` in a directory: binary search for the block, then in the block."""
        self.check_directory(raw)
        low, high = 0, (raw.size - 1) // fmt.BLOCK
        while low < high:
            middle = (low + high + 1) // 2
            if Names(raw, self.block(raw, middle)).name(0) <= name:
                low = middle
            else:
                high = middle - 1
        names = Names(raw, self.block(raw, low))
        low, high = 0, names.count - 1
        while low <= high:
            middle = (low + high) // 2
            here = names.name(middle)
            if here == name:
                return names.nid(middle)
            if here < name:
                low = middle + 1
            else:
                high = middle - 1
        return None

    def check_directory(self, raw: RawInode) -> None:
        if not 0 < raw.size <= len(self.data) or raw.layout == fmt.LAYOUT_CHUNKS:
            malformed(raw.body, "a directory of impossible size or layout")


def _digest_of(raw: RawInode, redirect: bytes) -> bytes:
    if len(redirect) == _REDIRECT_LENGTH:
        try:
            digest = bytes.fromhex((redirect[1:3] + redirect[4:]).decode("ascii"))
        except ValueError:
            digest = b""
        # The way back refuses upper case, blanks and whatever else stands for the same number.
        if len(digest) == 32 and redirect_of(digest) == redirect:
            return digest
    malformed(raw.body, "a redirect that is not to an object")


class Names:
    """One block of a directory."""

    __slots__ = ("block", "count", "where")

    def __init__(self, raw: RawInode, block: bytes) -> None:
        self.block = block
        self.where = raw.body
        if len(block) < fmt.DIRENT.size:
            malformed(self.where, "a directory block without entries")
        start = _U16.unpack_from(block, 8)[0]
        self.count, rest = divmod(start, fmt.DIRENT.size)
        if rest or not self.count or start > len(block):
            malformed(self.where, "a directory block without entries")

    def entries(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield name, nid and type of each entry in order."""
        for index in range(self.count):
            nid, _, kind, _ = fmt.DIRENT.unpack_from(self.block, index * fmt.DIRENT.size)
            yield self.name(index), nid, kind

    def nid(self, index: int) -> int:
        """Return the inode number of an entry."""
        nid, _, _, _ = fmt.DIRENT.unpack_from(self.block, index * fmt.DIRENT.size)
        return int(nid)

    def name(self, index: int) -> bytes:
        """Return a name; the last one of a block ends at a zero byte or with the block."""
        offset = index * fmt.DIRENT.size + 8
        (start,) = _U16.unpack_from(self.block, offset)
        if index + 1 < self.count:
            (end,) = _U16.unpack_from(self.block, offset + fmt.DIRENT.size)
            name = self.block[start:end]
        else:
            end = len(self.block)
            name = self.block[start:end].split(b"\0", 1)[0]
        if not self.count * fmt.DIRENT.size <= start < end <= len(self.block) or not 0 < len(name) <= fmt.NAME_MAX:
            malformed(self.where, "a name outside of its directory block")
        return name
