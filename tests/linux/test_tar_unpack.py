"""GNU tar as writer and as judge: what it unpacks is what the tree says, for every format that it writes."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from hyperbox.images.ingest import ingest_layer
from hyperbox.images.tree import Inode, Kind, Tree
from hyperbox.images.walk import walk_folder
from support.layer_archives import MemorySink

pytestmark = pytest.mark.root

if os.geteuid() != 0:
    pytest.skip("devices and owners need root", allow_module_level=True)
if shutil.which("tar") is None:
    pytest.skip("GNU tar is not installed", allow_module_level=True)

SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with some of everything."""
    root = tmp_path_factory.mktemp("source")
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/tool").write_bytes(os.urandom(20_000))
    os.chmod(root / "usr/bin/tool", 0o4755)
    os.link(root / "usr/bin/tool", root / "usr/bin/alias")
    os.symlink("usr/bin", root / "bin")
    os.symlink("/etc/nowhere", root / "dangling")
    (root / "empty").touch()
    (root / "large").write_bytes(os.urandom(9 << 20))
    os.chown(root / "large", 1234, 4321)
    os.mkfifo(root / "fifo")
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "loop", stat.S_IFBLK | 0o660, os.makedev(7, 1))
    for name, segments, size in (("sparse", range(0, 3 << 20, 300_000), 4 << 20), ("holes", (), 1 << 20)):
        with open(root / name, "wb") as file:
            for at in segments:
                file.seek(at)
                file.write(b"data" * 10)
            file.truncate(size)
    os.utime(root / "empty", ns=(0, 1_600_000_000 * SECOND))
    (root / "private").mkdir(mode=0o700)
    os.utime(root / "private", ns=(0, 1_234_567_890 * SECOND))
    return root


@pytest.fixture(scope="module")
def rich_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with what only the newer formats can say."""
    root = tmp_path_factory.mktemp("rich") / "source"
    subprocess.run(["cp", "-a", folder, root], check=True)
    long = root / ("n" * 200) / ("m" * 200)
    long.mkdir(parents=True)
    os.symlink("t" * 300, long / "link")
    (long / "file").write_bytes(b"x" * 3000)
    os.link(long / "file", long / "other")
    os.mkdir(os.fsencode(root) + b"/\xff\xfe")
    Path(root, "big owner").touch()
    os.chown(root / "big owner", 3_000_000_000, 4_000_000_000)
    return root


def same(found: Tree, expected: Tree, sink: MemorySink, *, nanoseconds: bool) -> None:
    assert set(found.inodes) == set(expected.inodes)
    groups: dict[int, int] = {}
    for path, want in expected.items():
        have = found[path]
        if path:
            assert describe(have, sink, nanoseconds) == describe(want, sink, nanoseconds), path
        assert groups.setdefault(id(want), id(have)) == id(have), f"hard links of {path!r}"
    assert len(set(groups.values())) == len(groups)


def describe(inode: Inode, sink: MemorySink, nanoseconds: bool) -> tuple[object, ...]:
    mtime = inode.mtime_ns if nanoseconds else inode.mtime_ns // SECOND
    content = sink.content(inode) if inode.kind is Kind.FILE else b""
    return (
        inode.kind, inode.mode, inode.uid, inode.gid, mtime, inode.size,
        inode.target, inode.rdev, inode.xattrs, inode.digest, content,
    )  # fmt: skip


def compare(folder: Path, tmp_path: Path, *options: str, nanoseconds: bool = False) -> None:
    layer, out = tmp_path / "layer.tar", tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "-C", folder, *options, "-cf", layer, "."], check=True)
    extract = ["tar", "-C", out, "-xpf", layer, "--numeric-owner", "--xattrs", "--xattrs-include=*"]
    subprocess.run(extract, check=True, stderr=subprocess.DEVNULL)
    sink = MemorySink()
    content = ingest_layer([layer.read_bytes()], sink)
    same(content.tree, walk_folder(out, sink).tree, sink, nanoseconds=nanoseconds)


@pytest.mark.parametrize("fmt", ["v7", "ustar", "oldgnu", "gnu", "posix"])
def test_formats(folder: Path, tmp_path: Path, fmt: str) -> None:
    devices = ["--exclude=./fifo", "--exclude=./null", "--exclude=./loop"] if fmt == "v7" else []
    compare(folder, tmp_path, f"--format={fmt}", *devices, nanoseconds=fmt == "posix")


@pytest.mark.parametrize("fmt", ["oldgnu", "gnu", "posix"])
def test_long_names_and_big_ids(rich_folder: Path, tmp_path: Path, fmt: str) -> None:
    compare(rich_folder, tmp_path, f"--format={fmt}", nanoseconds=fmt == "posix")


@pytest.mark.parametrize("notation", ["0.0", "0.1", "1.0"])
def test_sparse_notations(rich_folder: Path, tmp_path: Path, notation: str) -> None:
    compare(rich_folder, tmp_path, "--format=posix", "--sparse", f"--sparse-version={notation}", nanoseconds=True)


@pytest.mark.parametrize("fmt", ["oldgnu", "gnu"])
def test_old_sparse_files(rich_folder: Path, tmp_path: Path, fmt: str) -> None:
    compare(rich_folder, tmp_path, f"--format={fmt}", "--sparse")


def test_xattrs_and_early_times(tmp_path: Path) -> None:
    root = tmp_path / "source"
    root.mkdir()
    (root / "f").write_bytes(b"x" * 2000)
    os.setxattr(root / "f", "security.capability", bytes.fromhex("0100000202000000") + bytes(12))
    try:
        os.setxattr(root / "f", "user.mime", b"a=b\n\0c")
    except OSError:
        pytest.skip("this file system has no user xattrs")
    (root / "old").touch()
    os.utime(root / "old", ns=(0, -1_500_000_000))
    compare(root, tmp_path, "--format=posix", "--xattrs", "--xattrs-include=*", nanoseconds=True)


def test_repeated_names_and_changed_types(tmp_path: Path) -> None:
    layer, out = tmp_path / "layer.tar", tmp_path / "out"
    out.mkdir()
    for step in range(3):
        part = tmp_path / f"part{step}"
        (part / "both").mkdir(parents=True)
        (part / f"both/{step}").write_text(f"{step}")
        if step == 1:
            (part / "x").mkdir()
        else:
            (part / "x").write_text(f"{step}")
        subprocess.run(["tar", "-C", part, "-rf", layer, "both", "x"], check=True)
    subprocess.run(["tar", "-C", out, "-xpf", layer, "--recursive-unlink"], check=True)
    sink = MemorySink()
    content = ingest_layer([layer.read_bytes()], sink)
    assert content.tree[b"x"].data == b"2"
    assert {b"both/0", b"both/1", b"both/2"} <= set(content.tree.inodes)
