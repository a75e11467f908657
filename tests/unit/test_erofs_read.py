"""The EROFS reader on damaged and hostile images, and the hashes of the format."""

from __future__ import annotations

import hashlib
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperbox.api.errors.images import ErofsMalformed
from hyperbox.images.erofs import Reader, build
from hyperbox.images.erofs import _format as fmt
from hyperbox.images.tree import Inode, Kind, Tree
from support.layer_trees import image_like, trees


def sealed(image: bytearray) -> bytes:
    """Make the superblock's checksum right again, as an attacker would."""
    image[1028:1032] = bytes(4)
    image[1028:1032] = fmt.crc32c(bytes(image[1024:4096])).to_bytes(4, "little")
    return bytes(image)


def try_all(image: bytes, paths: list[bytes]) -> None:
    """Read everything; only the declared error may come out."""
    try:
        reader = Reader(image)
    except ErofsMalformed:
        return
    for path in paths:
        try:
            reader.lookup(path)
        except ErofsMalformed:
            continue
    try:
        tree = reader.tree()
    except ErofsMalformed:
        return
    build(tree)


SAMPLE_TREE = image_like(60)
SAMPLE_TREE[b""].xattrs = {b"security.selinux": b"label", b"user.only": b"root"}
for number, (_, inode) in enumerate(sorted(SAMPLE_TREE.items())):
    if number % 3 == 0 and inode.kind is not Kind.SYMLINK:
        inode.xattrs[b"security.selinux"] = b"label"
SAMPLE = build(SAMPLE_TREE)
PATHS = sorted(SAMPLE_TREE.inodes)


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_mutated(data: st.DataObject) -> None:
    image = bytearray(SAMPLE)
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(1024, len(image) - 8))
        width = data.draw(st.sampled_from([1, 2, 4, 8]))
        value = data.draw(st.one_of(st.sampled_from([0, 1, 2**31, 2**64 - 1, 0xFFFF, 36]), st.integers(0, 2**64 - 1)))
        image[position : position + width] = (value % 256**width).to_bytes(width, "little")
    try_all(sealed(image), PATHS[:20])


@given(trees(max_size=8), st.data())
@settings(max_examples=100, deadline=None)
def test_mutated_small(tree: Tree, data: st.DataObject) -> None:
    image = bytearray(build(tree))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(1152, min(len(image) - 2, 6000)))
        image[position : position + 2] = data.draw(st.binary(min_size=2, max_size=2))
    try_all(sealed(image), list(tree.inodes))


@given(st.integers(0, len(SAMPLE) - 1))
@settings(max_examples=60, deadline=None)
def test_cut_short(length: int) -> None:
    with pytest.raises(ErofsMalformed):
        Reader(SAMPLE[:length])


@given(st.binary(max_size=5000))
@settings(max_examples=50)
def test_garbage(data: bytes) -> None:
    with pytest.raises(ErofsMalformed):
        Reader(data)


def test_empty_file(tmp_path) -> None:
    path = tmp_path / "empty"
    path.write_bytes(b"")
    with pytest.raises(ErofsMalformed):
        Reader(path)


def test_wrong_checksum() -> None:
    image = bytearray(SAMPLE)
    image[1200] ^= 1
    with pytest.raises(ErofsMalformed, match="checksum"):
        Reader(bytes(image))


def nid_of(image: bytes, path: bytes) -> int:
    low = Reader(image)._image
    nid = low.root
    for name in path.split(b"/"):
        found = low.find(low.raw(nid), name)
        assert found is not None
        nid = found
    return nid


def renumbered(image: bytes, old: int, new: int, name: bytes) -> bytes:
    """Point the directory entry `name` of the root from inode `old` to `new`."""
    changed = bytearray(image)
    size = fmt.DIRENT.size
    for position in range(1152, len(image) - size, 4):
        nid, offset, _, reserved = fmt.DIRENT.unpack_from(image, position)
        if nid == old and not reserved and offset < 4096 and image.find(name, position) > 0:
            changed[position : position + 8] = new.to_bytes(8, "little")
            return sealed(changed)
    raise AssertionError("no such entry")


def folders() -> bytes:
    tree = Tree()
    tree.inodes[b"a"] = Inode(Kind.DIRECTORY)
    tree.inodes[b"b"] = Inode(Kind.DIRECTORY)
    tree.inodes[b"b/c"] = Inode(Kind.DIRECTORY)
    return build(tree)


@pytest.mark.parametrize("target", [b"", b"b"])
def test_folder_under_two_names(target: bytes) -> None:
    image = folders()
    new = nid_of(image, target) if target else Reader(image)._image.root
    with pytest.raises(ErofsMalformed, match="directory"):
        Reader(renumbered(image, nid_of(image, b"a"), new, b"a")).tree()


def test_foreign_redirect() -> None:
    digest = hashlib.sha256(b"x").digest()
    tree = Tree()
    tree.inodes[b"a"] = Inode(Kind.FILE, digest=digest, size=5)
    image = bytearray(build(tree))
    name = digest.hex().encode()
    place = image.index(name[2:])
    image[place : place + 6] = b"/../.."
    reader = Reader(sealed(image))
    with pytest.raises(ErofsMalformed, match="redirect"):
        reader.tree()


def test_parts_that_overlap_cost_no_more_than_the_image() -> None:
    """Many inodes that each claim the same large shared attributes, or the same content, are refused early."""
    tree = Tree()
    for number in range(400):
        tree.inodes[b"%d" % number] = Inode(Kind.FILE, size=1, data=b"x", mtime_ns=number)
    tree.inodes[b"blob"] = Inode(Kind.FILE, size=200_000, data=bytes(200_000))
    image = bytearray(build(tree))
    low = Reader(bytes(image))._image
    blob = low.raw(nid_of(bytes(image), b"blob"))
    for nid in [nid_of(bytes(image), b"%d" % number) for number in range(400)]:
        offset = low.offset(nid)
        form = int.from_bytes(image[offset : offset + 2], "little")
        if form & 1:
            image[offset : offset + 2] = (fmt.LAYOUT_PLAIN << 1 | 1).to_bytes(2, "little")
            image[offset + 8 : offset + 16] = (48 * 4096).to_bytes(8, "little")
            image[offset + 16 : offset + 20] = blob.union.to_bytes(4, "little")
    reader = Reader(sealed(image))
    tracemalloc.start()
    try:
        with pytest.raises(ErofsMalformed, match="overlap"):
            reader.tree()
        assert tracemalloc.get_traced_memory()[1] < 10 * len(image)
    finally:
        tracemalloc.stop()


def test_lookup_reads_its_way_only() -> None:
    tree = image_like(5_000)
    image = bytearray(build(tree))
    path = max(tree.inodes, key=len)
    low = Reader(bytes(image))._image
    kept = {0}
    for depth in range(path.count(b"/") + 2):
        parent = b"/".join(path.split(b"/")[:depth])
        raw = low.raw(nid_of(bytes(image), parent) if parent else low.root)
        kept.update(range(low.offset(raw.nid) // 4096, (raw.end + 2048) // 4096 + 1))
        if raw.layout != fmt.LAYOUT_CHUNKS:
            kept.update(range(raw.union, raw.union + raw.size // 4096 + 1))
    kept.update(range(4))  # the shared attributes
    assert len(kept) < len(image) // 4096 // 4
    for block in set(range(len(image) // 4096)) - kept:
        image[block * 4096 : (block + 1) * 4096] = b"\xff" * 4096
    reader = Reader(bytes(image))
    assert reader.lookup(path) == tree[path]
    with pytest.raises(ErofsMalformed):
        reader.tree()


def test_sizes_of_structs() -> None:
    assert fmt.SUPERBLOCK.size == 128
    assert fmt.COMPACT.size == 32
    assert fmt.EXTENDED.size == 64
    assert fmt.DIRENT.size == 12
    assert fmt.XATTR_BODY.size == 12
    assert fmt.XATTR_ENTRY.size == 4


def test_hashes() -> None:
    assert fmt.crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283
    assert fmt.xxh32(b"", 0) == 0x02CC5D05
    assert fmt.xxh32(b"Nobody inspects the spammish repetition", 0) == 0xE2293B2F
    # Two of the positions that the kernel's log names for this filter.
    assert fmt.xattr_filter_bit(b"security.ima") == 1 << 0
    assert fmt.xattr_filter_bit(b"trusted.overlay.protattr") == 1 << 7


@given(st.integers(0, 4095), st.integers(0, (1 << 20) - 1))
def test_device_numbers(major: int, minor: int) -> None:
    encoded = fmt.encode_device(major, minor)
    assert encoded is not None
    assert fmt.decode_device(encoded) == (major, minor)


@pytest.mark.parametrize("size", [1, 4096, 4097, 1 << 32, 1 << 43, (1 << 43) + 1, (1 << 63) - 1])
def test_chunks_stay_few(size: int) -> None:
    bits = fmt.chunk_bits(size)
    count = fmt.chunk_count(size, bits)
    assert count == max(1, -(-size // (1 << 43)))
    assert count * (4096 << bits) >= size
