"""From a compressed layer to the archive in it, piece by piece: gzip, zstd, plain.

What a blob is compressed with is read from its first bytes, not from its media type: images with the wrong media type
exist and engines run them. gzip follows Go's reader, which containerd uses: any number of members, and bytes after the
last one that begin no further member are damage, also when they are zeros. zstd takes any number of frames, skippable
ones between them. Memory stays bounded whatever the input says: output comes in pieces of at most `PIECE` bytes.

Raises `CompressionTruncated`, `CompressionCorrupt`, `CompressionUnsupported`, `LayerTooLarge`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO, Final, cast

import zstandard
from isal import igzip_lib

from hyperbox.api.errors.images import (
    CompressionCorrupt,
    CompressionTruncated,
    CompressionUnsupported,
    LayerTooLarge,
)
from hyperbox.images.limits import LayerLimits

PIECE: Final = 1 << 20
"""Most bytes of one piece of output."""

_INPUT: Final = 128 << 10
_FIRST_INPUT: Final = 4 << 10
# igzip keeps what it was given and did not use yet by copying it, so it is fed in spoonfuls.
_ZSTD_WINDOW: Final = 128 << 20
# The largest window that zstd allows without --long; larger ones are memory that a stranger asks us for.

_ISAL_ERROR: Final = cast("type[Exception]", igzip_lib.IsalError)  # its stubs declare an instance

_GZIP: Final = b"\x1f\x8b\x08"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_OTHERS: Final = {
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x5d\x00\x00\x80\x00\xff": "lzma",
    b"\x04\x22\x4d\x18": "lz4",
}

Source = Callable[[], bytes]
"""Gives the next bytes of a stream each time it is called, and `b""` at its end, from then on."""


def detect(head: bytes) -> str:
    """Name the compression of a blob from its first bytes (ten are enough): `gzip`, `zstd` or `plain`.

    Raises `CompressionUnsupported` for bzip2, xz, lzma and lz4.
    """
    if head.startswith(_GZIP):
        return "gzip"
    if head.startswith(_ZSTD) or _is_skippable(head[:4]):
        return "zstd"
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            raise CompressionUnsupported(format=name)
    return "plain"


def _is_skippable(magic: bytes) -> bool:
    return len(magic) == 4 and magic[1:] == b"\x2a\x4d\x18" and magic[0] & 0xF0 == 0x50


class Decompressor:
    """Uncompressed pieces of a layer, with the counts so far and the limits applied. One thread iterates it."""

    __slots__ = ("_limits", "format", "read", "written")

    def __init__(self, limits: LayerLimits) -> None:
        self.format = ""
        """`gzip`, `zstd` or `plain`, known from the first piece on."""
        self.read = 0
        """Compressed bytes taken from the source."""
        self.written = 0
        """Uncompressed bytes given out."""
        self._limits = limits

    def pieces(self, source: Source) -> Iterator[bytes]:
        """Yield the uncompressed stream; the source is read to its end."""
        head = bytearray()
        while len(head) < 10 and (block := source()):
            head += block
        self.format = detect(bytes(head))

        def whole() -> bytes:
            if head:
                first = bytes(head)
                head.clear()
            else:
                first = source()
            self.read += len(first)
            return first

        streams = {"gzip": self._gzip, "zstd": self._zstd, "plain": self._plain}
        for piece in streams[self.format](whole):
            self.written += len(piece)
            self._check()
            yield piece

    def _check(self) -> None:
        limits = self._limits
        if self.written > limits.unpacked:
            raise LayerTooLarge(limit=limits.unpacked, what="unpacked bytes")
        if self.written > limits.ratio_floor and self.written > self.read * limits.ratio:
            raise LayerTooLarge(limit=limits.ratio, what="times its compressed size")

    def _plain(self, source: Source) -> Iterator[bytes]:
        while block := source():
            yield block

    def _gzip(self, source: Source) -> Iterator[bytes]:
        spoons = _Spoons(source)
        while head := spoons.peek(len(_GZIP)):
            if head != _GZIP:
                raise CompressionCorrupt(format="gzip", reason="bytes after its end that begin no further member")
            yield from self._member(spoons)

    def _member(self, spoons: _Spoons) -> Iterator[bytes]:
        """One gzip member. Its first spoon is small: what lies beyond a short member is copied by igzip each time."""
        member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        spoon = spoons.take(_FIRST_INPUT)
        while True:
            try:
                piece = member.decompress(spoon, PIECE)
            except _ISAL_ERROR as error:
                raise CompressionCorrupt(format="gzip", reason=str(error)) from error
            if piece:
                yield piece
            if member.eof:
                spoons.back(len(member.unused_data))
                return
            spoon = b""
            if member.needs_input and not (spoon := spoons.take(_INPUT)):
                raise CompressionTruncated(format="gzip", read=self.read)

    def _zstd(self, source: Source) -> Iterator[bytes]:
        feed = _ZstdFeed(source)
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        reader = decompressor.stream_reader(cast("IO[bytes]", feed), read_size=_INPUT, read_across_frames=True)
        try:
            while piece := reader.read(PIECE):
                yield piece
        except zstandard.ZstdError as error:
            if "too much memory" in str(error):
                raise CompressionUnsupported(format="zstd with a window above 128 MiB") from error
            raise CompressionCorrupt(format="zstd", reason=str(error)) from error
        if not feed.frames.at_boundary:
            raise CompressionTruncated(format="zstd", read=self.read)


class _Spoons:
    """A source in portions of the size that is asked for; a part of the last portion can be given back."""

    __slots__ = ("_at", "_block", "_source")

    def __init__(self, source: Source) -> None:
        self._source = source
        self._block = b""
        self._at = 0

    def peek(self, size: int) -> bytes:
        """The next `size` bytes without taking them; fewer only at the end of the source."""
        while len(self._block) - self._at < size and (more := self._source()):
            self._block, self._at = self._block[self._at :] + more, 0
        return self._block[self._at : self._at + size]

    def take(self, size: int) -> bytes:
        """At most `size` bytes; none only at the end of the source."""
        if self._at >= len(self._block):
            self._block, self._at = self._source(), 0
        portion = self._block[self._at : self._at + size]
        self._at += len(portion)
        return portion

    def back(self, size: int) -> None:
        """Give back the last bytes of the last portion."""
        self._at -= size


class _ZstdFeed:
    """The reading end that zstandard asks for, which follows the frames that pass through it."""

    def __init__(self, source: Source) -> None:
        self._spoons = _Spoons(source)
        self.frames = FrameWalk()

    def read(self, size: int) -> bytes:
        portion = self._spoons.take(size)
        self.frames.feed(portion)
        return portion


class FrameWalk:
    """Follows the structure of a zstd stream (RFC 8878, section 3.1) to know whether it may end here.

    zstandard reports the end of a truncated stream like that of a whole one. Damage is not looked for: the
    decompressor finds it.
    """

    __slots__ = ("_need", "_next", "_skip", "_summed", "_text")

    def __init__(self) -> None:
        self._text = b""
        self._need = 4
        self._skip = 0
        self._next: Callable[[bytes], None] = self._magic
        self._summed = False

    @property
    def at_boundary(self) -> bool:
        """Whether everything that was fed makes whole frames."""
        return not self._text and not self._skip and self._next == self._magic

    def feed(self, data: bytes) -> None:
        """Go on with the next compressed bytes."""
        at, end = 0, len(data)
        while at < end:
            if self._skip:
                step = min(self._skip, end - at)
                self._skip -= step
                at += step
                continue
            step = min(self._need - len(self._text), end - at)
            self._text += data[at : at + step]
            at += step
            if len(self._text) == self._need:
                text, self._text = self._text, b""
                self._next(text)

    def _want(self, need: int, then: Callable[[bytes], None]) -> None:
        self._need, self._next = need, then

    def _magic(self, text: bytes) -> None:
        if _is_skippable(text):
            self._want(4, self._skippable)
        else:
            self._want(1, self._descriptor)

    def _skippable(self, text: bytes) -> None:
        self._skip = int.from_bytes(text, "little")
        self._want(4, self._magic)

    def _descriptor(self, text: bytes) -> None:
        flags = text[0]
        single = flags >> 5 & 1
        self._summed = bool(flags >> 2 & 1)
        content_size = (single, 2, 4, 8)[flags >> 6]
        self._skip = (1 - single) + (0, 1, 2, 4)[flags & 3] + content_size
        self._want(3, self._block)

    def _block(self, text: bytes) -> None:
        word = int.from_bytes(text, "little")
        run_length = word >> 1 & 3 == 1
        self._skip = 1 if run_length else word >> 3
        if word & 1:
            self._skip += 4 * self._summed
            self._want(4, self._magic)
