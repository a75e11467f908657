"""The tar reader on headers of every format, and on ones that lie."""

from __future__ import annotations

import tarfile

import pytest

from hyperbox.api.errors.images import EntryRefused, LayerTooLarge, TarCorrupt, TarTruncated, TarTypeUnsupported
from hyperbox.images.limits import LayerLimits
from hyperbox.images.tar import Entry, TarReader
from hyperbox.images.tar_header import number, pax_records, pax_time_ns
from hyperbox.images.tar_sparse import check_segments
from support.layer_archives import END, MemorySink, archive, file, header, ingest, padded, pax, source


def entries(data: bytes, step: int = 1 << 16) -> list[Entry]:
    reader = TarReader(source(data, step), LayerLimits())
    found = []
    while (entry := reader.next()) is not None:
        found.append(entry)
    return found


def only(data: bytes) -> Entry:
    (entry,) = entries(data)
    return entry


def info(name: str, **fields: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(member, key, value)
    return member


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\0", 0o644),
        (b" 0644 \0\0", 0o644),
        (b"\0\0\0\0\0\0\0\0", 0),
        (b"644\0junk", 0o644),
        (b"\x80\x00\x00\x00\x80\x00\x00\x00", 1 << 31),
        (b"\xff" * 12, -1),
        (b"\xff" * 11 + b"\xfe", -2),
        (b"\x80" + bytes(6) + b"\x07", 7),
    ],
)
def test_numbers(field: bytes, value: int) -> None:
    assert number(field) == value


@pytest.mark.parametrize("field", [b"0_644\0\0\0", b"-644\0\0\0\0", b"0x1\0\0\0\0\0", b"9\0\0\0\0\0\0\0"])
def test_numbers_refused(field: bytes) -> None:
    with pytest.raises(ValueError, match=r"octal|base 8"):
        number(field)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        (b"1", 1_000_000_000),
        (b"1.5", 1_500_000_000),
        (b"-1.5", -1_500_000_000),
        (b"-0.000000001", -1),
        (b"1.9999999999", 1_999_999_999),
        (b"0", 0),
    ],
)
def test_pax_times(text: bytes, nanoseconds: int) -> None:
    assert pax_time_ns(text) == nanoseconds


@pytest.mark.parametrize(
    "data", [b"5 a=b\n", b"9 a=b\n", b"x a=b\n", b"6 ab\nc", b"6 =ab\n", b"6 a=b\nrest", b"0 a=b\n", b"13 path=a\0bc\n"]
)
def test_pax_records_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="extended header"):
        pax_records(data)


def test_pax_values_may_hold_anything() -> None:
    value = b"a=b\nc\0\xff"
    entry = only(pax({b"SCHILY.xattr.user.x": value}) + file(b"f") + END)
    assert entry.xattrs == {b"user.x": value}


@pytest.mark.parametrize("step", [1, 7, 511, 512, 513, 100_000])
@pytest.mark.parametrize("fmt", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_any_pieces(step: int, fmt: int) -> None:
    name, link = "d/" * 60 + "n" * 120, "t/" * 90 + "x"
    data = archive((info(name), b"content"), (info("link", type=tarfile.SYMTYPE, linkname=link), b""), fmt=fmt)
    first, second = entries(data, step)
    assert (first.name, first.size) == (name.encode(), 7)
    assert second.link == link.encode()


def test_ustar_prefix_and_old_formats() -> None:
    assert only(header(b"n", prefix=b"some/prefix") + END).name == b"some/prefix/n"
    assert only(header(b"n", prefix=b"junk", magic=bytes(8)) + END).name == b"n"
    assert only(header(b"folder/", b"\0", magic=bytes(8)) + END).type == ord("5")
    assert only(header(b"folder/", b"0") + END).type == ord("0")
    gnu = header(b"n", prefix=b"00000000017\0", magic=b"ustar  \0")
    assert only(gnu + END).name == b"n"
    assert only(header(b"n", prefix=b"dir", magic=b"ustar  \0") + END).name == b"dir/n"


def test_star_prefix_is_shorter() -> None:
    block = bytearray(header(b"n", prefix=b"p" * 131 + b"00000000000\0" + b"00000000000\0"))
    block[508:512] = b"tar\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert only(bytes(block) + END).name == b"p" * 131 + b"/n"


def test_pax_over_header_and_gnu_over_pax() -> None:
    records = {b"path": b"pax", b"uid": b"4000000000", b"gid": b"7", b"mtime": b"-2.25", b"size": b"3"}
    entry = only(pax(records) + header(b"n") + padded(b"abc") + END)
    assert (entry.name, entry.uid, entry.gid, entry.mtime_ns, entry.size) == (
        b"pax",
        4_000_000_000,
        7,
        -2_250_000_000,
        3,
    )
    long = header(b"././@LongLink", b"L", 4) + padded(b"gnu\0")
    assert only(pax(records) + long + file(b"n", b"abc") + END).name == b"gnu"


def test_global_headers_are_checked_and_ignored() -> None:
    assert only(pax({b"path": b"x", b"uid": b"5"}, b"g") + file(b"n") + END).name == b"n"
    with pytest.raises(TarCorrupt):
        entries(header(b"g", b"g", 3) + padded(b"abc") + END)


def test_empty_pax_value_takes_nothing() -> None:
    assert only(pax({b"path": b"", b"uid": b""}) + file(b"n") + END).name == b"n"


def test_times_beyond_the_clock_become_zero() -> None:
    assert only(pax({b"mtime": b"9" * 15}) + file(b"n") + END).mtime_ns == 0


def test_signed_checksum() -> None:
    name = "é".encode("latin-1")
    block = bytearray(header(name))
    block[148:156] = b" " * 8
    total = sum(byte - 256 if byte > 127 else byte for byte in block)
    block[148:156] = b"%06o\0 " % total
    assert only(bytes(block) + END).name == name


def test_end_of_archive() -> None:
    assert entries(b"") == []
    assert len(entries(file(b"a", b"x"))) == 1  # no zero blocks at all
    assert len(entries(file(b"a", b"x") + bytes(512))) == 1
    assert len(entries(header(b"a", size=1) + b"x")) == 1  # not even the padding
    assert len(entries(file(b"a") + END + b"anything")) == 1
    with pytest.raises(TarCorrupt):
        entries(file(b"a") + bytes(512) + file(b"b") + END)


def test_links_and_folders_have_no_data() -> None:
    found = entries(header(b"d/", b"5", 4096) + header(b"l", b"1", 99, link=b"d") + file(b"f") + END)
    assert [entry.size for entry in found] == [0, 0, 0]


@pytest.mark.parametrize("cut", [1, 100, 511, 513, 600, 1024 + 511])
def test_truncated(cut: int) -> None:
    data = pax({b"path": b"abc"}) + file(b"a", b"x" * 100)
    with pytest.raises(TarTruncated):
        entries(data[:cut])


@pytest.mark.parametrize(
    "data",
    [
        b"\x01" * 512,
        header(b"a")[:200] + b"?" + header(b"a")[201:],
        header(b"a").replace(b"0000644", b"0000645"),
        header(b"a", uid=b"\xff" * 8) + END,
        header(b"a", mtime=b"junk") + END,
        pax({b"size": b"-1"}) + file(b"a") + END,
        pax({b"uid": b"1e3"}) + file(b"a") + END,
        pax({b"uid": b"4294967295"}) + file(b"a") + END,
        pax({b"path": b"a\0b"}) + file(b"a") + END,
    ],
)
def test_corrupt(data: bytes) -> None:
    with pytest.raises(TarCorrupt):
        entries(data)


@pytest.mark.parametrize("kind", [b"M", b"V", b"D", b"Z", b"\xff"])
def test_types_that_images_do_not_have(kind: bytes) -> None:
    with pytest.raises(TarTypeUnsupported):
        entries(header(b"a", kind) + END)


@pytest.mark.parametrize("kind", [b"x", b"L", b"K", b"g"])
def test_huge_extended_headers(kind: bytes) -> None:
    with pytest.raises(LayerTooLarge):
        entries(header(b"a", kind, (1 << 20) + 1) + END)


def test_too_many_entries() -> None:
    with pytest.raises(LayerTooLarge):
        ingest(file(b"a") * 11 + END, limits=LayerLimits(entries=10))


SPARSE = [(512, b"A" * 512), (4096, b"B" * 100), (9000, b"")]
REAL = 9000
STORED = b"A" * 512 + b"B" * 100
EXPECTED = bytes(512) + b"A" * 512 + bytes(4096 - 1024) + b"B" * 100 + bytes(REAL - 4196)
FLAT = [str(n).encode() for offset, data in SPARSE for n in (offset, len(data))]


def sparse_old(segments: list[tuple[int, bytes]], real: int) -> bytes:
    def table(part: list[tuple[int, bytes]]) -> bytes:
        return b"".join(b"%011o\0%011o\0" % (offset, len(data)) for offset, data in part)

    block = bytearray(header(b"s", b"S", sum(len(data) for _, data in segments), magic=b"ustar  \0"))
    block[386:482] = table(segments[:4]).ljust(96, b"\0")
    block[482] = len(segments) > 4
    block[483:495] = b"%011o\0" % real
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    more, rest = b"", segments[4:]
    while rest:
        part, rest = rest[:21], rest[21:]
        more += table(part).ljust(504, b"\0") + bytes([bool(rest)]) + bytes(7)
    return bytes(block) + more + padded(b"".join(data for _, data in segments))


def sparse_pax(version: str) -> bytes:
    common = [(b"GNU.sparse.numblocks", b"3"), (b"GNU.sparse.size", b"%d" % REAL)]
    if version == "0.0":
        keys = (b"GNU.sparse.offset", b"GNU.sparse.numbytes") * 3
        return pax([*common, *zip(keys, FLAT, strict=True)]) + file(b"s", STORED)
    if version == "0.1":
        return pax([*common, (b"GNU.sparse.map", b",".join(FLAT)), (b"GNU.sparse.name", b"s")]) + file(b"G/s", STORED)
    records = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0"}
    records |= {b"GNU.sparse.name": b"s", b"GNU.sparse.realsize": b"%d" % REAL}
    return pax(records) + file(b"G/s", padded(b"3\n" + b"\n".join(FLAT) + b"\n") + STORED)


@pytest.mark.parametrize("data", [sparse_old(SPARSE, REAL), *map(sparse_pax, ("0.0", "0.1", "1.0"))])
def test_sparse_files(data: bytes) -> None:
    sink = MemorySink()
    content = ingest(data + file(b"after", b"x") + END, sink=sink, step=700)
    assert sink.content(content.tree[b"s"]) == EXPECTED
    assert sink.content(content.tree[b"after"]) == b"x"


def test_old_sparse_with_many_segments() -> None:
    segments = [(at * 1000, bytes([at % 255 + 1]) * 10) for at in range(60)]
    sink = MemorySink()
    content = ingest(sparse_old(segments, 70_000) + file(b"after") + END, sink=sink)
    data = sink.content(content.tree[b"s"])
    assert len(data) == 70_000
    assert all(data[offset : offset + 11] == part + b"\0" for offset, part in segments)


def test_large_sparse_file_is_streamed_with_holes() -> None:
    size = 40 << 20
    records = {b"GNU.sparse.numblocks": b"1", b"GNU.sparse.size": b"%d" % size, b"GNU.sparse.map": b"20000000,3"}
    sink = MemorySink()
    content = ingest(pax(records) + file(b"s", b"abc") + END, sink=sink)
    assert sink.content(content.tree[b"s"]) == bytes(20_000_000) + b"abc" + bytes(size - 20_000_003)
    assert sink.open_writers == 0


@pytest.mark.parametrize(
    "segments", [[(0, 5), (3, 5)], [(5, 5), (0, 5)], [(0, 4)], [(-1, 10)], [(95, 10)], [(0, 20), (5, -10)]]
)
def test_sparse_maps_that_lie(segments: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="sparse"):
        check_segments(segments, 100, 10)


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"x\n", b"-1\n", b"1\n0\n", b"9" * 600, b"2000000\n", b"1\n0\n" + b"9" * 500]
)
def test_sparse_1_0_maps_that_lie(text: bytes) -> None:
    records = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"10"}
    with pytest.raises((TarCorrupt, LayerTooLarge, EntryRefused)):
        ingest(pax(records) + file(b"s", padded(text)) + END)


def test_sparse_bomb() -> None:
    records = {b"GNU.sparse.numblocks": b"0", b"GNU.sparse.map": b"", b"GNU.sparse.size": b"%d" % (1 << 45)}
    with pytest.raises(LayerTooLarge):
        ingest(pax(records) + file(b"s") + END)
