"""Archives for tests of the layer reader, and an object sink that keeps everything in memory."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator

from hyperbox.images.compression import Source
from hyperbox.images.ingest import LayerContent, ingest_layer
from hyperbox.images.limits import LayerLimits
from hyperbox.images.tree import Inode


class MemorySink:
    """The interface of a lease, in memory."""

    def __init__(self) -> None:
        self.objects: dict[bytes, bytes] = {}
        self.open_writers = 0

    def take(self, digest: bytes, size: int) -> bool:
        return digest in self.objects

    def put(self, data: bytes | bytearray | memoryview, digest: bytes | None = None) -> bytes:
        actual = hashlib.sha256(data).digest()
        assert digest in (None, actual)
        self.objects[actual] = bytes(data)
        return actual

    def writer(self, size_hint: int = 0) -> MemoryWriter:
        self.open_writers += 1
        return MemoryWriter(self)

    def adopt(self, path: str, digest: bytes, size: int) -> None:
        with open(path, "rb") as file:
            assert self.put(file.read()) == digest

    def content(self, inode: Inode) -> bytes:
        return inode.data if inode.data is not None else self.objects[inode.digest or b""]


class MemoryWriter:
    def __init__(self, sink: MemorySink) -> None:
        self._sink = sink
        self._data = bytearray()
        self._open = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._data += data

    def zeros(self, count: int) -> None:
        self._data += bytes(count)

    def commit(self, expected: bytes | None = None) -> tuple[bytes, int]:
        self.abort()
        return self._sink.put(bytes(self._data), expected), len(self._data)

    def abort(self) -> None:
        self._sink.open_writers -= self._open
        self._open = False


def header(
    name: bytes, kind: bytes = b"0", size: int = 0, *, link: bytes = b"", magic: bytes = b"ustar\x0000", **fields: bytes
) -> bytes:
    """One raw header with a right checksum. `fields`: mode, uid, gid, size, mtime, device, prefix as raw bytes."""
    block = bytearray(512)
    places = {
        "mode": (100, b"0000644\0"),
        "uid": (108, b"0000000\0"),
        "gid": (116, b"0000000\0"),
        "size": (124, b"%011o\0" % size),
        "mtime": (136, b"00000000000\0"),
        "device": (329, b"0000000\0" * 2),
        "prefix": (345, b""),
    }
    block[: len(name)] = name
    for field, (at, default) in places.items():
        value = fields.get(field, default)
        block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[157 : 157 + len(link)] = link
    block[257:265] = magic
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(records: dict[bytes, bytes] | list[tuple[bytes, bytes]], kind: bytes = b"x") -> bytes:
    """An extended header with its data."""
    data = b""
    for key, value in records.items() if isinstance(records, dict) else records:
        length = len(key) + len(value) + 3
        while len(b"%d" % length) + len(key) + len(value) + 3 != length:
            length = len(b"%d" % length) + len(key) + len(value) + 3
        data += b"%d %s=%s\n" % (length, key, value)
    return header(b"pax", kind, len(data)) + padded(data)


def file(name: bytes, data: bytes = b"", **fields: bytes) -> bytes:
    return header(name, b"0", len(data), **fields) + padded(data)


END = bytes(1024)


def source(data: bytes, step: int = 1 << 16) -> Source:
    pieces: Iterator[bytes] = (data[at : at + step] for at in range(0, len(data), step))
    return lambda: next(pieces, b"")


def ingest(
    data: bytes, *, step: int = 1 << 16, sink: MemorySink | None = None, limits: LayerLimits | None = None
) -> LayerContent:
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    return ingest_layer(pieces, sink or MemorySink(), limits=limits or LayerLimits())


def archive(*members: tuple[tarfile.TarInfo, bytes], fmt: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=fmt, encoding="utf-8", errors="surrogateescape") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()
