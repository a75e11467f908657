"""An incremental tar reader: entries and their contents from a stream of byte blocks, without seeking.

Formats: v7, ustar, star, GNU (long names, base-256 numbers, old sparse files) and PAX (with GNU's three sparse
notations). Python's `tarfile` drops sub-second times and costs about five times as much per entry. Global PAX headers
are checked and otherwise ignored, and a GNU long name wins over a PAX path: so do Go's reader and containerd. The
archive ends at two zero blocks or at the end of the stream; what follows the zero blocks is not looked at.

Contents are given out as views of the blocks that came in: no copying on the way.

Raises `TarCorrupt`, `TarTruncated`, `TarTypeUnsupported`, `LayerTooLarge`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hyperbox.api.errors.images import LayerTooLarge, TarCorrupt, TarTruncated, TarTypeUnsupported
from hyperbox.images.compression import Source
from hyperbox.images.limits import LayerLimits
from hyperbox.images.tar_header import (
    BLOCK,
    GNU,
    HEADER,
    USTAR,
    ZERO_BLOCK,
    checksum_matches,
    number,
    pax_number,
    pax_records,
    pax_time_ns,
    prefix_of,
    text_of,
)
from hyperbox.images.tar_sparse import Segment, check_segments, old_gnu, pax_0, pax_1, sparse_version

FILE_TYPES: Final = frozenset(b"0\x007S")
"""Types with content: regular, v7 regular, contiguous, old GNU sparse."""
LINK: Final = ord("1")
SYMLINK: Final = ord("2")
CHARACTER: Final = ord("3")
BLOCK_DEVICE: Final = ord("4")
DIRECTORY: Final = ord("5")
FIFO: Final = ord("6")

_SPARSE: Final = ord("S")
_KNOWN: Final = FILE_TYPES | frozenset(b"123456")
_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK = b"xgLK"
_XATTR: Final = b"SCHILY.xattr."
_MOST_ID: Final = (1 << 32) - 2
_MOST_TIME: Final = (1 << 63) - 1
_DIGITS: Final = 1 << 62


class Entry:
    """One entry of an archive, names as they stand in it. Sizes in bytes, times in nanoseconds."""

    __slots__ = (
        "gid",
        "link",
        "mode",
        "mtime_ns",
        "name",
        "rdev",
        "segments",
        "size",
        "stored",
        "type",
        "uid",
        "xattrs",
    )

    def __init__(self, name: bytes, kind: int) -> None:
        self.name = name
        self.type = kind
        """The type flag's byte; a v7 folder is a `DIRECTORY`, all kinds of files are `0`."""
        self.mode = 0
        self.uid = 0
        self.gid = 0
        self.mtime_ns = 0
        self.size = 0
        """Length of the file's content, holes included."""
        self.stored = 0
        """Bytes of content in the archive."""
        self.link = b""
        self.rdev = (0, 0)
        self.xattrs: dict[bytes, bytes] | None = None
        self.segments: list[Segment] | None = None
        """Where the data of a sparse file lies; None for ordinary files."""


class TarReader:
    """Entries of the archive that `source` gives piece by piece. For one thread.

    Call `next`, and where the entry has content, `content` or, as often as it takes, `part`, or neither.
    """

    __slots__ = ("_block", "_left", "_limits", "_name", "_pad", "_source", "_start", "_view", "entries")

    def __init__(self, source: Source, limits: LayerLimits) -> None:
        self.entries = 0
        self._source = source
        self._limits = limits
        self._view = memoryview(b"")
        self._block = 0  # where in the view the next byte is
        self._start = 0  # offset of the view's first byte in the archive
        self._left = 0  # bytes of the current entry's content that were not taken yet
        self._pad = 0
        self._name = b"a header"

    @property
    def offset(self) -> int:
        """Bytes of the archive that were taken."""
        return self._start + self._block

    # --- bytes

    def _more(self) -> bool:
        """Replace the used-up view by the next one."""
        block = self._source()
        self._start += len(self._view)
        self._view, self._block = memoryview(block), 0
        return bool(block)

    def _take(self, size: int) -> memoryview:
        at = self._block
        if at + size <= len(self._view):
            self._block = at + size
            return self._view[at : at + size]
        return memoryview(b"".join(self._parts(size)))

    def _parts(self, size: int) -> Iterator[memoryview]:
        while size:
            have = len(self._view) - self._block
            if not have:
                if not self._more():
                    raise TarTruncated(entry=_shown(self._name))
                continue
            step = min(have, size)
            at, self._block = self._block, self._block + step
            size -= step
            yield self._view[at : at + step]

    def _skip(self, size: int) -> None:
        if self._block + size <= len(self._view):
            self._block += size
        else:
            for _ in self._parts(size):
                pass

    def _corrupt(self, reason: object) -> TarCorrupt:
        return TarCorrupt(offset=self.offset, reason=reason)

    # --- entries

    def next(self) -> Entry | None:
        """Go to the next entry; None at the end of the archive."""
        records: list[tuple[bytes, bytes]] = []
        long_name = long_link = None
        while True:
            fields = self._header(inside=bool(records) or long_name is not None or long_link is not None)
            if fields is None:
                return None
            block, head = fields
            flag = head[7][0]
            try:
                if flag == _PAX:
                    records = pax_records(self._meta(head[4]))
                elif flag == _PAX_GLOBAL:
                    pax_records(self._meta(head[4]))
                elif flag == _LONG_NAME:
                    long_name = text_of(self._meta(head[4]))
                elif flag == _LONG_LINK:
                    long_link = text_of(self._meta(head[4]))
                else:
                    return self._entry(block, head, records, long_name, long_link)
            except ValueError as error:
                raise self._corrupt(error) from error

    def _header(self, *, inside: bool) -> tuple[memoryview, tuple[bytes, ...]] | None:
        if not self._finish():
            return None
        self._name = b"a header"
        if self._block == len(self._view) and not self._more():
            if inside:
                raise TarTruncated(entry="an extended header")
            return None
        block = self._take(BLOCK)
        head = HEADER.unpack(block)
        if not head[0][0] and block == ZERO_BLOCK:
            if self._block == len(self._view) and not self._more():
                return None
            if self._take(BLOCK) == ZERO_BLOCK:
                return None
            raise self._corrupt("a single zero block between entries")
        try:
            sound = checksum_matches(block, head[6])
        except ValueError:
            sound = False
        if not sound:
            raise self._corrupt("a header's checksum is wrong")
        self.entries += 1
        if self.entries > self._limits.entries:
            raise LayerTooLarge(limit=self._limits.entries, what="entries")
        return block, head

    def _finish(self) -> bool:
        """Pass over what is left of the entry; False when the archive ends where only its padding would follow."""
        if self._left:
            self._skip(self._left)
            self._left = 0
        pad, self._pad = self._pad, 0
        if pad:
            if self._block == len(self._view) and not self._more():
                return False
            self._skip(pad)
        return True

    def _meta(self, size_field: bytes) -> bytes:
        size = number(size_field)
        if size > self._limits.header:
            raise LayerTooLarge(limit=self._limits.header, what="bytes of one extended header")
        if size < 0:
            raise ValueError("a negative size")
        self._name = b"an extended header"
        self._pad = -size % BLOCK
        return bytes(self._take(size))

    def _entry(
        self,
        block: memoryview,
        head: tuple[bytes, ...],
        records: list[tuple[bytes, bytes]],
        long_name: bytes | None,
        long_link: bytes | None,
    ) -> Entry:
        name, mode, uid, gid, size, mtime, _, flag, link, magic, major, minor, tail = head
        name = text_of(name)
        if prefix := prefix_of(magic, tail):
            name = prefix + b"/" + name
        entry = Entry(name, flag[0])
        entry.mode = number(mode) & 0o7777
        entry.uid, entry.gid = number(uid), number(gid)
        entry.mtime_ns = number(mtime) * 1_000_000_000
        entry.stored = entry.size = number(size)
        entry.link = text_of(link)
        attributes = _apply(entry, records) if records else {}
        if long_name is not None:
            entry.name = long_name
        if long_link is not None:
            entry.link = long_link
        self._name = entry.name
        self._judge(entry)
        if entry.type in (CHARACTER, BLOCK_DEVICE) and magic in (USTAR + b"00", GNU):
            entry.rdev = (number(major), number(minor))
        self._left = entry.stored
        self._pad = -entry.stored % BLOCK
        if entry.type == _SPARSE or (attributes and sparse_version(attributes)):
            self._sparse(entry, block, records, attributes)
        return entry

    def _judge(self, entry: Entry) -> None:
        """Settle the type and what follows from it; refuse numbers that no file can have."""
        kind = entry.type
        if kind not in _KNOWN:
            raise TarTypeUnsupported(path=_shown(entry.name), type=repr(chr(kind)))
        if kind in FILE_TYPES:
            if kind == 0 and entry.name.endswith(b"/"):
                entry.type = DIRECTORY
            elif kind != _SPARSE:
                entry.type = ord("0")
        if entry.type not in FILE_TYPES:
            entry.stored = entry.size = 0  # whatever the header says: no data follows
        if not (0 <= entry.uid <= _MOST_ID and 0 <= entry.gid <= _MOST_ID):
            raise ValueError(f"owner {entry.uid}:{entry.gid} of {_shown(entry.name)}")
        if not 0 <= entry.stored <= _DIGITS:
            raise ValueError(f"size {entry.stored} of {_shown(entry.name)}")
        if abs(entry.mtime_ns) > _MOST_TIME:
            entry.mtime_ns = 0  # what containerd makes of a time beyond the year 2262

    def _sparse(
        self,
        entry: Entry,
        block: memoryview,
        records: list[tuple[bytes, bytes]],
        attributes: dict[bytes, bytes],
    ) -> None:
        if entry.type == _SPARSE:
            entry.type = ord("0")
            self._left, pad, self._pad = 0, self._pad, 0
            segments, entry.size = old_gnu(bytes(block), lambda: bytes(self._take(BLOCK)))
            self._left, self._pad = entry.stored, pad
        else:
            if entry.type != ord("0"):
                raise ValueError("a sparse entry that is no file")
            entry.name = attributes.get(b"GNU.sparse.name") or entry.name
            size = attributes.get(b"GNU.sparse.realsize") or attributes.get(b"GNU.sparse.size")
            entry.size = pax_number(size) if size else entry.stored
            if sparse_version(attributes) == "1.0":
                segments, taken = pax_1(self._map_block, self._limits.header)
                entry.stored -= taken
            else:
                segments = pax_0(records, attributes)
        if not 0 <= entry.size <= _DIGITS:
            raise ValueError(f"size {entry.size} of {_shown(entry.name)}")
        check_segments(segments, entry.size, entry.stored)
        entry.segments = segments

    def _map_block(self) -> bytes:
        if self._left < BLOCK:
            raise ValueError("a sparse map is longer than its entry")
        self._left -= BLOCK
        return bytes(self._take(BLOCK))

    # --- content

    def content(self) -> memoryview:
        """The stored bytes of the current entry in one piece; for small entries."""
        size, self._left = self._left, 0
        return self._take(size)

    def part(self, size: int) -> Iterator[memoryview]:
        """The next `size` stored bytes of the current entry (no more than are left) in the pieces they came in."""
        self._left -= size
        yield from self._parts(size)

    def drain(self) -> None:
        """Read the stream to its end, whatever it holds, so that its digest is complete."""
        while self._more():
            pass


def _apply(entry: Entry, records: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Lay an extended header over an entry; returns its records as a dictionary."""
    attributes = dict(records)
    xattrs: dict[bytes, bytes] = {}
    for key, value in attributes.items():
        if key.startswith(_XATTR):
            xattrs[key[len(_XATTR) :]] = value
        elif not value:
            continue  # an empty value takes the record back: the header's own field holds
        elif key == b"path":
            entry.name = value
        elif key == b"linkpath":
            entry.link = value
        elif key == b"mtime":
            entry.mtime_ns = pax_time_ns(value)
        elif key == b"size":
            entry.stored = entry.size = pax_number(value)
        elif key == b"uid":
            entry.uid = pax_number(value)
        elif key == b"gid":
            entry.gid = pax_number(value)
    if xattrs:
        entry.xattrs = xattrs
    return attributes


def _shown(name: bytes) -> str:
    return name[:200].decode("utf-8", "backslashreplace")
