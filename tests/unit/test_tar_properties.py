"""The tar reader against Python's `tarfile` as writer, and against archives that were damaged at random."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib

import pytest
import zstandard
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hyperbox.api.errors import HyperBoxError
from hyperbox.images.limits import LayerLimits
from hyperbox.images.tree import Kind
from support.layer_archives import END, MemorySink, archive, file, header, ingest, pax

NAMES = st.lists(
    st.one_of(
        st.sampled_from(["a", "b", "lib", "usr", "é", "x y", "n" * 101, "m" * 255]),
        st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20),
    ).filter(lambda part: part not in (".", "..") and not part.startswith(".wh.") and len(part.encode()) < 256),
    min_size=1,
    max_size=5,
).map("/".join)
KINDS = {
    tarfile.REGTYPE: Kind.FILE,
    tarfile.DIRTYPE: Kind.DIRECTORY,
    tarfile.SYMTYPE: Kind.SYMLINK,
    tarfile.FIFOTYPE: Kind.FIFO,
    tarfile.CHRTYPE: Kind.CHARACTER,
}


@st.composite
def members(draw: st.DrawFn) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(draw(NAMES))
    info.type = draw(st.sampled_from(list(KINDS)))
    info.mode = draw(st.integers(0, 0o7777))
    info.uid, info.gid = draw(st.tuples(*[st.one_of(st.integers(0, 0xFFFFFFFE), st.just(0))] * 2))
    info.mtime = draw(st.integers(-(1 << 31), 1 << 33))
    if info.type == tarfile.SYMTYPE:
        info.linkname = draw(NAMES)
    if info.type == tarfile.CHRTYPE:
        info.devmajor, info.devminor = draw(st.integers(1, 4095)), draw(st.integers(0, (1 << 20) - 1))
    data = draw(st.binary(max_size=3000)) if info.type == tarfile.REGTYPE else b""
    return info, data


@given(
    st.lists(members(), max_size=8), st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]), st.integers(300, 5000)
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_what_tarfile_writes_is_read(made: list[tuple[tarfile.TarInfo, bytes]], fmt: int, step: int) -> None:
    # Each path once, and none below another: what comes of those is settled by examples.
    paths = [info.name for info, _ in made]
    assume(not any(b.startswith(a + "/") or a == b for i, a in enumerate(paths) for j, b in enumerate(paths) if i != j))
    sink = MemorySink()
    content = ingest(archive(*made, fmt=fmt), step=step, sink=sink)
    for info, data in made:
        inode = content.tree[info.name.encode()]
        assert inode.kind is KINDS[info.type]
        assert (inode.uid, inode.gid, inode.mtime_ns) == (info.uid, info.gid, int(info.mtime) * 10**9)
        if inode.kind is Kind.FILE:
            assert sink.content(inode) == data
        if inode.kind is Kind.SYMLINK:
            assert inode.target == info.linkname.encode()
        else:
            assert inode.mode == info.mode
        if inode.kind is Kind.CHARACTER:
            assert inode.rdev == (info.devmajor, info.devminor)
    assert sum(not inode.implicit for _, inode in content.tree.items()) == len(made)


@given(st.dictionaries(st.text("abc.", min_size=1, max_size=9), st.binary(min_size=1, max_size=300), max_size=6))
@settings(max_examples=60, deadline=None)
def test_xattrs_of_any_bytes(xattrs: dict[str, bytes]) -> None:
    records = {b"SCHILY.xattr.user." + name.encode(): value for name, value in xattrs.items()}
    found = ingest(pax(records) + file(b"f") + END).tree[b"f"].xattrs
    assert found == {b"user." + name.encode(): value for name, value in xattrs.items()}


def _seed() -> bytes:
    sparse = pax({b"GNU.sparse.map": b"0,3,2000,4", b"GNU.sparse.numblocks": b"2", b"GNU.sparse.size": b"9000"})
    return (
        header(b"d/", b"5")
        + pax({b"path": b"long" * 40, b"mtime": b"1.5", b"SCHILY.xattr.user.a": b"v"})
        + file(b"f", b"content" * 30)
        + header(b"l", b"2", link=b"d")
        + file(b"l/x", b"y" * 2000)
        + header(b"h", b"1", link=b"d/x")
        + sparse
        + file(b"s", b"abcdefg")
        + header(b"././@LongLink", b"L", 200)
        + (b"n/" * 99 + b"z\0").ljust(512, b"\0")
        + file(b"n")
        + file(b"d/.wh.gone")
        + file(b"d/.wh..wh..opq")
        + END
    )


SEED = _seed()
MUTATIONS = st.lists(
    st.tuples(
        st.integers(0, len(SEED) - 1),
        st.one_of(st.binary(min_size=1, max_size=12), st.just(b"\xff" * 8), st.just(b"7" * 11)),
    ),
    min_size=1,
    max_size=6,
)


def _fixed_sums(data: bytearray) -> None:
    """Give every block that looks like a header a right checksum, so that damage gets behind that check."""
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])


def _read_or_named_error(blob: bytes) -> None:
    sink = MemorySink()
    try:
        content = ingest(blob, step=1500, sink=sink, limits=LayerLimits(unpacked=1 << 24))
    except HyperBoxError:
        pass
    else:
        for path, inode in content.tree.items():
            assert b".." not in path.split(b"/")
            assert not path or content.tree[path.rpartition(b"/")[0]].kind is Kind.DIRECTORY
            if inode.kind is Kind.FILE:
                assert len(sink.content(inode)) == inode.size
    assert sink.open_writers == 0


@given(MUTATIONS, st.booleans(), st.one_of(st.none(), st.integers(0, len(SEED))))
@settings(max_examples=600, deadline=None)
def test_damaged_archives_give_named_errors(damage: list[tuple[int, bytes]], sums: bool, cut: int | None) -> None:
    data = bytearray(SEED)
    for at, patch in damage:
        data[at : at + len(patch)] = patch
    if sums:
        _fixed_sums(data)
    _read_or_named_error(bytes(data[:cut]))


@given(MUTATIONS.map(lambda damage: [(at % 700, patch) for at, patch in damage]), st.sampled_from(["gzip", "zstd"]))
@settings(max_examples=200, deadline=None)
def test_damaged_compression_gives_named_errors(damage: list[tuple[int, bytes]], kind: str) -> None:
    blob = bytearray(gzip.compress(SEED) if kind == "gzip" else zstandard.ZstdCompressor().compress(SEED))
    for at, patch in damage:
        blob[at : at + len(patch)] = patch
    _read_or_named_error(bytes(blob))


@given(st.binary(max_size=3000))
@settings(max_examples=150, deadline=None)
def test_any_bytes(data: bytes) -> None:
    _read_or_named_error(data)
    _read_or_named_error(zlib.compress(data, wbits=31))


def test_tarfile_reads_the_seed_too() -> None:
    with tarfile.open(fileobj=io.BytesIO(SEED)) as tar:
        assert len(tar.getmembers()) == 9
    assert b"d/x" in ingest(SEED).tree
    with pytest.raises(HyperBoxError):
        ingest(SEED[:700])
