"""From entries to a tree: names, parents, replacement, links, whiteouts, attributes, and refusals."""

from __future__ import annotations

import pytest

from hyperbox.api.errors.images import EntryRefused, LayerTooLarge, LinkTargetMissing
from hyperbox.images.ingest import resolve_implicit
from hyperbox.images.limits import LayerLimits
from hyperbox.images.tree import Inode, Kind, Tree
from support.layer_archives import END, file, header, ingest, pax


def tree(*parts: bytes) -> Tree:
    return ingest(b"".join(parts) + END).tree


def folder(name: bytes, **fields: bytes) -> bytes:
    return header(name, b"5", **fields)


def symlink(name: bytes, target: bytes) -> bytes:
    return header(name, b"2", link=target)


def hard_link(name: bytes, target: bytes, **fields: bytes) -> bytes:
    return header(name, b"1", link=target, **fields)


def named(name: bytes) -> bytes:
    return pax({b"path": name}) + file(b"x")


@pytest.mark.parametrize(
    "name", [b"a/b", b"./a/b", b"/a/b", b"a//b", b"a/./b", b"a/c/../b", b"//a/b", b"a/b/.", b"./././a/b", b"a/x/../b"]
)
def test_names_are_cleaned(name: bytes) -> None:
    assert set(tree(file(name)).inodes) == {b"", b"a", b"a/b"}


def test_names_of_any_bytes() -> None:
    assert b"d\xff\xfe/\xc3\x28 \n" in tree(file(b"d\xff\xfe/\xc3\x28 \n"))


@pytest.mark.parametrize("name", [b"..", b"../x", b"a/../../x", b"/../x", b"a/../..", b"./../x"])
def test_names_that_climb_out_are_refused(name: bytes) -> None:
    with pytest.raises(EntryRefused):
        tree(file(name))


@pytest.mark.parametrize("name", [b"n" * 256, b"n" * 256 + b"/x", b"d/" * 2048 + b"x"])
def test_names_that_do_not_fit_are_refused(name: bytes) -> None:
    with pytest.raises(EntryRefused):
        tree(named(name))


@pytest.mark.parametrize("name", [b"./", b".", b"/", b"a/.."])
def test_root_entries_are_ignored_as_containerd_does(name: bytes) -> None:
    found = tree(folder(name, mode=b"0000700\0"))
    assert set(found.inodes) == {b""}
    assert found[b""].implicit
    assert found[b""].mode == 0o755


def test_implicit_parents_and_late_entries_for_them() -> None:
    found = tree(file(b"a/b/c"), folder(b"a/", mode=b"0000700\0"))
    assert found[b"a/b"].implicit
    assert not found[b"a"].implicit
    assert found[b"a"].mode == 0o700
    assert b"a/b/c" in found


def test_last_duplicate_wins() -> None:
    found = tree(file(b"f", b"one"), file(b"f", b"two"))
    assert found[b"f"].data == b"two"


def test_replacement_between_types() -> None:
    found = tree(file(b"d/x/y"), file(b"d", b"now a file"))
    assert set(found.inodes) == {b"", b"d"}
    found = tree(file(b"d"), folder(b"d"), file(b"d/x"))
    assert set(found.inodes) == {b"", b"d", b"d/x"}
    found = tree(file(b"d/x"), folder(b"d"), file(b"e/y"), symlink(b"d", b"e"), file(b"d/z"))
    assert set(found.inodes) == {b"", b"d", b"e", b"e/y", b"e/z"}
    found = tree(file(b"d/x"), symlink(b"d", b"e"), folder(b"d"), file(b"d/z"), file(b"d", b""), file(b"e"))
    assert set(found.inodes) == {b"", b"d", b"e"}


def test_replacement_of_a_folder_made_after_the_first() -> None:
    found = tree(file(b"a/x"), file(b"a"), file(b"b/y/z"), file(b"b/y/w"), file(b"b"), file(b"c/q"))
    assert set(found.inodes) == {b"", b"a", b"b", b"c", b"c/q"}


def test_folder_over_folder_merges() -> None:
    found = tree(
        pax({b"SCHILY.xattr.user.a": b"1"}) + folder(b"d"),
        file(b"d/x"),
        pax({b"SCHILY.xattr.user.b": b"2"}) + folder(b"d", mode=b"0000711\0"),
    )
    assert found[b"d"].xattrs == {b"user.a": b"1", b"user.b": b"2"}
    assert found[b"d"].mode == 0o711
    assert b"d/x" in found


@pytest.mark.parametrize(
    ("target", "where"),
    [
        (b"usr/lib", b"usr/lib/x"),
        (b"/usr/lib", b"usr/lib/x"),
        (b"../../usr/lib", b"usr/lib/x"),
        (b"./usr/../usr/lib/", b"usr/lib/x"),
        (b"../../../../etc", b"etc/x"),
        (b"/", b"x"),
        (b"..", b"x"),
    ],
)
def test_symlinks_among_parents_stay_inside(target: bytes, where: bytes) -> None:
    found = tree(symlink(b"lib", target), file(b"lib/x", b"!"))
    assert found[where].data == b"!"
    assert found[b"lib"].kind is Kind.SYMLINK


def test_symlink_chain_and_loop() -> None:
    assert b"real/d/x" in tree(symlink(b"a", b"b/d"), symlink(b"b", b"/real"), file(b"a/x"))
    with pytest.raises(EntryRefused):
        tree(symlink(b"a", b"b"), symlink(b"b", b"a"), file(b"a/x"))


def test_a_file_is_no_parent() -> None:
    with pytest.raises(EntryRefused):
        tree(file(b"a"), file(b"a/x"))
    with pytest.raises(EntryRefused):
        tree(file(b"a"), symlink(b"l", b"a"), file(b"l/x"))


def test_hard_links_share_the_inode_and_set_its_attributes() -> None:
    found = tree(
        file(b"a", b"x", mode=b"0000600\0"), hard_link(b"d/b", b"./a", mode=b"0004755\0", mtime=b"00000000007\0")
    )
    assert found[b"a"] is found[b"d/b"]
    assert found[b"a"].mode == 0o4755
    assert found[b"a"].mtime_ns == 7_000_000_000


def test_hard_link_through_a_symlink_and_to_one() -> None:
    found = tree(file(b"d/a"), symlink(b"s", b"d"), hard_link(b"x", b"s/a"), hard_link(b"y", b"s"))
    assert found[b"x"] is found[b"d/a"]
    assert found[b"y"] is found[b"s"]
    assert found[b"s"].mode == 0o777


def test_hard_link_survives_replacement_of_its_first_name() -> None:
    found = tree(file(b"a", b"old"), hard_link(b"b", b"a"), file(b"a", b"new"))
    assert (found[b"a"].data, found[b"b"].data) == (b"new", b"old")


@pytest.mark.parametrize("target", [b"missing", b"a", b"", b"/", b"."])
def test_hard_link_to_nothing(target: bytes) -> None:
    with pytest.raises(LinkTargetMissing):
        tree(hard_link(b"a", target))


def test_hard_link_out_of_the_root_or_to_a_folder() -> None:
    with pytest.raises(EntryRefused):
        tree(hard_link(b"a", b"../../etc/passwd"))
    with pytest.raises(EntryRefused):
        tree(folder(b"d"), hard_link(b"a", b"d"))
    with pytest.raises(LinkTargetMissing):
        tree(file(b"d/a"), hard_link(b"d", b"d/a"))


def test_whiteouts() -> None:
    found = tree(file(b"d/.wh.gone"), file(b"e/.wh..wh..opq"), file(b".wh..wh.plnk/1.2"), file(b".wh..wh.aufs"))
    assert found[b"d/gone"].kind is Kind.WHITEOUT
    assert found[b"e"].opaque
    assert found[b"e"].implicit
    assert not any(b".wh." in path.rpartition(b"/")[2] for path in found.inodes)


@pytest.mark.parametrize("parts", [(file(b"x", b"1"), file(b".wh.x")), (file(b".wh.x"), file(b"x", b"1"))])
def test_whiteout_beside_a_file(parts: tuple[bytes, ...]) -> None:
    assert tree(*parts)[b"x"].data == b"1"


@pytest.mark.parametrize(
    "parts",
    [
        (folder(b"x"), file(b".wh.x")),
        (file(b".wh.x"), folder(b"x")),
        (file(b".wh.x"), file(b"x/y")),
        (file(b"x/y"), file(b".wh.x")),
    ],
)
def test_whiteout_beside_a_folder_makes_it_opaque(parts: tuple[bytes, ...]) -> None:
    found = tree(*parts)
    assert found[b"x"].kind is Kind.DIRECTORY
    assert found[b"x"].opaque


def test_opaque_stays_when_the_folder_is_named_again() -> None:
    assert tree(folder(b"d"), file(b"d/.wh..wh..opq"), folder(b"d"))[b"d"].opaque


@pytest.mark.parametrize("name", [b".wh.", b".wh..", b".wh...", b"d/.wh..."])
def test_whiteouts_of_nothing(name: bytes) -> None:
    with pytest.raises(EntryRefused):
        tree(file(name))


def test_device_zero_is_a_whiteout() -> None:
    assert tree(header(b"w", b"3"))[b"w"].kind is Kind.WHITEOUT
    found = tree(header(b"null", b"3", device=b"0000001\x000000003\0"), header(b"b", b"4"), header(b"p", b"6"))
    assert (found[b"null"].kind, found[b"null"].rdev) == (Kind.CHARACTER, (1, 3))
    assert found[b"b"].kind is Kind.BLOCK
    assert found[b"p"].kind is Kind.FIFO


def test_device_numbers_that_do_not_fit() -> None:
    with pytest.raises(EntryRefused):
        tree(header(b"d", b"3", device=b"7777777\x000000003\0"))


def test_xattrs_kept_and_dropped() -> None:
    names = [
        b"security.capability", b"user.mime", b"trusted.overlay.redirect", b"trusted.x", b"system.posix_acl_access",
        b"system.other", b"unknown.x", b"user.", b"nodot",
    ]  # fmt: skip
    content = ingest(pax({b"SCHILY.xattr." + name: b"v" for name in names}) + file(b"f") + END)
    assert set(content.tree[b"f"].xattrs) == {b"security.capability", b"user.mime", b"system.posix_acl_access"}
    assert content.dropped_xattrs == 6
    content = ingest(pax({b"SCHILY.xattr.user.x": b"v", b"SCHILY.xattr.security.y": b"v"}) + symlink(b"l", b"t") + END)
    assert set(content.tree[b"l"].xattrs) == {b"security.y"}


def test_xattrs_that_do_not_fit() -> None:
    with pytest.raises(EntryRefused):
        tree(pax({b"SCHILY.xattr.user.x": b"v" * 65537}) + file(b"f"))


@pytest.mark.parametrize("target", [b"", b"t" * 4096])
def test_symlinks_to_nowhere(target: bytes) -> None:
    with pytest.raises(EntryRefused):
        tree(pax({b"linkpath": target}) + symlink(b"l", b""))


def test_metadata_has_a_limit() -> None:
    with pytest.raises(LayerTooLarge):
        ingest(b"".join(file(b"%d" % at, b"x" * 1000) for at in range(20)) + END, limits=LayerLimits(metadata=10_000))


def test_resolve_implicit_takes_attributes_from_below() -> None:
    found = tree(file(b"lib/x", mtime=b"00000000005\0"), file(b"new/d/y", mtime=b"00000000007\0"), file(b"f/x"))
    below = {
        b"": Inode(Kind.DIRECTORY, 0o755, mtime_ns=1),
        b"lib": Inode(Kind.SYMLINK, target=b"usr/../usr/lib"),
        b"usr": Inode(Kind.DIRECTORY),
        b"usr/lib": Inode(Kind.DIRECTORY, 0o750, 3, 4, 99, xattrs={b"user.a": b"b"}),
        b"f": Inode(Kind.FILE, 0o600, 9, 9),
    }
    assert resolve_implicit(found, below.get) == 5
    lib = found[b"lib"]
    assert (lib.mode, lib.uid, lib.gid, lib.mtime_ns, lib.xattrs) == (0o750, 3, 4, 99, {b"user.a": b"b"})
    assert (found[b"f"].mode, found[b"f"].uid) == (0o755, 0)
    assert found[b"new/d"].mtime_ns == 7_000_000_000
    assert not any(inode.implicit for _, inode in found.items())
    assert resolve_implicit(found, below.get) == 0


def test_resolve_implicit_survives_symlink_loops_below() -> None:
    found = tree(file(b"a/x"))
    below = {b"": Inode(Kind.DIRECTORY), b"a": Inode(Kind.SYMLINK, target=b"a")}
    resolve_implicit(found, below.get)
    assert found[b"a"].mode == 0o755
