"""From an overlay's upper folder to an OCI layer: a tar stream, compressed and hashed in one pass.

Written here because Python's `tarfile` cannot carry binary xattr values without a `hdrcharset` record that other
readers do not expect. Entries are sorted and times are whole seconds, as image builders write them.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import zstandard

BLOCK: Final = 512
CHUNK: Final = 1 << 20
_OPAQUE: Final = "trusted.overlay.opaque"
MEDIA_TYPES: Final = {
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
    "plain": "application/vnd.oci.image.layer.v1.tar",
}


@dataclass(frozen=True)
class Layer:
    """One layer blob: digests are `sha256:…`, sizes in bytes."""

    digest: str
    size: int
    diff_id: str
    uncompressed_size: int
    media_type: str


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def compressor(name: str) -> _Compressor:
    """A compressor: `gzip` (level 6, as most builders use), `zstd` (level 3) or `plain`."""
    if name == "gzip":
        return zlib.compressobj(6, zlib.DEFLATED, 31)
    return zstandard.ZstdCompressor(level=3).compressobj() if name == "zstd" else _Plain()


class LayerWriter:
    """Takes tar bytes, writes a compressed blob into a folder of blobs."""

    def __init__(self, blobs: Path, compression: str) -> None:
        self._blobs = blobs
        self._compression = compression
        self._compressor = compressor(compression)
        self._diff, self._blob = hashlib.sha256(), hashlib.sha256()
        self._read = self._written = 0
        blobs.mkdir(parents=True, exist_ok=True)
        self._part = blobs / f".part-{os.getpid()}-{id(self):x}"
        self._file: BinaryIO = self._part.open("wb")
        self._pending = bytearray()

    def write(self, data: bytes) -> None:
        """Add tar bytes."""
        self._pending += data
        if len(self._pending) >= CHUNK:
            self._pass_on()

    def _pass_on(self) -> None:
        data = bytes(self._pending)
        self._pending.clear()
        self._diff.update(data)
        self._read += len(data)
        self._out(self._compressor.compress(data))

    def _out(self, data: bytes) -> None:
        self._blob.update(data)
        self._written += len(data)
        self._file.write(data)

    def finish(self) -> Layer:
        """End the blob and put it in its place."""
        self._pass_on()
        self._out(self._compressor.flush())
        self._file.close()
        name = self._blob.hexdigest()
        self._part.replace(self._blobs / name)
        return Layer(
            f"sha256:{name}", self._written, f"sha256:{self._diff.hexdigest()}", self._read,
            MEDIA_TYPES[self._compression],
        )  # fmt: skip

    def abort(self) -> None:
        """Give up; leaves nothing."""
        self._file.close()
        self._part.unlink(missing_ok=True)


def _record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + 1
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def header(
    name: bytes, kind: bytes, info: os.stat_result | None = None, *, size: int = 0, link: bytes = b"",
    xattrs: dict[bytes, bytes] | None = None,
) -> bytes:  # fmt: skip
    """One entry's header blocks: a PAX header when something does not fit into the ustar block, and that block."""
    records = {b"SCHILY.xattr." + key: value for key, value in (xattrs or {}).items()}
    if len(name) > 100 or not name.isascii():
        records[b"path"] = name
    if len(link) > 100 or not link.isascii():
        records[b"linkpath"] = link
    mode = stat.S_IMODE(info.st_mode) if info else 0o644
    uid, gid, mtime = (info.st_uid, info.st_gid, int(info.st_mtime)) if info else (0, 0, 0)
    device = info.st_rdev if info else 0
    extra = b""
    if records:
        body = b"".join(_record(key, records[key]) for key in sorted(records))
        extra = _ustar(b"PaxHeaders.0/" + name[-80:], b"x", 0o644, 0, 0, len(body), mtime, b"", 0) + body
        extra += b"\0" * (-len(body) % BLOCK)
    return extra + _ustar(name[:100], kind, mode, uid, gid, size, mtime, link[:100], device)


def _ustar(  # noqa: PLR0917 - the fields of one struct, in its order
    name: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, link: bytes, device: int
) -> bytes:
    def octal(value: int, width: int) -> bytes:
        return f"{max(value, 0):0{width - 1}o}".encode() + b"\0"

    block = bytearray(BLOCK)
    fields = (
        (0, name), (100, octal(mode, 8)), (108, octal(uid, 8)), (116, octal(gid, 8)), (124, octal(size, 12)),
        (136, octal(mtime, 12)), (148, b" " * 8), (156, kind), (157, link), (257, b"ustar\x0000"),
        (329, octal(os.major(device), 8)), (337, octal(os.minor(device), 8)),
    )  # fmt: skip
    for offset, value in fields:
        block[offset : offset + len(value)] = value
    block[148:156] = f"{sum(block):06o}".encode() + b"\0 "
    return bytes(block)


def _xattrs(path: bytes) -> dict[bytes, bytes]:
    found = {}
    for name in os.listxattr(path, follow_symlinks=False):
        if not name.startswith("trusted.overlay."):
            found[os.fsencode(name)] = os.getxattr(path, name, follow_symlinks=False)
    return found


def _is_opaque(path: bytes) -> bool:
    try:
        return os.getxattr(path, _OPAQUE, follow_symlinks=False) == b"y"
    except OSError:
        return False


_KINDS: Final = {
    stat.S_IFREG: b"0", stat.S_IFLNK: b"2", stat.S_IFCHR: b"3", stat.S_IFBLK: b"4", stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}  # fmt: skip


def _entries(folder: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    for name in sorted(os.listdir(folder)):
        path = folder + b"/" + name
        yield path, prefix + name
        if os.path.isdir(path) and not os.path.islink(path):
            yield from _entries(path, prefix + name + b"/")


def write_tree(tree: Path, writer: LayerWriter) -> None:
    """Write a folder as a layer; whiteouts and opaque folders of overlayfs become those of OCI."""
    linked: dict[int, bytes] = {}
    for path, name in _entries(os.fsencode(tree), b""):
        info = os.lstat(path)
        kind = _KINDS.get(stat.S_IFMT(info.st_mode))
        if kind is None:
            continue  # sockets have no place in a layer
        if kind == b"3" and info.st_rdev == 0:
            parent, _, last = name.rpartition(b"/")
            writer.write(header((parent + b"/" if parent else b"") + b".wh." + last, b"0"))
        elif kind != b"5" and info.st_nlink > 1 and info.st_ino in linked:
            writer.write(header(name, b"1", info, link=linked[info.st_ino]))
        elif kind == b"0":
            linked[info.st_ino] = name
            _write_file(path, name, info, writer)
        elif kind == b"5":
            writer.write(header(name + b"/", kind, info, xattrs=_xattrs(path)))
            if _is_opaque(path):
                writer.write(header(name + b"/.wh..wh..opq", b"0"))
        else:
            linked[info.st_ino] = name
            link = os.readlink(path) if kind == b"2" else b""
            writer.write(header(name, kind, info, link=link, xattrs=_xattrs(path)))
    writer.write(b"\0" * (2 * BLOCK))


def _write_file(path: bytes, name: bytes, info: os.stat_result, writer: LayerWriter) -> None:
    writer.write(header(name, b"0", info, size=info.st_size, xattrs=_xattrs(path)))
    left = info.st_size
    with open(path, "rb") as file:
        while left:
            data = file.read(min(left, CHUNK))
            if not data:
                raise OSError(f"{path!r} became shorter while it was read")
            writer.write(data)
            left -= len(data)
    writer.write(b"\0" * (-info.st_size % BLOCK))


def pack(tree: Path, blobs: Path, compression: str = "gzip") -> Layer:
    """Pack a folder as a layer blob in `blobs`."""
    writer = LayerWriter(blobs, compression)
    try:
        write_tree(tree, writer)
        return writer.finish()
    except BaseException:
        writer.abort()
        raise


def repack(layer: Layer, blobs: Path, compression: str) -> Layer:
    """The same layer with another compression; the bytes of its tar, and so its diffID, stay."""
    writer = LayerWriter(blobs, compression)
    inflate = zlib.decompressobj(31)
    try:
        with (blobs / layer.digest.partition(":")[2]).open("rb") as file:
            while data := file.read(CHUNK):
                writer.write(inflate.decompress(data))
        writer.write(inflate.flush())
        return writer.finish()
    except BaseException:
        writer.abort()
        raise
