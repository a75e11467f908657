"""The parts of a tar header: numbers, names, PAX records. Pure functions of bytes, strict where Go's reader is.

containerd reads layers with Go's `archive/tar`; where readers differ, this one follows that, so that a layer becomes
the same tree with HyperBox and without. All of them raise `ValueError` with the reason; the reader adds where it was.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from struct import Struct
from typing import Final

BLOCK: Final = 512
ZERO_BLOCK: Final = bytes(BLOCK)

# name mode uid gid size mtime chksum typeflag linkname magic+version (uname gname) devmajor devminor prefix…
HEADER: Final = Struct("100s8s8s8s12s12s8sc100s8s64x8s8s167s")
assert HEADER.size == BLOCK

USTAR: Final = b"ustar\x00"
GNU: Final = b"ustar  \x00"

_STAR_TRAILER: Final = b"tar\x00"


def checksum_matches(block: memoryview, stored: bytes) -> bool:
    """Whether the header's sum (unsigned, or signed as some old programs wrote it) is the stored one."""
    # The low half of adler32 is 1 + the sum of the bytes modulo 65521; a quarter of a KiB cannot reach the modulus.
    total = (zlib.adler32(block[:256]) & 0xFFFF) + (zlib.adler32(block[256:]) & 0xFFFF) - 2
    total += 8 * 0x20 - sum(stored)
    expected = number(stored)
    if total == expected:
        return True
    high = sum(byte >= 0x80 for byte in block) - sum(byte >= 0x80 for byte in stored)
    return total - 256 * high == expected


@lru_cache(maxsize=4096)
def number(field: bytes) -> int:
    """A numeric header field: octal, or base 256 when its top bit is set. Empty is 0."""
    if field[0] & 0x80:
        # Two's complement over all bits after the marker bit.
        value = int.from_bytes(field, "big") & ~(1 << (8 * len(field) - 1))
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    text = text_of(field.strip(b" \0"))
    if not text:
        return 0
    if not text.isdigit():
        raise ValueError(f"{text!r} is not an octal number")
    return int(text, 8)


def text_of(field: bytes) -> bytes:
    """A header string: up to its first NUL."""
    end = field.find(0)
    return field if end < 0 else field[:end]


def prefix_of(magic: bytes, tail: bytes) -> bytes:
    """The part of the name that the end of the header (from byte 345) holds; `b""` where the format has none there."""
    if magic[:6] == USTAR:
        return text_of(tail[:131] if tail[163:167] == _STAR_TRAILER else tail[:155])
    if magic == GNU and tail[0]:
        # GNU keeps two times here. Go's writer before 1.8 put a prefix instead, and Go still reads that.
        try:
            number(tail[:12])
            if tail[12]:
                number(tail[12:24])
        except ValueError:
            prefix = text_of(tail[:155])
            return prefix if prefix.isascii() else b""
    return b""


def pax_records(data: bytes) -> list[tuple[bytes, bytes]]:
    """Keys and values of an extended header in their order (sparse maps repeat keys)."""
    records = []
    at, end = 0, len(data)
    while at < end:
        space = data.find(b" ", at, at + 20)
        length = data[at:space] if space > 0 else b""
        if not length.isdigit():
            raise ValueError("an extended header has no record length")
        stop = at + int(length)
        if stop > end or stop <= space + 1 or data[stop - 1] != 0x0A:
            raise ValueError("an extended header's record does not end where it says")
        equals = data.find(b"=", space, stop)
        if equals <= space + 1:
            raise ValueError("an extended header's record has no key")
        key, value = data[space + 1 : equals], data[equals + 1 : stop - 1]
        if b"\0" in key or (key in _NAMES and b"\0" in value):
            raise ValueError(f"the extended header {key!r} holds a NUL")
        records.append((key, value))
        at = stop
    return records


_NAMES: Final = frozenset({b"path", b"linkpath", b"uname", b"gname", b"GNU.sparse.name"})


@lru_cache(maxsize=4096)
def pax_number(value: bytes) -> int:
    """A decimal number, maybe negative."""
    if not value.lstrip(b"+-").isdigit():
        raise ValueError(f"{value!r} is not a decimal number")
    return int(value)


def pax_time_ns(value: bytes) -> int:
    """Seconds with any number of decimals, maybe negative, as nanoseconds (cut, not rounded, as Go does)."""
    whole, _, fraction = value.partition(b".")
    if fraction and not fraction.isdigit():
        raise ValueError(f"{value!r} is not a time")
    nanoseconds = int(fraction[:9].ljust(9, b"0")) if fraction else 0
    if whole in (b"", b"-"):
        whole += b"0"
    seconds = pax_number(whole) * 1_000_000_000
    return seconds - nanoseconds if whole.startswith(b"-") else seconds + nanoseconds
