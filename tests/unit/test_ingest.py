"""From blobs to layers: compression, digests, limits, errors, and what is left behind."""

from __future__ import annotations

import gzip
import hashlib
import os
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from hyperbox.api.errors.images import (
    BlobDigestMismatch,
    CompressionCorrupt,
    CompressionTruncated,
    CompressionUnsupported,
    DiffIdMismatch,
    LayerTooLarge,
    TarCorrupt,
    TarTruncated,
)
from hyperbox.images.compression import Decompressor, FrameWalk, detect
from hyperbox.images.ingest import ingest_layer
from hyperbox.images.limits import LayerLimits
from hyperbox.store import ObjectStore
from support.layer_archives import END, MemorySink, file, ingest, source

BIG = os.urandom(3 << 20) * 3
LAYER = (
    file(b"etc/small", b"tiny") + file(b"bin/tool", b"\x7fELF" * 5000) + file(b"big", BIG) + file(b"again", BIG) + END
)
SKIPPABLE = b"\x50\x2a\x4d\x18\x05\x00\x00\x00hello"


def zst(data: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(data)


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def unpack(blob: bytes, step: int = 1 << 16, limits: LayerLimits | None = None) -> bytes:
    return b"".join(Decompressor(limits or LayerLimits()).pieces(source(blob, step)))


BLOBS = {
    "plain": LAYER,
    "gzip": gzip.compress(LAYER),
    "gzip members": gzip.compress(LAYER[:1000]) + gzip.compress(b"") + gzip.compress(LAYER[1000:]),
    "zstd": zst(LAYER),
    "zstd summed": zst(LAYER, write_checksum=True, write_content_size=False),
    "zstd frames": SKIPPABLE + zst(LAYER[:77]) + SKIPPABLE + zst(LAYER[77:]) + SKIPPABLE,
}


@pytest.mark.parametrize("name", BLOBS)
@pytest.mark.parametrize("step", [977, 1 << 18])
def test_layer_in_every_compression(name: str, step: int) -> None:
    sink = MemorySink()
    content = ingest(BLOBS[name], step=step, sink=sink)
    assert content.compression == name.split(maxsplit=1)[0]
    assert content.blob_digest == sha256(BLOBS[name])
    assert content.diff_id == sha256(LAYER)
    assert (content.blob_size, content.archive_size) == (len(BLOBS[name]), len(LAYER))
    assert content.tree[b"etc/small"].data == b"tiny"
    assert sink.content(content.tree[b"bin/tool"]) == b"\x7fELF" * 5000
    assert sink.content(content.tree[b"big"]) == BIG
    assert content.tree[b"big"].digest == content.tree[b"again"].digest
    assert (content.new_objects, content.known_objects, content.inline_bytes) == (2, 1, 4)
    assert (content.new_bytes, content.known_bytes) == (len(BIG) + 20_000, len(BIG))
    assert sink.open_writers == 0


def test_second_time_everything_is_known(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    with objects.lease("test") as lease:
        first = ingest_layer([BLOBS["gzip"]], lease, expected_diff_id=sha256(LAYER))
        second = ingest_layer([BLOBS["zstd"]], lease)
    assert (first.new_objects, first.known_objects) == (2, 1)
    assert second.known_objects >= 2
    digest = first.tree[b"big"].digest
    assert digest is not None
    assert objects.path(digest).read_bytes() == BIG
    assert not os.listdir(tmp_path / "ingest")


def test_empty_layers() -> None:
    assert ingest(b"").diff_id == sha256(b"")
    assert ingest(gzip.compress(b"")).diff_id == sha256(b"")
    assert ingest(gzip.compress(END)).diff_id == sha256(END)


@pytest.mark.parametrize(
    ("head", "name"),
    [(b"", "plain"), (b"\x1f\x8b\x08\0", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\x5a\x2a\x4d\x18", "zstd")],
)
def test_detection(head: bytes, name: str) -> None:
    assert detect(head) == name


@pytest.mark.parametrize("head", [b"BZh91AY", b"\xfd7zXZ\x00\x00", b"\x04\x22\x4d\x18"])
def test_other_compressions(head: bytes) -> None:
    with pytest.raises(CompressionUnsupported):
        ingest(head + bytes(100))


@pytest.mark.parametrize("name", [name for name in BLOBS if name != "plain"])
@pytest.mark.parametrize("cut", [3, 12, 20, 5000, -1, -5])
def test_truncated_streams(name: str, cut: int) -> None:
    blob = BLOBS[name]
    with pytest.raises((CompressionTruncated, TarTruncated, TarCorrupt)):
        ingest(blob[:cut])
    if cut > 3:
        with pytest.raises(CompressionTruncated):
            unpack(blob[:cut], step=1000)


@pytest.mark.parametrize("tail", [b"\0", bytes(512), b"garbage", b"\x1f\x8b", b"\x1f\x8c\x08"])
def test_bytes_after_gzip_are_damage_as_in_go(tail: bytes) -> None:
    with pytest.raises((CompressionCorrupt, CompressionTruncated)):
        ingest(BLOBS["gzip"] + tail)


def test_bytes_after_zstd_are_damage() -> None:
    with pytest.raises(CompressionCorrupt):
        ingest(BLOBS["zstd"] + b"garbage!")


@pytest.mark.parametrize("name", ["gzip", "zstd summed"])
def test_damaged_streams(name: str) -> None:
    blob = bytearray(BLOBS[name])
    blob[-3 if name == "zstd summed" else -7] ^= 0xFF
    with pytest.raises(CompressionCorrupt):
        unpack(bytes(blob))


def test_tiny_members_are_not_quadratic() -> None:
    assert unpack(gzip.compress(b"x") * 20_000, step=1 << 20) == b"x" * 20_000


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_bombs(kind: str) -> None:
    zeros = bytes(64 << 20)
    blob = zlib.compress(zeros, 9, wbits=31) if kind == "gzip" else zst(zeros, level=19)
    assert len(unpack(blob)) == len(zeros)
    with pytest.raises(LayerTooLarge):
        unpack(blob, limits=LayerLimits(unpacked=1 << 20))
    with pytest.raises(LayerTooLarge):
        unpack(blob, limits=LayerLimits(ratio_floor=1 << 20))
    longest = max(len(piece) for piece in Decompressor(LayerLimits()).pieces(source(blob)))
    assert longest <= 1 << 20


def test_zstd_window_that_eats_memory() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=29, enable_ldm=True)
    out = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    blob = out.compress(b"a" * 1000) + out.flush()
    with pytest.raises(CompressionUnsupported):
        unpack(blob)


@pytest.mark.parametrize("step", [1, 3, 1 << 20])
def test_frame_walk(step: int) -> None:
    blob = SKIPPABLE + zst(LAYER[:50_000]) + SKIPPABLE + zst(LAYER[:10], write_checksum=True)
    walk = FrameWalk()
    for at in range(0, len(blob) - 1, step):
        walk.feed(blob[at : min(at + step, len(blob) - 1)])
    assert not walk.at_boundary
    walk.feed(blob[-1:])
    assert walk.at_boundary


def test_wrong_digests() -> None:
    blob = BLOBS["gzip"]
    with pytest.raises(BlobDigestMismatch):
        ingest_layer([blob], MemorySink(), expected_blob_digest=sha256(b""))
    with pytest.raises(DiffIdMismatch):
        ingest_layer([blob], MemorySink(), expected_blob_digest=sha256(blob), expected_diff_id=sha256(b""))
    with pytest.raises(DiffIdMismatch):
        ingest_layer([LAYER], MemorySink(), expected_diff_id=sha256(b""))
    wide = f"sha512:{hashlib.sha512(LAYER).hexdigest()}"
    assert ingest_layer([blob], MemorySink(), expected_diff_id=wide).diff_id == wide


def test_data_behind_the_archive_counts_for_the_digest() -> None:
    data = LAYER + b"whatever" * 100_000
    assert ingest(gzip.compress(data)).diff_id == sha256(data)


class SourceBroke(Exception):
    pass


def broken() -> Iterator[bytes]:
    yield BLOBS["gzip"][:5_000_000]
    raise SourceBroke


def test_errors_of_source_progress_and_sink_come_through() -> None:
    before = threading.active_count()
    with pytest.raises(SourceBroke):
        ingest_layer(broken(), MemorySink())

    def stop(size: int) -> None:
        if size > 100_000:
            raise SourceBroke

    with pytest.raises(SourceBroke):
        ingest_layer([LAYER[:65536], LAYER[65536:]], MemorySink(), progress=stop)

    class FullSink(MemorySink):
        def put(self, data: bytes | bytearray | memoryview, digest: bytes | None = None) -> bytes:
            raise SourceBroke

    with pytest.raises(SourceBroke):
        ingest(BLOBS["gzip"], sink=FullSink())
    assert threading.active_count() == before


def test_nothing_stays_behind_after_errors(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    with objects.lease("test") as lease:
        for blob in (LAYER[:9_000_000], BLOBS["gzip"][:-9], file(b"../x", BIG)):
            with pytest.raises(Exception, match="layer"):
                ingest_layer([blob], lease)
    assert not os.listdir(tmp_path / "ingest")


def test_progress_counts_compressed_bytes() -> None:
    seen: list[int] = []
    blob = BLOBS["zstd"]
    ingest_layer([blob[:1000], blob[1000:]], MemorySink(), progress=seen.append)
    assert seen == [1000, len(blob)]
