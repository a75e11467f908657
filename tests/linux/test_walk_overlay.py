"""Layer folders that a real overlayfs wrote, read back: what the tree says is what the mount showed."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hyperbox.api.errors.images import FolderChanged, FolderNotCompactable, MergedViewNeeded
from hyperbox.images.tree import Inode, Kind, Tree
from hyperbox.images.walk import FolderContent, needs_merged_view, walk_folder
from hyperbox.linux import mount, umount
from hyperbox.store import ObjectStore

pytestmark = pytest.mark.root

if os.geteuid() != 0:
    pytest.skip("mounting needs root", allow_module_level=True)

OPTIONS = "index=off,xino=on,metacopy=on,redirect_dir=on"
BIG = os.urandom(70_000)


@dataclass
class Layers:
    """A lower folder, an upper one, and overlay mounts of them; tmpfs below, where user xattrs may be missing."""

    lower: Path
    upper: Path
    merged: Path
    objects: ObjectStore

    def change(self, work: Callable[[Path], None]) -> None:
        """Do something inside a writable mount."""
        data = f"lowerdir={self.lower},upperdir={self.upper},workdir={self.upper.parent / 'work'},{OPTIONS}"
        mount("overlay", self.merged, "overlay", 0, data)
        try:
            work(self.merged)
        finally:
            umount(self.merged)

    def walk(self, *, view: bool = True) -> FolderContent:
        """Read the upper folder, with a read-only merged view, under a lease that stays open in the store."""
        lease = self.objects.lease("test")
        if not view:
            return walk_folder(self.upper, lease)
        mount("overlay", self.merged, "overlay", 0, f"lowerdir={self.upper}:{self.lower},{OPTIONS}")
        try:
            return walk_folder(self.upper, lease, merged=self.merged)
        finally:
            umount(self.merged)

    def content(self, inode: Inode) -> bytes:
        if inode.data is not None:
            return inode.data
        assert inode.digest is not None
        data = self.objects.path(inode.digest).read_bytes()
        assert hashlib.sha256(data).digest() == inode.digest
        assert len(data) == inode.size
        return data


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[Layers]:
    for name in ("lower", "upper", "work", "merged", "state"):
        (tmp_path / name).mkdir()
    lower = tmp_path / "lower"
    (lower / "keep").write_bytes(b"kept")
    (lower / "dir/sub").mkdir(parents=True)
    (lower / "dir/big").write_bytes(BIG)
    (lower / "dir/sub/small").write_bytes(b"small")
    os.link(lower / "dir/big", lower / "dir/sub/linked")
    os.symlink("../keep", lower / "dir/link")
    os.chown(lower / "dir", 7, 8)
    os.utime(lower / "dir/big", ns=(5, 1_234_567_891_011))
    yield Layers(lower, tmp_path / "upper", tmp_path / "merged", ObjectStore(tmp_path / "state"))
    subprocess.run(["umount", "-q", tmp_path / "merged"], check=False)


def paths(tree: Tree) -> set[str]:
    return {path.decode() for path in tree.inodes}


def test_plain_changes(layers: Layers) -> None:
    def work(root: Path) -> None:
        (root / "new").mkdir()
        (root / "new/big").write_bytes(BIG[::-1])
        (root / "new/tiny").write_bytes(b"tiny")
        (root / "new/empty").touch()
        os.chmod(root / "new/tiny", 0o4711)
        os.utime(root / "new/tiny", ns=(0, 123_456_789))
        os.link(root / "new/big", root / "new/again")
        os.mkfifo(root / "new/fifo")
        os.mknod(root / "new/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.setxattr(root / "new/big", "security.capability", bytes.fromhex("0100000202000000") + bytes(12))
        os.setxattr(root / "new", "trusted.mine", b"x")
        (root / "keep").unlink()
        shutil.rmtree(root / "dir")
        (root / "dir").mkdir()
        (root / "dir/other").write_text("x")

    layers.change(work)
    assert not needs_merged_view(layers.upper)
    content = layers.walk(view=False)
    tree = content.tree
    assert paths(tree) == {
        "", "keep", "dir", "dir/other", "new", "new/big", "new/tiny", "new/empty", "new/again", "new/fifo", "new/null",
    }  # fmt: skip
    assert tree[b"keep"].kind is Kind.WHITEOUT
    assert tree[b"dir"].opaque
    assert not tree[b"new"].opaque or os.getxattr(layers.upper / "new", "trusted.overlay.opaque") == b"y"
    assert tree[b"new"].xattrs == {b"trusted.mine": b"x"}
    assert tree[b"new/big"] is tree[b"new/again"]
    assert set(tree[b"new/big"].xattrs) == {b"security.capability"}
    assert layers.content(tree[b"new/big"]) == BIG[::-1]
    tiny = tree[b"new/tiny"]
    assert (tiny.data, tiny.mode, tiny.mtime_ns) == (b"tiny", 0o4711, 123_456_789)
    assert tree[b"new/empty"].data == b""
    assert (tree[b"new/null"].kind, tree[b"new/null"].rdev) == (Kind.CHARACTER, (1, 3))
    assert (content.new_objects, content.known_objects, content.inline_bytes) == (1, 0, 5)
    digest = tree[b"new/big"].digest
    assert digest is not None
    assert os.path.samefile(layers.objects.path(digest), layers.upper / "new/big")
    assert layers.walk(view=False).known_objects == 1


def test_changed_attributes_of_a_lower_file(layers: Layers) -> None:
    def work(root: Path) -> None:
        os.chown(root / "dir/big", 33, 44)
        os.chmod(root / "dir/sub/small", 0o600)

    layers.change(work)
    if b"metacopy" not in {name.rpartition(".")[2].encode() for name in os.listxattr(layers.upper / "dir/big")}:
        pytest.skip("this overlayfs made no metacopy inode")
    assert needs_merged_view(layers.upper)
    with pytest.raises(MergedViewNeeded):
        layers.walk(view=False)
    tree = layers.walk().tree
    assert paths(tree) == {"", "dir", "dir/big", "dir/sub", "dir/sub/small"}
    big = tree[b"dir/big"]
    assert (big.uid, big.gid, big.mtime_ns, big.xattrs) == (33, 44, 1_234_567_891_011, {})
    assert layers.content(big) == BIG
    assert tree[b"dir/sub/small"].data == b"small"
    assert tree[b"dir/sub/small"].mode == 0o600
    assert (tree[b"dir"].uid, tree[b"dir"].gid) == (7, 8)
    # The object is a copy: the lower layer's file belongs to that layer.
    assert big.digest is not None
    assert not os.path.samefile(layers.objects.path(big.digest), layers.lower / "dir/big")


def test_renamed_lower_folder(layers: Layers) -> None:
    def work(root: Path) -> None:
        os.rename(root / "dir", root / "moved")
        (root / "moved/added").write_bytes(BIG[:5000])
        (root / "moved/link").unlink()
        os.chmod(root / "moved/sub/small", 0o640)
        os.rename(root / "moved/sub", root / "deep")
        (root / "moved/sub").mkdir()
        (root / "moved/sub/fresh").write_text("f")
        os.link(root / "moved/added", root / "outside")

    layers.change(work)
    if not needs_merged_view(layers.upper):
        pytest.skip("this overlayfs made no redirect")
    with pytest.raises(MergedViewNeeded):
        layers.walk(view=False)
    tree = layers.walk().tree
    assert paths(tree) == {
        "", "dir", "moved", "moved/added", "moved/big", "moved/sub", "moved/sub/fresh",
        "deep", "deep/small", "deep/linked", "outside",
    }  # fmt: skip
    assert tree[b"dir"].kind is Kind.WHITEOUT
    assert tree[b"moved"].opaque
    assert tree[b"deep"].opaque
    assert (tree[b"moved"].uid, tree[b"moved"].gid) == (7, 8)
    assert layers.content(tree[b"moved/big"]) == BIG
    assert layers.content(tree[b"deep/linked"]) == BIG
    assert tree[b"deep/small"].data == b"small"
    assert tree[b"deep/small"].mode == 0o640
    assert tree[b"outside"] is tree[b"moved/added"]
    assert tree[b"moved/added"].digest is not None
    assert os.path.samefile(layers.objects.path(tree[b"moved/added"].digest), layers.upper / "moved/added")
    names = {name for inode in tree.inodes.values() for name in inode.xattrs}
    assert not any(name.startswith(b"trusted.overlay.") for name in names)


def test_hard_links_inside_a_moved_folder(layers: Layers) -> None:
    os.link(layers.lower / "dir/big", layers.lower / "dir/twin")
    layers.change(lambda root: os.rename(root / "dir", root / "moved"))
    tree = layers.walk().tree
    assert tree[b"moved/big"] is tree[b"moved/twin"]
    assert tree[b"moved/big"] is tree[b"moved/sub/linked"]


def test_other_forms_of_whiteouts(tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    (layer / "d").mkdir(parents=True)
    (layer / "d/gone").touch()
    os.setxattr(layer / "d", "trusted.overlay.opaque", b"x")
    os.setxattr(layer / "d/gone", "trusted.overlay.whiteout", b"")
    os.setxattr(layer / "d", "trusted.overlay.origin", b"?")
    (tmp_path / "state").mkdir()
    tree = walk_folder(layer, ObjectStore(tmp_path / "state").lease("test")).tree
    assert tree[b"d/gone"].kind is Kind.WHITEOUT
    assert not tree[b"d"].opaque
    assert tree[b"d"].xattrs == {}


def test_an_overlay_inside_the_container_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "layer/d").mkdir(parents=True)
    (tmp_path / "state").mkdir()
    os.setxattr(tmp_path / "layer/d", "trusted.overlay.overlay.opaque", b"y")
    with pytest.raises(FolderNotCompactable):
        walk_folder(tmp_path / "layer", ObjectStore(tmp_path / "state").lease("test"))


def test_sparse_and_large_files(tmp_path: Path) -> None:
    layer, state = tmp_path / "layer", tmp_path / "state"
    layer.mkdir()
    state.mkdir()
    with open(layer / "sparse", "wb") as file:
        file.seek(3 << 20)
        file.write(b"x" * 100)
        file.truncate(9 << 20)
    with open(layer / "hole", "wb") as file:
        file.truncate(5 << 20)
    (layer / "large").write_bytes(BIG * 40)
    objects = ObjectStore(state)
    tree = walk_folder(layer, objects.lease("test"), threads=4).tree
    for name in ("sparse", "hole", "large"):
        assert tree[name.encode()].digest == hashlib.sha256((layer / name).read_bytes()).digest()
    digest = tree[b"sparse"].digest
    assert digest is not None
    assert objects.path(digest).stat().st_blocks * 512 < 1 << 20


def test_names_of_any_bytes_and_missing_folders(tmp_path: Path) -> None:
    layer, state = tmp_path / "layer", tmp_path / "state"
    layer.mkdir()
    state.mkdir()
    odd = os.fsencode(layer) + b"/\xff\xfe \n"
    os.mkdir(odd)
    os.symlink(b"\xff", odd + b"/l")
    tree = walk_folder(layer, ObjectStore(state).lease("test")).tree
    assert tree[b"\xff\xfe \n/l"].target == b"\xff"
    with pytest.raises((FolderChanged, FileNotFoundError)):
        walk_folder(tmp_path / "missing", ObjectStore(state).lease("test"))


def test_a_folder_that_changes_is_noticed(tmp_path: Path) -> None:
    layer, state = tmp_path / "layer", tmp_path / "state"
    layer.mkdir()
    state.mkdir()
    (layer / "f").write_bytes(BIG)

    class Meddler:
        """A lease whose owner's folder is written by somebody else meanwhile."""

        def __init__(self) -> None:
            self._lease = ObjectStore(state).lease("test")
            self.put, self.writer, self.adopt = self._lease.put, self._lease.writer, self._lease.adopt

        def take(self, digest: bytes, size: int) -> bool:
            with open(layer / "f", "ab") as file:
                file.write(b"more")
            return True

    with pytest.raises(FolderChanged):
        walk_folder(layer, Meddler())


def test_a_real_tree(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    objects = ObjectStore(tmp_path / "state")
    folder = Path(shutil.copytree(os.path.dirname(os.__file__) + "/json", tmp_path / "json"))
    content = walk_folder(folder, objects.lease("test"))
    for where, _, names in os.walk(folder):
        for name in names:
            full = Path(where, name)
            inode = content.tree[os.fsencode(full.relative_to(folder))]
            info = full.stat()
            assert (inode.mode, inode.mtime_ns, inode.size) == (
                stat.S_IMODE(info.st_mode),
                info.st_mtime_ns,
                info.st_size,
            )
            data = inode.data if inode.data is not None else objects.path(inode.digest or b"").read_bytes()
            assert data == full.read_bytes()
