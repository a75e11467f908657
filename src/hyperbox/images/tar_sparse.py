"""Sparse files in tar archives: four notations of one thing, a list of data segments in a file of holes.

Segments are (offset, length) in the file, ascending, without overlap; their bytes follow each other in the archive.
Pure functions of bytes; they raise `ValueError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from hyperbox.images.tar_header import BLOCK, number, pax_number

Segment = tuple[int, int]

_PLACES: Final = 386
"""Where the old GNU header keeps its first four segments."""
_MOST_SEGMENTS: Final = 1 << 20


def check_segments(segments: Sequence[Segment], size: int, stored: int) -> None:
    """Refuse segments that overlap, leave the file or are not what the archive holds (`stored` bytes)."""
    at = total = 0
    for offset, length in segments:
        if offset < at or length < 0:
            raise ValueError("the segments of a sparse file overlap")
        at = offset + length
        total += length
    if at > size:
        raise ValueError("a segment of a sparse file lies behind its end")
    if total != stored:
        raise ValueError(f"a sparse file has segments of {total} bytes and {stored} bytes of data")


def sparse_version(attributes: Mapping[bytes, bytes]) -> str:
    """Which PAX notation an entry uses, by its records: `0.0`, `0.1`, `1.0`, or nothing when it is not sparse."""
    major, minor = attributes.get(b"GNU.sparse.major"), attributes.get(b"GNU.sparse.minor")
    if (major, minor) == (b"1", b"0"):
        return "1.0"
    if major is None or (major == b"0" and minor in (b"0", b"1")):
        if b"GNU.sparse.map" in attributes:
            return "0.1"
        if b"GNU.sparse.numblocks" in attributes:
            return "0.0"
    return ""


def old_gnu(header: bytes, more: Callable[[], bytes]) -> tuple[list[Segment], int]:
    """The segments and real size of a type `S` entry; `more` reads the extension blocks that follow the header."""
    segments: list[Segment] = []
    size = number(header[483:495])
    _old_places(header[_PLACES : _PLACES + 96], segments)
    extended = header[482]
    while extended:
        block = more()
        _old_places(block[:504], segments)
        extended = block[504]
        if len(segments) > _MOST_SEGMENTS:
            raise ValueError("a sparse file has too many segments")
    return segments, size


def _old_places(table: bytes, segments: list[Segment]) -> None:
    for at in range(0, len(table), 24):
        if not table[at]:
            return
        segments.append((number(table[at : at + 12]), number(table[at + 12 : at + 24])))


def pax_0(records: Sequence[tuple[bytes, bytes]], attributes: dict[bytes, bytes]) -> list[Segment]:
    """The segments of formats 0.0 (a record for each number) and 0.1 (one record with all)."""
    if b"GNU.sparse.map" in attributes:
        text = attributes[b"GNU.sparse.map"]
        numbers = [pax_number(value) for value in text.split(b",")] if text else []
    else:
        numbers = [pax_number(value) for key, value in records if key in _PAIR]
    count = pax_number(attributes.get(b"GNU.sparse.numblocks", b"0"))
    if len(numbers) != 2 * count:
        raise ValueError("a sparse map does not have as many segments as it says")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


_PAIR: Final = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")


def pax_1(more: Callable[[], bytes], most_bytes: int) -> tuple[list[Segment], int]:
    """The segments of format 1.0, which stand in front of the data, and the bytes that they take there."""
    numbers: list[int] = []
    wanted, taken, rest = 1, 0, b""
    while len(numbers) < wanted:
        *lines, rest = (rest + more()).split(b"\n")
        taken += BLOCK
        for line in lines:
            if len(numbers) < wanted:
                numbers.append(pax_number(line))
            if wanted == 1:
                wanted += 2 * numbers[0]
        if taken > most_bytes or not 1 <= wanted <= 2 * _MOST_SEGMENTS + 1:
            raise ValueError("a sparse map is too long")
        if len(numbers) < wanted and len(rest) > 20:
            raise ValueError("a sparse map holds an endless number")
    return list(zip(numbers[1::2], numbers[2::2], strict=True)), taken
