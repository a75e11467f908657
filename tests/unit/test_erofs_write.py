"""What the EROFS writer writes, seen through the reader."""

from __future__ import annotations

import hashlib
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperbox.api.errors.images import EntryNotStorable, TreeInconsistent, XattrNotStorable
from hyperbox.images.erofs import Reader, build, build_file
from hyperbox.images.tree import Inode, Kind, Tree
from support.layer_trees import image_like, trees


def tree_of(entries: dict[bytes, Inode]) -> Tree:
    tree = Tree()
    tree.inodes[b""].implicit = False
    tree.inodes.update(entries)
    return tree


def small(data: bytes, xattrs: dict[bytes, bytes] | None = None) -> Inode:
    return Inode(Kind.FILE, data=data, size=len(data), xattrs=xattrs or {})


def link_groups(tree: Tree) -> set[frozenset[bytes]]:
    groups: dict[int, set[bytes]] = {}
    for path, inode in tree.items():
        groups.setdefault(id(inode), set()).add(path)
    return {frozenset(paths) for paths in groups.values()}


@given(trees())
@settings(max_examples=200, deadline=None)
def test_round_trip(tree: Tree) -> None:
    image = build(tree)
    reader = Reader(image)
    again = reader.tree()
    assert again.inodes == tree.inodes
    assert link_groups(again) == link_groups(tree)
    assert build(again) == image
    for path, inode in tree.items():
        assert reader.lookup(path) == inode
        assert reader.lookup(path + b"/absent") is None


@given(trees(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_order_of_entry_does_not_matter(tree: Tree, dice: random.Random) -> None:
    image = build(tree)
    shuffled = list(tree.items())
    dice.shuffle(shuffled)
    other = Tree()
    other.inodes = dict(shuffled)
    for inode in {id(inode): inode for inode in other.inodes.values()}.values():
        attributes = list(inode.xattrs.items())
        dice.shuffle(attributes)
        inode.xattrs = dict(attributes)
    assert build(other) == image


def test_large_directory() -> None:
    tree = tree_of({b"d": Inode(Kind.DIRECTORY, 0o755)})
    for number in range(20_000):
        tree.inodes[b"d/%d" % number] = small(b"")
    reader = Reader(build(tree))
    assert reader.tree().inodes == tree.inodes
    assert reader.lookup(b"d/19999") == small(b"")
    assert reader.lookup(b"d/20000") is None
    assert reader.lookup(b"d/") is None


def test_many_shared_attributes() -> None:
    attributes = {b"user.%04d" % number: b"v%d" % number for number in range(3000)}
    tree = tree_of({b"a": small(b"1", xattrs=attributes), b"b": small(b"2", xattrs=dict(attributes))})
    image = build(tree)
    assert Reader(image).tree().inodes == tree.inodes


def test_attributes_over_a_block_and_content_behind_them() -> None:
    attributes = {b"user.%d" % number: b"v" * 60_000 for number in range(4)}
    digest = hashlib.sha256(b"x").digest()
    tree = tree_of(
        {
            b"data": small(b"d" * 1024, xattrs=dict(attributes)),
            b"object": Inode(Kind.FILE, size=1 << 50, digest=digest, xattrs={b"user.own": b"o" * 5000}),
            b"link": Inode(Kind.SYMLINK, target=b"t" * 4095, xattrs={b"trusted.x": b"y" * 65535}),
            b"folder": Inode(Kind.DIRECTORY, xattrs={b"user.z": b"z" * 4090}),
            b"folder/in": small(b"i"),
        }
    )
    assert Reader(build(tree)).tree().inodes == tree.inodes


def test_equal_times_take_less_space() -> None:
    same = tree_of({b"%d" % n: Inode(Kind.FIFO, mtime_ns=5) for n in range(2000)})
    other = tree_of({b"%d" % n: Inode(Kind.FIFO, mtime_ns=n) for n in range(2000)})
    assert len(build(same)) < len(build(other))


def test_character_device_0_0_is_a_whiteout() -> None:
    tree = tree_of({b"gone": Inode(Kind.CHARACTER, rdev=(0, 0))})
    inode = Reader(build(tree)).lookup(b"gone")
    assert inode is not None
    assert inode.kind is Kind.WHITEOUT


def test_images_have_identities() -> None:
    first, second = build(tree_of({})), build(tree_of({b"a": small(b"")}))
    identities = [image[1024 + 48 : 1024 + 64] for image in (first, second)]
    assert identities[0] != identities[1]
    assert bytes(16) not in identities


def test_file_form(tmp_path) -> None:
    tree = tree_of({b"a": small(b"x")})
    path = tmp_path / "layer.erofs"
    size = build_file(tree, path)
    assert path.read_bytes() == build(tree)
    assert size == path.stat().st_size
    with Reader(path) as reader:
        assert reader.tree().inodes == tree.inodes
    with pytest.raises(FileExistsError):
        build_file(tree, path)


DIGEST = hashlib.sha256(b"").digest()


@pytest.mark.parametrize(
    ("path", "inode", "error"),
    [
        (b"missing/child", small(b""), TreeInconsistent),
        (b"file/child", small(b""), TreeInconsistent),
        (b"/absolute", small(b""), TreeInconsistent),
        (b"folder/", small(b""), TreeInconsistent),
        (b"folder/..", small(b""), TreeInconsistent),
        (b".", small(b""), TreeInconsistent),
        (b"a\0b", small(b""), TreeInconsistent),
        (b"n" * 256, small(b""), EntryNotStorable),
        (b"x", Inode(Kind.FILE, size=3), TreeInconsistent),
        (b"x", Inode(Kind.FILE, size=3, data=b"four"), TreeInconsistent),
        (b"x", Inode(Kind.FILE, size=3, data=b"abc", digest=DIGEST), TreeInconsistent),
        (b"x", Inode(Kind.FILE, size=3, digest=DIGEST[:31]), TreeInconsistent),
        (b"x", Inode(Kind.FILE, size=1 << 63, digest=DIGEST), EntryNotStorable),
        (b"x", Inode(Kind.FIFO, digest=DIGEST), TreeInconsistent),
        (b"x", Inode(Kind.FIFO, opaque=True), TreeInconsistent),
        (b"x", Inode(Kind.SYMLINK), TreeInconsistent),
        (b"x", Inode(Kind.SYMLINK, target=b"a\0"), TreeInconsistent),
        (b"x", Inode(Kind.SYMLINK, target=b"a" * 4096), EntryNotStorable),
        (b"x", Inode(Kind.BLOCK, rdev=(4096, 0)), EntryNotStorable),
        (b"x", Inode(Kind.CHARACTER, rdev=(0, 1 << 20)), EntryNotStorable),
        (b"x", Inode(Kind.FIFO, uid=-1), EntryNotStorable),
        (b"x", Inode(Kind.FIFO, gid=(1 << 32) - 1), EntryNotStorable),
        (b"x", Inode(Kind.FIFO, mtime_ns=(1 << 63) * 10**9), EntryNotStorable),
        (b"x", Inode(Kind.FIFO, mode=0o10000), TreeInconsistent),
        (b"x", small(b"", xattrs={b"trusted.overlay.redirect": b"/etc/shadow"}), XattrNotStorable),
        (b"x", small(b"", xattrs={b"trusted.overlay.opaque": b"y"}), XattrNotStorable),
        (b"x", small(b"", xattrs={b"btrfs.compression": b""}), XattrNotStorable),
        (b"x", small(b"", xattrs={b"user.": b""}), XattrNotStorable),
        (b"x", small(b"", xattrs={b"user": b""}), XattrNotStorable),
        (b"x", small(b"", xattrs={b"user.a\0": b""}), XattrNotStorable),
        (b"x", small(b"", xattrs={b"user." + b"n" * 251: b""}), XattrNotStorable),
        (b"x", small(b"", xattrs={b"user.v": bytes(65536)}), XattrNotStorable),
        (b"x", small(b"", xattrs={b"user.%d" % n: bytes(60_000) for n in range(5)}), XattrNotStorable),
    ],
)
def test_refused(path: bytes, inode: Inode, error: type[Exception]) -> None:
    tree = tree_of({b"file": small(b""), b"folder": Inode(Kind.DIRECTORY), path: inode})
    with pytest.raises(error):
        build(tree)


def test_refused_shapes() -> None:
    folder = Inode(Kind.DIRECTORY)
    with pytest.raises(TreeInconsistent):
        build(tree_of({b"a": folder, b"b": folder}))
    rootless = Tree()
    rootless.inodes = {}
    with pytest.raises(TreeInconsistent):
        build(rootless)
    rootless.inodes = {b"": small(b"")}
    with pytest.raises(TreeInconsistent):
        build(rootless)


def test_30_000_entries() -> None:
    tree = image_like(30_000)
    start = time.perf_counter()
    image = build(tree)
    built = time.perf_counter()
    again = Reader(image).tree()
    print(
        f"30,000 entries: built in {built - start:.3f} s, read in {time.perf_counter() - built:.3f} s, {len(image)} B"
    )
    assert again.inodes == tree.inodes
