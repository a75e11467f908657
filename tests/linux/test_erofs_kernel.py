"""EROFS images of ours, seen by the kernel, by overlayfs and by erofs-utils."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from hyperbox.images.erofs import Reader, build
from hyperbox.images.erofs import _format as fmt
from hyperbox.images.tree import Inode, Kind, Tree
from hyperbox.linux import mount, mount_erofs, umount
from support.layer_trees import SECOND, image_like, trees

pytestmark = pytest.mark.root

if os.geteuid() != 0:
    pytest.skip("mounting needs root", allow_module_level=True)
if "erofs" not in Path("/proc/filesystems").read_text() and not shutil.which("modprobe"):
    pytest.skip("this kernel has no EROFS", allow_module_level=True)

FORMATS = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.CHARACTER: stat.S_IFCHR,
    Kind.WHITEOUT: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
}


def needs(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} (Debian package erofs-utils) is not installed")
    return found


@contextmanager
def mounted(image: bytes, folder: Path) -> Iterator[bytes]:
    """Mount an image and give the mount point; the kernel must take the checksum and everything else."""
    folder.mkdir(exist_ok=True)
    file = folder / "layer.erofs"
    file.write_bytes(image)
    target = folder / "mount"
    target.mkdir(exist_ok=True)
    mount_erofs(file, target)
    try:
        yield os.fsencode(target)
    finally:
        umount(target)


@contextmanager
def overlay(target: Path, options: str) -> Iterator[Path]:
    target.mkdir(exist_ok=True)
    mount("overlay", target, "overlay", data=options)
    try:
        yield target
    finally:
        umount(target)


def walk(root: bytes) -> dict[bytes, os.stat_result]:
    """Path → lstat of everything, descriptor by descriptor so that depth has no limit."""
    found = {b"": os.lstat(root)}
    todo = [b""]
    while todo:
        path = todo.pop()
        with os.scandir(os.path.join(root, path)) as entries:
            for entry in entries:
                here = path + b"/" + entry.name if path else entry.name
                found[here] = entry.stat(follow_symlinks=False)
                assert found[here].st_ino == entry.inode()
                if entry.is_dir(follow_symlinks=False):
                    todo.append(here)
    return found


def expected_xattrs(inode: Inode) -> dict[str, bytes]:
    wanted = {os.fsdecode(name): value for name, value in inode.xattrs.items()}
    if inode.digest is not None:
        name = inode.digest.hex()
        wanted["trusted.overlay.metacopy"] = b""
        wanted["trusted.overlay.redirect"] = f"/{name[:2]}/{name[2:]}".encode()
    if inode.opaque:
        wanted["trusted.overlay.opaque"] = b"y"
    return wanted


def compare(tree: Tree, root: bytes) -> None:
    """Compare every attribute of every inode below `root` with `tree`."""
    seen = walk(root)
    assert set(seen) == set(tree.inodes)
    paths: dict[int, list[bytes]] = {}
    folders = dict.fromkeys((path for path, inode in tree.items() if inode.kind is Kind.DIRECTORY), 2)
    for path, inode in tree.items():
        paths.setdefault(id(inode), []).append(path)
        if path and inode.kind is Kind.DIRECTORY:
            folders[path.rpartition(b"/")[0]] += 1
    numbers: dict[int, int] = {}
    for path, inode in tree.items():
        found, real = seen[path], os.path.join(root, path)
        assert found.st_mode == FORMATS[inode.kind] | inode.mode, path
        assert (found.st_uid, found.st_gid) == (inode.uid, inode.gid)
        assert found.st_mtime_ns == inode.mtime_ns
        assert found.st_nlink == folders.get(path, len(paths[id(inode)]))
        assert numbers.setdefault(found.st_ino, id(inode)) == id(inode)
        assert {
            name: os.getxattr(real, name, follow_symlinks=False) for name in os.listxattr(real, follow_symlinks=False)
        } == (expected_xattrs(inode))
        for absent in ("trusted.overlay.opaque", "user.nothing", "security.capability", "trusted.overlay.redirect"):
            if absent not in expected_xattrs(inode):
                with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
                    os.getxattr(real, absent, follow_symlinks=False)
        if inode.kind is Kind.FILE:
            assert found.st_size == inode.size
            if inode.data is not None:
                assert Path(os.fsdecode(real)).read_bytes() == inode.data
        elif inode.kind is Kind.SYMLINK:
            assert os.readlink(real) == inode.target
        elif inode.kind in (Kind.BLOCK, Kind.CHARACTER, Kind.WHITEOUT):
            assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == inode.rdev
    assert len(numbers) == len(paths)


def short_paths(tree: Tree) -> Tree:
    """Drop what no path from outside can name (the mount point counts towards PATH_MAX)."""
    other = Tree()
    other.inodes = {path: inode for path, inode in tree.inodes.items() if len(path) < 3500}
    return other


@given(trees())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_kernel_sees_the_tree(tmp_path: Path, tree: Tree) -> None:
    tree = short_paths(tree)
    with mounted(build(tree), tmp_path) as root:
        compare(tree, root)


@given(trees())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fsck_and_dump_accept(tmp_path: Path, tree: Tree) -> None:
    fsck, dump = needs("fsck.erofs"), needs("dump.erofs")
    file = tmp_path / "layer.erofs"
    file.write_bytes(build(short_paths(tree)))
    for command in ([fsck, str(file)], [dump, "-s", "-S", str(file)]):
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert b"<E>" not in done.stdout + done.stderr


def test_extracted_by_fsck(tmp_path: Path) -> None:
    fsck = needs("fsck.erofs")
    tree = image_like(3000)
    for inode in tree.inodes.values():
        inode.digest, inode.data = None, inode.data if inode.data is not None else b"d" * (inode.size % 20_000)
        if inode.kind is Kind.FILE:
            inode.size = len(inode.data)
        else:
            inode.data = None
    file = tmp_path / "layer.erofs"
    file.write_bytes(build(tree))
    out = tmp_path / "out"
    subprocess.run([fsck, f"--extract={out}", str(file)], check=True, capture_output=True)
    for path, inode in tree.items():
        if inode.data is not None:
            assert (out / os.fsdecode(path)).read_bytes() == inode.data


def test_kernel_sees_large_attributes(tmp_path: Path) -> None:
    tree = Tree()
    many = {b"user.%04d" % number: b"value %d" % number for number in range(2500)}
    tree.inodes[b"many"] = Inode(Kind.FILE, data=b"m", size=1, xattrs=many)
    tree.inodes[b"same"] = Inode(Kind.FILE, data=b"s", size=1, xattrs=dict(many))
    tree.inodes[b"big"] = Inode(Kind.DIRECTORY, xattrs={b"user.%d" % n: b"b" * 65535 for n in range(3)})
    tree.inodes[b"link"] = Inode(Kind.SYMLINK, target=b"t" * 4095, xattrs={b"trusted.l": b"l" * 9000})
    for length in range(3600, 4096, 31):
        path = b"link%d" % length
        tree.inodes[path] = Inode(Kind.SYMLINK, target=b"t" * 60, xattrs={b"trusted.l": b"l" * length})
        tree.inodes[b"file" + path] = Inode(Kind.FILE, data=b"i" * 900, size=900, xattrs={b"user.l": b"l" * length})
    with mounted(build(tree), tmp_path) as root:
        compare(tree, root)


def test_kernel_sees_acls_and_capabilities(tmp_path: Path) -> None:
    acl = bytes.fromhex("0200000001000700ffffffff02000500e803000004000500ffffffff10000700ffffffff")
    acl += bytes.fromhex("20000500ffffffff")
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    tree = Tree()
    for name in (b"a", b"b"):
        tree.inodes[name] = Inode(Kind.FILE, 0o775, data=b"", xattrs={b"security.capability": capability})
        tree.inodes[b"d" + name] = Inode(
            Kind.DIRECTORY, 0o775, xattrs={b"system.posix_acl_access": acl, b"system.posix_acl_default": acl}
        )
    with mounted(build(tree), tmp_path) as root:
        assert os.getxattr(os.path.join(root, b"b"), "security.capability") == capability
        assert os.getxattr(os.path.join(root, b"da"), "system.posix_acl_access") == acl
        assert os.getxattr(os.path.join(root, b"db"), "system.posix_acl_default") == acl
        assert sorted(os.listxattr(os.path.join(root, b"da"))) == [
            "system.posix_acl_access",
            "system.posix_acl_default",
        ]


def test_kernel_uses_the_name_filter(tmp_path: Path) -> None:
    """A filter that denies just one attribute hides it: so our positions are the kernel's, for each name."""
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if release < (6, 6):
        pytest.skip("the attribute name filter needs kernel 6.6")
    names = [b"user." + b"n" * length for length in (1, 3, 4, 15, 16, 17, 40)]
    names += [b"security.selinux", b"security.ima", b"user.mime_type", b"trusted.md5sum"]
    tree = Tree()
    for number, name in enumerate(names):
        tree.inodes[b"%d" % number] = Inode(Kind.FILE, data=b"", xattrs={name: b"v%d" % number})
    image = bytearray(build(tree))
    low = Reader(bytes(image))._image
    for number, name in enumerate(names):
        nid = low.find(low.raw(low.root), b"%d" % number)
        assert nid is not None
        body = low.raw(nid).body
        assert int.from_bytes(image[body : body + 4], "little") == 0xFFFFFFFF & ~fmt.xattr_filter_bit(name)
        image[body : body + 4] = fmt.xattr_filter_bit(name).to_bytes(4, "little")
    image[1028:1032] = bytes(4)
    image[1028:1032] = fmt.crc32c(bytes(image[1024:4096])).to_bytes(4, "little")
    with mounted(bytes(image), tmp_path) as root:
        for number, name in enumerate(names):
            path = os.path.join(root, b"%d" % number)
            assert os.listxattr(path) == [name.decode()]
            with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
                os.getxattr(path, name)


def test_huge_files_and_links(tmp_path: Path) -> None:
    tree = Tree()
    for bits in (12, 31, 32, 33, 43, 44, 50):
        for off in (-1, 0, 1):
            name = b"%d%+d" % (bits, off)
            digest = hashlib.sha256(name).digest()
            tree.inodes[name] = Inode(Kind.FILE, size=(1 << bits) + off, digest=digest, mtime_ns=-SECOND // 2)
    shared = Inode(Kind.FILE, data=b"s", size=1)
    for number in range(70_000):
        tree.inodes[b"l%d" % number] = shared
    with mounted(build(tree), tmp_path) as root:
        compare(tree, root)
        with open(os.path.join(root, b"50+1"), "rb") as file:
            file.seek((1 << 50) - 100)
            assert file.read() == bytes(101)


def test_directory_of_100_000(tmp_path: Path) -> None:
    tree = Tree()
    tree.inodes[b"d"] = Inode(Kind.DIRECTORY)
    for number in range(100_000):
        digest = hashlib.sha256(b"%d" % number).digest()
        tree.inodes[b"d/%06d" % number] = Inode(Kind.FILE, size=5, digest=digest)
    start = time.perf_counter()
    image = build(tree)
    print(f"100,000 entries in one directory: {time.perf_counter() - start:.2f} s, {len(image)} B")
    with mounted(image, tmp_path) as root:
        with os.scandir(os.path.join(root, b"d")) as entries:
            assert {entry.name for entry in entries} == {b"%06d" % number for number in range(100_000)}
        assert os.path.exists(os.path.join(root, b"d/054321"))
        assert not os.path.exists(os.path.join(root, b"d/05432"))
    reader = Reader(image)
    assert reader.lookup(b"d/099999") == tree[b"d/099999"]


def put_object(objects: Path, content: bytes) -> bytes:
    digest = hashlib.sha256(content).digest()
    name = digest.hex()
    (objects / name[:2]).mkdir(parents=True, exist_ok=True)
    (objects / name[:2] / name[2:]).write_bytes(content)
    return digest


def big(content: bytes, objects: Path, mode: int = 0o644) -> Inode:
    return Inode(Kind.FILE, mode, 7, 8, 123 * SECOND + 5, size=len(content), digest=put_object(objects, content))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as exits:
        yield exits


def composed(tmp_path: Path, stack: ExitStack) -> tuple[Path, Path]:
    """Two layers over objects, writable: return the overlay and its upper folder."""
    objects = tmp_path / "objects"
    objects.mkdir()
    lower, upper = Tree(), Tree()
    lower.inodes.update(
        {
            b"kept": big(b"kept" * 1000, objects),
            b"changed": big(b"old" * 1000, objects),
            b"deleted": big(b"deleted" * 1000, objects),
            b"tiny": Inode(Kind.FILE, data=b"tiny", size=4),
            b"gone": Inode(Kind.DIRECTORY, 0o755),
            b"gone/x": big(b"x" * 2000, objects),
            b"opaque": Inode(Kind.DIRECTORY, 0o755),
            b"opaque/below": big(b"below" * 1000, objects),
            b"opaque/sub": Inode(Kind.DIRECTORY, 0o755),
            b"merged": Inode(Kind.DIRECTORY, 0o700),
            b"merged/below": big(b"merged" * 1000, objects),
            b"merged/hidden": Inode(Kind.SYMLINK, target=b"x"),
        }
    )
    linked = big(b"linked" * 500, objects)
    upper.inodes.update(
        {
            b"changed": big(b"new" * 2000, objects, 0o4755),
            b"deleted": Inode(Kind.WHITEOUT, 0),
            b"gone": Inode(Kind.WHITEOUT, 0),
            b"never": Inode(Kind.CHARACTER, 0, rdev=(0, 0)),
            b"opaque": Inode(Kind.DIRECTORY, 0o755, opaque=True),
            b"opaque/above": linked,
            b"opaque/linked": linked,
            b"merged": Inode(Kind.DIRECTORY, 0o750, uid=70_000),
            b"merged/hidden": Inode(Kind.WHITEOUT, 0),
            b"merged/above": big(b"m" * 3000, objects),
        }
    )
    roots = [stack.enter_context(mounted(build(t), tmp_path / n)) for n, t in (("up", upper), ("low", lower))]
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    options = (
        f"lowerdir={os.fsdecode(roots[0])}:{os.fsdecode(roots[1])}::{objects},"
        f"upperdir={tmp_path}/upper,workdir={tmp_path}/work,"
        "index=off,xino=on,metacopy=on,redirect_dir=on"
    )
    return stack.enter_context(overlay(tmp_path / "merged", options)), tmp_path / "upper"


def test_overlay_reads_objects_and_hides(tmp_path: Path, stack: ExitStack) -> None:
    root, upper = composed(tmp_path, stack)
    assert sorted(os.listdir(root)) == ["changed", "kept", "merged", "opaque", "tiny"]
    assert sorted(os.listdir(root / "opaque")) == ["above", "linked"]
    assert sorted(os.listdir(root / "merged")) == ["above", "below"]
    assert not (root / "opaque/below").exists()
    assert not (root / "gone").exists()
    assert not (root / "merged/hidden").is_symlink()
    assert (root / "kept").read_bytes() == b"kept" * 1000
    assert (root / "changed").read_bytes() == b"new" * 2000
    assert (root / "tiny").read_bytes() == b"tiny"
    assert (root / "merged/below").read_bytes() == b"merged" * 1000
    found = (root / "changed").stat()
    assert found.st_mode & 0o7777 == 0o4755
    assert (found.st_uid, found.st_gid, found.st_mtime_ns, found.st_size) == (7, 8, 123 * SECOND + 5, 6000)
    assert (root / "merged").stat().st_uid == 70_000
    first, second = (root / "opaque/above").stat(), (root / "opaque/linked").stat()
    assert (first.st_ino, first.st_nlink) == (second.st_ino, 2)
    assert os.listxattr(root / "kept") == []
    everything = walk(os.fsencode(root))
    assert len({entry.st_dev for entry in everything.values()}) == 1
    assert len({entry.st_ino for entry in everything.values()}) == len(everything) - 1
    assert list(upper.iterdir()) == []


def test_overlay_writes_over_it(tmp_path: Path, stack: ExitStack) -> None:
    root, upper = composed(tmp_path, stack)
    before = (root / "kept").stat().st_ino
    with open(root / "kept", "ab") as file:
        file.write(b"!")
    assert (root / "kept").read_bytes() == b"kept" * 1000 + b"!"
    assert (root / "kept").stat().st_ino == before
    (root / "gone").mkdir()
    assert list((root / "gone").iterdir()) == []
    os.chmod(root / "changed", 0o600)
    assert (root / "changed").read_bytes() == b"new" * 2000
    os.rename(root / "merged", root / "moved")
    assert (root / "moved/below").read_bytes() == b"merged" * 1000
    (root / "tiny").unlink()
    assert "tiny" not in os.listdir(root)
    assert stat.S_ISCHR(os.lstat(upper / "tiny").st_mode)


def test_missing_object_fails_and_reads_no_zeros(tmp_path: Path, stack: ExitStack) -> None:
    objects = tmp_path / "objects"
    objects.mkdir()
    tree = Tree()
    tree.inodes[b"a"] = Inode(Kind.FILE, size=100, digest=hashlib.sha256(b"never put").digest())
    root = stack.enter_context(mounted(build(tree), tmp_path / "l"))
    options = f"lowerdir={os.fsdecode(root)}::{objects},xino=on,metacopy=on,redirect_dir=on"
    merged = stack.enter_context(overlay(tmp_path / "merged", options))
    with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
        (merged / "a").read_bytes()
