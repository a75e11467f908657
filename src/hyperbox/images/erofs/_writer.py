"""From a layer's tree to an EROFS image: metadata and tiny files only, the same bytes for the same tree.

Order in the image: superblock, root inode, shared attributes, the other inodes in path order (with tiny contents and
the ends of directories right behind them), then whole blocks: the beginnings of large directories and what did not fit
behind its inode. Everything that belongs to an inode lies in one block where it can: one page read per look-up, and
the rule for inline data ("never over a block boundary", kernels before 6.12 read symbolic links that way too) holds.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from hyperbox.api.errors.images import EntryNotStorable
from hyperbox.images.erofs import _directories as directories
from hyperbox.images.erofs import _format as fmt
from hyperbox.images.erofs._survey import Survey, survey
from hyperbox.images.erofs._xattrs import XattrWriter
from hyperbox.images.tree import Inode, Kind, Tree

_SECOND = 1_000_000_000
_FIRST = fmt.SUPERBLOCK_OFFSET + fmt.SUPERBLOCK.size


def build(tree: Tree) -> bytes:
    """Return the EROFS image of `tree`.

    Files with a digest become sizes with `trusted.overlay.metacopy` and `trusted.overlay.redirect`; whiteouts (and
    0/0 character devices, which are the same thing to overlayfs) become 0/0 character devices; opaque directories get
    `trusted.overlay.opaque=y`. `Inode.implicit` is not stored: the caller has resolved it.

    Raises `TreeInconsistent`, `EntryNotStorable`, `XattrNotStorable`.
    """
    return _Image(survey(tree)).write()


def build_file(tree: Tree, path: str | bytes | os.PathLike[str]) -> int:
    """Write the image of `tree` to a new file at `path` and return its size. Not durable, not atomic; see `build`."""
    image = build(tree)
    with open(path, "xb") as file:
        file.write(image)
    return len(image)


@dataclass(slots=True)
class _Space:
    """Hands out places for inodes: 32-byte slots, nothing over a block boundary that fits into a block.

    What a large inode leaves free at the end of a block is kept as one hole and filled by later small ones.
    """

    position: int
    hole: int = 0
    hole_end: int = 0

    def take(self, size: int) -> int:
        rounded = (size + fmt.SLOT - 1) & -fmt.SLOT
        if rounded <= self.hole_end - self.hole:
            place = self.hole
            self.hole += rounded
            return place
        place = self.position
        room = fmt.BLOCK - place % fmt.BLOCK
        if size > room and room != fmt.BLOCK:
            if room > self.hole_end - self.hole:
                self.hole, self.hole_end = place, place + room
            place += room
        self.position = place + rounded
        return place


class _Image:
    """One image being laid out. Lists run in parallel to `Survey.inodes`."""

    def __init__(self, plan: Survey) -> None:
        self.plan = plan
        self.xattrs = XattrWriter(plan.inodes)
        self.epoch = _commonest(inode.mtime_ns for inode in plan.inodes)
        self.directories = {
            number: directories.split(children, number, plan.parents[number])
            for number, children in plan.children.items()
        }
        count = len(plan.inodes)
        self.sizes = [self._content_size(number, inode) for number, inode in enumerate(plan.inodes)]
        self.bodies: list[bytes] = [b""] * count
        self.extended: list[bool] = [False] * count
        self.layouts: list[int] = [fmt.LAYOUT_PLAIN] * count
        self.unions: list[int] = [0] * count
        self.places: list[int] = [0] * count
        self.blocks: list[tuple[int, int]] = []
        """Inode and index of the block of its content, in image order."""

    def write(self) -> bytes:
        """Lay out, then fill in."""
        self._lay_out()
        first_block = -(-self.space.position // fmt.BLOCK)
        length = (first_block + len(self.blocks)) * fmt.BLOCK
        image = bytearray(length)
        self._put_addresses(first_block)
        image[self.area : self.area + len(self.xattrs.area)] = self.xattrs.area
        self._put_inodes(image)
        self._put_blocks(image, first_block)
        self._put_superblock(image)
        return bytes(image)

    def _lay_out(self) -> None:
        plan, xattrs = self.plan, self.xattrs
        root = plan.inodes[0]
        self.bodies[0] = xattrs.body(b"", root)
        self.space = space = _Space(_FIRST)
        self.places[0] = space.take(self._measure(0, root))
        # The shared area comes right after the root, so that the root's number stays within 16 bits.
        self.area = space.position
        space.position += (len(xattrs.area) + fmt.SLOT - 1) & -fmt.SLOT
        if self.area // 4 + len(xattrs.area) // 4 > 0xFFFFFFFF:
            raise EntryNotStorable(path="/", reason="the layer's extended attributes exceed 16 GiB")
        xattrs.place(self.area)
        for number, (path, inode) in enumerate(zip(plan.paths, plan.inodes, strict=True)):
            self.bodies[number] = xattrs.body(path, inode)
            if number:
                self.places[number] = space.take(self._measure(number, inode))

    def _measure(self, number: int, inode: Inode) -> int:
        """Choose form and layout of an inode; return the bytes it takes where inodes lie."""
        size = self.sizes[number]
        extended = (
            inode.mtime_ns != self.epoch
            or inode.uid > 0xFFFF
            or inode.gid > 0xFFFF
            or size > 0xFFFFFFFF
            or self.plan.links[number] > 0xFFFF
        )
        self.extended[number] = extended
        head = (fmt.EXTENDED.size if extended else fmt.COMPACT.size) + len(self.bodies[number])
        if inode.digest is not None and size:
            bits = fmt.chunk_bits(size)
            self.layouts[number] = fmt.LAYOUT_CHUNKS
            self.unions[number] = bits
            return head + len(fmt.CHUNK_HOLE) * fmt.chunk_count(size, bits)
        if size:
            return self._measure_content(number, head, size)
        if inode.kind in (Kind.CHARACTER, Kind.BLOCK):
            device = fmt.encode_device(*inode.rdev)
            assert device is not None  # seen by the survey
            self.unions[number] = device
        return head

    def _measure_content(self, number: int, head: int, size: int) -> int:
        """Put the end of the content behind the inode if both fit into one block, and the rest into blocks."""
        count = (size - 1) // fmt.BLOCK
        tail = size - count * fmt.BLOCK
        inline = head + tail <= fmt.BLOCK
        self.layouts[number] = fmt.LAYOUT_INLINE if inline else fmt.LAYOUT_PLAIN
        self.unions[number] = len(self.blocks)  # replaced by the block's address when that is known
        self.blocks.extend((number, index) for index in range(count if inline else count + 1))
        return head + tail if inline else head

    def _put_addresses(self, first_block: int) -> None:
        for number, index in self.blocks:
            if not index:
                self.unions[number] += first_block
        for number, layout in enumerate(self.layouts):
            if layout == fmt.LAYOUT_INLINE and self.sizes[number] <= fmt.BLOCK:
                self.unions[number] = 0

    def _content_size(self, number: int, inode: Inode) -> int:
        if inode.kind is Kind.FILE:
            return inode.size
        if inode.kind is Kind.DIRECTORY:
            return self.directories[number].size
        return len(inode.target) if inode.kind is Kind.SYMLINK else 0

    def _put_inodes(self, image: bytearray) -> None:
        compact, extended = fmt.COMPACT.pack, fmt.EXTENDED.pack
        self.nids = [place // fmt.SLOT for place in self.places]
        self.types = [fmt.KIND_DIRENT_TYPES[inode.kind] for inode in self.plan.inodes]
        for number, inode in enumerate(self.plan.inodes):
            body, layout, union = self.bodies[number], self.layouts[number], self.unions[number]
            count = (len(body) - fmt.XATTR_BODY.size) // 4 + 1 if body else 0
            mode = fmt.KIND_MODES[inode.kind] | inode.mode
            size = self.sizes[number]
            links, ino = self.plan.links[number], number + 1
            if self.extended[number]:
                seconds, ns = divmod(inode.mtime_ns, _SECOND)
                form = layout << 1 | fmt.FORMAT_EXTENDED
                head = extended(form, count, mode, 0, size, union, ino, inode.uid, inode.gid, seconds, ns, links)
            else:
                head = compact(layout << 1, count, mode, links, size, 0, union, ino, inode.uid, inode.gid, 0)
            if layout == fmt.LAYOUT_CHUNKS:
                tail = fmt.CHUNK_HOLE * fmt.chunk_count(size, union)
            elif layout == fmt.LAYOUT_INLINE:
                tail = self._content(number, (size - 1) // fmt.BLOCK)
            else:
                tail = b""
            place = self.places[number]
            whole = head + body + tail
            image[place : place + len(whole)] = whole

    def _content(self, number: int, block: int) -> bytes:
        """Return the bytes of one block of an inode's content, not padded."""
        inode = self.plan.inodes[number]
        if inode.kind is Kind.DIRECTORY:
            return directories.encode(self.directories[number].blocks[block], self.nids, self.types)
        content = inode.target if inode.kind is Kind.SYMLINK else inode.data or b""
        return content[block * fmt.BLOCK : (block + 1) * fmt.BLOCK]

    def _put_blocks(self, image: bytearray, first_block: int) -> None:
        place = first_block * fmt.BLOCK
        for number, index in self.blocks:
            content = self._content(number, index)
            image[place : place + len(content)] = content
            place += fmt.BLOCK

    def _put_superblock(self, image: bytearray) -> None:
        chunks = fmt.LAYOUT_CHUNKS in self.layouts
        seconds, ns = divmod(self.epoch, _SECOND)

        def put(checksum: int, identity: bytes) -> None:
            fmt.SUPERBLOCK.pack_into(
                image,
                fmt.SUPERBLOCK_OFFSET,
                fmt.MAGIC,
                checksum,
                fmt.COMPAT_CHECKSUM | fmt.COMPAT_MTIME | fmt.COMPAT_XATTR_FILTER,
                fmt.BLOCK.bit_length() - 1,
                0,
                self.nids[0],
                len(self.nids),
                seconds,
                ns,
                len(image) // fmt.BLOCK,
                0,
                0,
                identity,
                b"",
                fmt.INCOMPAT_CHUNKED_FILE if chunks else 0,
                *(0,) * 8,
            )

        put(0, bytes(16))
        # overlayfs distrusts lower file systems without an identity or with the same one, so each image has its own.
        identity = bytearray(hashlib.sha256(image).digest()[:16])
        identity[6] = identity[6] & 0x0F | 0x80
        identity[8] = identity[8] & 0x3F | 0x80
        put(0, bytes(identity))
        put(fmt.crc32c(bytes(image[fmt.SUPERBLOCK_OFFSET : fmt.BLOCK])), bytes(identity))


def _commonest(times: Iterable[int]) -> int:
    """Return the time that occurs most, the earliest of several: inodes with it need only half the space."""
    return min(Counter(times).items(), key=lambda item: (-item[1], item[0]))[0]
