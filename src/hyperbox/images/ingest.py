"""A layer's blob, streamed into objects and a tree while it arrives.

Five threads: one reads the source and hashes the blob, one decompresses, one hashes the archive (the diffID), one
stores the files, and the caller's takes the archive apart. Memory stays within a few dozen MiB beside the tree.
Objects are named by their content, so those that were stored before an error are never wrong, only unused; garbage
collection takes them once the lease is released.

Raises the errors of `compression`, `tar` and `tar_tree`, `BlobDigestMismatch`, `DiffIdMismatch`, those of the object
store, and whatever the source raises.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from hyperbox.api.errors.images import BlobDigestMismatch, DiffIdMismatch, LayerTooLarge
from hyperbox.images.compression import Decompressor
from hyperbox.images.ingest_stages import Channel, PutStage, Stages
from hyperbox.images.limits import LayerLimits
from hyperbox.images.tar import FILE_TYPES, Entry, TarReader
from hyperbox.images.tar_tree import TreeBuilder
from hyperbox.images.tree import Inode, Kind, Tree

if TYPE_CHECKING:
    from hashlib import _Hash

INLINE: Final = 2048
"""Longest content that travels in the layer's metadata instead of an object, in bytes."""
WHOLE: Final = 4 << 20
"""Longest content that is held in memory: hashed first, so that nothing is written when it is here already."""

_LIMITS: Final = LayerLimits()


class ObjectWriter(Protocol):
    """One object in the making."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes."""

    def zeros(self, count: int) -> None:
        """Append a hole."""

    def commit(self, expected: bytes | None = None) -> tuple[bytes, int]:
        """Finish; returns raw digest and size."""

    def abort(self) -> None:
        """Throw it away."""


class ObjectSink(Protocol):
    """Where contents go: a lease of the object store."""

    def take(self, digest: bytes, size: int) -> bool:
        """Whether the object is here; protects it from garbage collection either way."""

    def put(self, data: bytes | bytearray | memoryview, digest: bytes | None = None) -> bytes:
        """Store a whole content that has this digest."""

    def writer(self, size_hint: int = 0) -> ObjectWriter:
        """Begin a large object."""

    def adopt(self, path: str, digest: bytes, size: int) -> None:
        """Make an existing file that nobody writes any more an object."""


@dataclass(frozen=True, slots=True)
class LayerContent:
    """What one layer turned out to be. Sizes in bytes."""

    tree: Tree
    """Implicit folders are not resolved yet: see `resolve_implicit`."""
    blob_digest: str
    """Digest of the compressed blob, `sha256:<hex>`."""
    diff_id: str
    """Digest of the uncompressed archive, `sha256:<hex>`."""
    compression: str
    """`gzip`, `zstd` or `plain`."""
    blob_size: int
    archive_size: int
    entries: int
    """Headers in the archive."""
    new_objects: int
    new_bytes: int
    """Content that was not in the store before."""
    known_objects: int
    known_bytes: int
    """Content (with repetitions inside the layer) that was here already and took no space."""
    inline_bytes: int
    dropped_xattrs: int


def ingest_layer(
    source: Iterable[bytes],
    sink: ObjectSink,
    *,
    expected_blob_digest: str | None = None,
    expected_diff_id: str | None = None,
    limits: LayerLimits = _LIMITS,
    progress: Callable[[int], None] | None = None,
) -> LayerContent:
    """Read a layer's blob to its end and store its files; nothing is registered anywhere.

    `source` gives the blob in pieces (64 KiB to 1 MiB serve best) and is iterated on a thread of its own;
    `progress(bytes so far)` is called there after each piece, and an exception from it (or from the source) ends the
    ingest and is raised here. After an error this returns as soon as the source's current piece has come, so a source
    needs a time limit of its own. Expected digests are `sha256:<hex>` (sha384 and sha512 are known too).
    """
    ingest = _Ingest(source, limits, progress, expected_blob_digest, expected_diff_id)
    builder = TreeBuilder(limits)
    puts = PutStage(sink.put)
    contents = Contents(sink, puts, limits, ingest.decompressor)
    with Stages("ingest", (*ingest.channels, puts.channel)) as stages:
        ingest.start(stages)
        stages.start("put", puts.run)
        reader = TarReader(ingest.pieces.get, limits)
        while (entry := reader.next()) is not None:
            inode = contents.store(entry, reader) if entry.type in FILE_TYPES else None
            builder.add(entry, inode)
        puts.finish()
        reader.drain()
        stages.wait()
    puts.check()
    blob, archive = ingest.digests()
    return LayerContent(
        tree=builder.tree,
        blob_digest=blob,
        diff_id=archive,
        compression=ingest.decompressor.format,
        blob_size=ingest.blob.size,
        archive_size=ingest.decompressor.written,
        entries=reader.entries,
        new_objects=contents.new_objects,
        new_bytes=contents.new_bytes,
        known_objects=contents.known_objects,
        known_bytes=contents.known_bytes,
        inline_bytes=contents.inline_bytes,
        dropped_xattrs=builder.dropped_xattrs,
    )


class _Ingest:
    """The stages before the archive is taken apart, and the digests that they compute."""

    def __init__(
        self,
        source: Iterable[bytes],
        limits: LayerLimits,
        progress: Callable[[int], None] | None,
        expected_blob_digest: str | None,
        expected_diff_id: str | None,
    ) -> None:
        self.blob = _Digest(expected_blob_digest)
        self.archive = _Digest(expected_diff_id)
        self.decompressor = Decompressor(limits)
        self.compressed: Channel[bytes] = Channel(b"")
        self.pieces: Channel[bytes] = Channel(b"")
        self._copies: Channel[bytes] = Channel(b"")
        self.channels = (self.compressed, self.pieces, self._copies)
        self._source = source
        self._progress = progress

    def start(self, stages: Stages) -> None:
        stages.start("fetch", self._fetch, self.compressed)
        stages.start("decompress", self._decompress, self.pieces, self._copies)
        stages.start("digest", self._digest)

    @property
    def _one_digest(self) -> bool:
        """Of a plain layer, the archive is the blob: hashing it once is enough."""
        return self.decompressor.format == "plain" and self.archive.algorithm == self.blob.algorithm

    def _fetch(self) -> None:
        for piece in self._source:
            self.blob.update(piece)
            self.compressed.put(piece)
            if self._progress is not None:
                self._progress(self.blob.size)

    def _decompress(self) -> None:
        for piece in self.decompressor.pieces(self.compressed.get):
            if not self._one_digest:
                self._copies.put(piece)
            self.pieces.put(piece)

    def _digest(self) -> None:
        while piece := self._copies.get():
            self.archive.update(piece)

    def digests(self) -> tuple[str, str]:
        """Blob digest and diffID once all stages have ended; raises where one is not as expected."""
        if self._one_digest:
            self.archive.hash = self.blob.hash
        if self.blob.differs:
            raise BlobDigestMismatch(actual=self.blob.text, expected=self.blob.expected)
        if self.archive.differs:
            raise DiffIdMismatch(actual=self.archive.text, expected=self.archive.expected)
        return self.blob.text, self.archive.text


class Contents:
    """Stores the contents of a layer's files and counts what was new. For one thread."""

    def __init__(self, sink: ObjectSink, puts: PutStage, limits: LayerLimits, decompressor: Decompressor) -> None:
        self.new_objects = self.new_bytes = 0
        self.known_objects = self.known_bytes = 0
        self.inline_bytes = 0
        self._sink = sink
        self._puts = puts
        self._limits = limits
        self._decompressor = decompressor
        self._seen: set[bytes] = set()
        self._total = 0

    def store(self, entry: Entry, reader: TarReader) -> Inode:
        """Store the content of the reader's current entry; returns its inode without attributes."""
        size = entry.size
        if entry.segments is not None:
            self._check(size)
        if size > WHOLE:
            return self._stream(entry, reader)
        data = reader.content() if entry.segments is None else _filled(entry, reader)
        if size <= INLINE:
            self.inline_bytes += size
            return Inode(Kind.FILE, size=size, data=bytes(data))
        digest = hashlib.sha256(data).digest()
        if digest in self._seen or self._sink.take(digest, size):
            self._known(size)
        else:
            self._puts.put(memoryview(data), digest)
            self._new(size)
        self._seen.add(digest)
        return Inode(Kind.FILE, size=size, digest=digest)

    def _stream(self, entry: Entry, reader: TarReader) -> Inode:
        writer = self._sink.writer(entry.stored)
        try:
            at = 0
            for offset, length in entry.segments if entry.segments is not None else [(0, entry.size)]:
                writer.zeros(offset - at)
                for piece in reader.part(length):
                    writer.write(piece)
                at = offset + length
            writer.zeros(entry.size - at)
            digest, size = writer.commit()
        except BaseException:
            writer.abort()
            raise
        if digest in self._seen:
            self._known(size)
        else:
            self._new(size)
        self._seen.add(digest)
        return Inode(Kind.FILE, size=size, digest=digest)

    def _check(self, size: int) -> None:
        """A sparse file is long for few bytes: the same bomb as in compression, by another way."""
        self._total += size
        if self._total > self._limits.unpacked:
            raise LayerTooLarge(limit=self._limits.unpacked, what="bytes of sparse files")
        read = self._decompressor.read
        if self._total > self._limits.ratio_floor and self._total > read * self._limits.ratio:
            raise LayerTooLarge(limit=self._limits.ratio, what="times its compressed size (sparse files)")

    def _new(self, size: int) -> None:
        self.new_objects += 1
        self.new_bytes += size

    def _known(self, size: int) -> None:
        self.known_objects += 1
        self.known_bytes += size


def _filled(entry: Entry, reader: TarReader) -> bytearray:
    """The whole content of a small sparse file."""
    data = bytearray(entry.size)
    for offset, length in entry.segments or ():
        data[offset : offset + length] = b"".join(reader.part(length))
    return data


class _Digest:
    """A digest that grows, and the one that is expected of it."""

    def __init__(self, expected: str | None) -> None:
        self.expected = expected
        self.algorithm = expected.partition(":")[0] if expected else "sha256"
        self.hash: _Hash = hashlib.new(self.algorithm)
        self.size = 0

    def update(self, piece: bytes) -> None:
        self.size += len(piece)
        self.hash.update(piece)

    @property
    def text(self) -> str:
        return f"{self.algorithm}:{self.hash.hexdigest()}"

    @property
    def differs(self) -> bool:
        return self.expected is not None and self.text != self.expected


def resolve_implicit(tree: Tree, lookup: Callable[[bytes], Inode | None]) -> int:
    """Give the folders that the layer does not name itself their attributes; returns how many there were.

    `lookup` knows the merged layers below; a folder there lends owner, mode, xattrs and mtime, also through symlinks
    (a layer that only brings `lib/x` over `lib -> usr/lib` gets a folder `lib` like `usr/lib`, as with containerd).
    Others become 0755 root:root, with the newest mtime among what the layer puts into them: an unpacked folder has
    the time of its last change, but the clock at the unpack would make equal layers different.
    """
    implicit = {path: inode for path, inode in tree.items() if inode.implicit}
    newest: dict[bytes, int] = {}
    for path, inode in tree.items():
        if path and _dated(inode):
            parent = path.rpartition(b"/")[0]
            newest[parent] = max(newest.get(parent, inode.mtime_ns), inode.mtime_ns)
    for path, inode in implicit.items():
        below = _follow(path, lookup)
        if below is not None and below.kind is Kind.DIRECTORY:
            inode.mode, inode.uid, inode.gid = below.mode, below.uid, below.gid
            inode.mtime_ns, inode.xattrs = below.mtime_ns, dict(below.xattrs)
        else:
            inode.mode, inode.uid, inode.gid, inode.xattrs = 0o755, 0, 0, {}
            inode.mtime_ns = newest.get(path, 0)
        inode.implicit = False
    return len(implicit)


def date_root(tree: Tree) -> None:
    """Give the root the newest time among its entries, as `resolve_implicit` does.

    For a layer that an engine unpacked: no archive names the root, so its time is the clock's at the unpack, and equal
    layers would not be one. No container sees it: the root that it shows is its own writable layer's.
    """
    times = [inode.mtime_ns for path, inode in tree.items() if path and b"/" not in path and _dated(inode)]
    tree[b""].mtime_ns = max(times, default=0)


def _dated(inode: Inode) -> bool:
    return not inode.implicit and inode.kind is not Kind.WHITEOUT


def _follow(path: bytes, lookup: Callable[[bytes], Inode | None]) -> Inode | None:
    """The inode that a path means in the layers below, symlinks followed inside their root."""
    waiting = path.split(b"/")[::-1] if path else []
    at, inode = b"", lookup(b"")
    for _ in range(4096):
        if not waiting:
            return inode
        part = waiting.pop()
        if part in (b"", b"."):
            continue
        step = at.rpartition(b"/")[0] if part == b".." else (at + b"/" + part if at else part)
        inode = lookup(step)
        if inode is None:
            return None
        if inode.kind is Kind.SYMLINK:
            if inode.target.startswith(b"/"):
                at = b""
            waiting += inode.target.split(b"/")[::-1]
        else:
            at = step
    return None
