"""Real mounts on the real kernel, each in its own temporary folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hyperbox.api.errors.base import HyperBoxError
from hyperbox.api.errors.linux import FeatureMissing, MountBusy, MountFailed, NotMounted
from hyperbox.linux import (
    Backing,
    MountFlag,
    UmountFlag,
    bind,
    clone_idmapped,
    ensure_private_folder,
    is_mount_point,
    kernel_version,
    make_private,
    mount,
    mount_erofs,
    mount_overlay,
    mountinfo,
    umount,
)
from hyperbox.linux._overlay import _mount_by_string, _Spec
from hyperbox.linux._tinyerofs import PROBE_CONTENT, PROBE_NAME, tiny_erofs

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in which everything that a test mounted is unmounted again."""
    yield tmp_path
    inside = [entry.target for entry in mountinfo() if Path(entry.target).is_relative_to(tmp_path.resolve())]
    for target in reversed(inside):
        with contextlib.suppress(NotMounted):
            umount(target, UmountFlag.DETACH)
    assert not any(Path(entry.target).is_relative_to(tmp_path.resolve()) for entry in mountinfo())


@pytest.fixture
def image(folder: Path) -> Path:
    path = folder / "layer.erofs"
    path.write_bytes(tiny_erofs())
    return path


def make(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.mkdir()
    return paths


def erofs_or_skip(image: Path, target: Path, backing: Backing) -> None:
    try:
        assert mount_erofs(image, target, backing=backing) == backing
    except HyperBoxError as error:
        pytest.skip(f"no EROFS backed by {backing} here: {error}")


@pytest.mark.parametrize("backing", ["file", "loop"])
def test_erofs_is_mounted_read_only(folder: Path, image: Path, backing: Backing) -> None:
    (target,) = make(folder, "target")
    erofs_or_skip(image, target, backing)
    assert (target / PROBE_NAME).read_bytes() == PROBE_CONTENT
    (entry,) = [entry for entry in mountinfo() if entry.target == str(target)]
    assert entry.fstype == "erofs"
    assert set(entry.options) == {"ro", "relatime"}
    with pytest.raises(OSError, match="Read-only"):
        (target / "new").touch()
    umount(target)
    assert not is_mount_point(target)


def test_loop_device_goes_with_its_mount(folder: Path, image: Path) -> None:
    (target,) = make(folder, "target")
    erofs_or_skip(image, target, "loop")
    (entry,) = [entry for entry in mountinfo() if entry.target == str(target)]
    backing = Path("/sys/block") / Path(entry.source).name / "loop/backing_file"
    assert backing.read_text().strip() == str(image)
    umount(target)
    assert not backing.exists()


def test_erofs_on_an_overlay_takes_the_loop_device(folder: Path) -> None:
    lower, upper, work, merged, target = make(folder, "lower", "upper", "work", "merged", "target")
    mount_overlay(merged, lowers=[lower], upper=upper, work=work)
    (merged / "image").write_bytes(tiny_erofs())
    erofs_or_skip(merged / "image", target, "loop")
    umount(target)
    # One overlay deep is allowed or not, by kernel; what counts is that it is mounted in the end.
    assert mount_erofs(merged / "image", target) in ("file", "loop")
    assert (target / PROBE_NAME).read_bytes() == PROBE_CONTENT


def test_erofs_image_with_a_long_path(folder: Path) -> None:
    deep = folder.joinpath(*["x" * 100] * 3)
    deep.mkdir(parents=True)
    (deep / "image").write_bytes(tiny_erofs())
    (target,) = make(folder, "target")
    mount_erofs(deep / "image", target)
    assert (target / PROBE_NAME).read_bytes() == PROBE_CONTENT


def test_erofs_refuses_what_is_no_image(folder: Path) -> None:
    (target,) = make(folder, "target")
    (folder / "zeros").write_bytes(bytes(8192))
    with pytest.raises(MountFailed, match="not an EROFS image"):
        mount_erofs(folder / "zeros", target)
    with pytest.raises(MountFailed, match="ENOENT"):
        mount_erofs(folder / "none", target)
    assert not is_mount_point(target)


def test_overlay_of_200_layers_with_odd_names(folder: Path) -> None:
    layers = make(folder, *(f"layer {n:03} with a name that is long: enough, to fill \\ a page" for n in range(200)))
    for n, layer in enumerate(layers):
        (layer / f"file-{n}").write_text(str(n))
        (layer / "same").write_text(str(n))
    target, upper, work = make(folder, "target", "up:p,e\\r", "work")
    mount_overlay(target, lowers=layers, upper=upper, work=work, options=["index=off", "redirect_dir=on"])
    assert len(list(target.iterdir())) == 201
    assert (target / "same").read_text() == "0"
    assert (target / "file-199").read_text() == "199"
    (target / "new").touch()
    assert (upper / "new").exists()


def test_overlay_layers_with_long_paths(folder: Path) -> None:
    deep = folder.joinpath(*["x" * 100] * 3)
    lower, upper, work = (deep / name for name in ("lower", "upper", "work"))
    for path in (lower, upper, work):
        path.mkdir(parents=True)
    (lower / "file").write_text("deep")
    (target,) = make(folder, "target")
    mount_overlay(target, lowers=[lower], upper=upper, work=work)
    assert (target / "file").read_text() == "deep"


@pytest.mark.parametrize("count", [3, 200])
def test_overlay_by_one_string_as_on_older_kernels(folder: Path, count: int) -> None:
    layers = make(folder, *(f"layer-{n}-with:a,name" for n in range(count)))
    for n, layer in enumerate(layers):
        (layer / f"file-{n}").touch()
    target, upper, work = make(folder, "target", "up:p,er", "work")
    _mount_by_string(target, _Spec(layers, (), upper, work, ["redirect_dir=on"], readonly=False))
    assert len(list(target.iterdir())) == count


def test_overlay_by_one_string_has_an_end(folder: Path) -> None:
    layers = make(folder, *(f"layer-{n}" for n in range(300)))
    with pytest.raises(FeatureMissing, match="300 layers"):
        _mount_by_string(folder, _Spec(layers, (), None, None, (), readonly=True))


def test_overlay_of_erofs_metadata_and_objects(folder: Path, image: Path) -> None:
    layer, meta, objects, target = make(folder, "layer", "meta", "objects", "target")
    mount_erofs(image, layer)
    (objects / "ab").mkdir()
    (objects / "ab/cd").write_bytes(b"content")
    (meta / "big").write_bytes(bytes(7))
    os.setxattr(meta / "big", "trusted.overlay.metacopy", b"")
    os.setxattr(meta / "big", "trusted.overlay.redirect", b"/ab/cd")
    try:
        mount_overlay(
            target, lowers=[meta, layer], datas=[objects], options=["metacopy=on", "redirect_dir=on"], readonly=True
        )
    except (FeatureMissing, MountFailed) as error:
        pytest.skip(f"no data-only layers: {error}")
    assert (target / "big").read_bytes() == b"content"
    assert (target / PROBE_NAME).read_bytes() == PROBE_CONTENT
    assert not (target / "ab").exists()
    with pytest.raises(OSError, match="Read-only"):
        (target / "new").touch()


def test_overlay_says_what_is_wrong(folder: Path) -> None:
    target, lower = make(folder, "target", "lower")
    with pytest.raises(MountFailed, match=r"nowhere; .*(ENOENT|EINVAL)"):
        mount_overlay(target, lowers=[folder / "nowhere"])
    # Before 6.5 the kernel has no words for it.
    words = "Unknown parameter 'bogus'" if kernel_version() >= (6, 5) else "EINVAL"
    with pytest.raises(MountFailed, match=words):
        mount_overlay(target, lowers=[lower], options=["bogus=on"])
    with pytest.raises(MountFailed):
        mount_overlay(folder / "no-target", lowers=[lower, target])
    assert not is_mount_point(target)


def test_unknown_file_system(folder: Path) -> None:
    with pytest.raises(FeatureMissing, match="nofs"):
        mount("x", folder, "nofs")


def test_umount_says_what_is_wrong(folder: Path) -> None:
    (target,) = make(folder, "target")
    with pytest.raises(NotMounted):
        umount(target)
    with pytest.raises(NotMounted):
        umount(folder / "nowhere")
    mount("none", target, "tmpfs")
    with (target / "held").open("w"), pytest.raises(MountBusy):
        umount(target)
    umount(target)


def test_bind_read_only(folder: Path) -> None:
    source, target = make(folder, "source", "target")
    (source / "file").touch()
    bind(source, target, readonly=True)
    assert (target / "file").exists()
    with pytest.raises(OSError, match="Read-only"):
        (target / "new").touch()
    (source / "new").touch()


def test_bind_of_a_file_is_a_mount_point(folder: Path) -> None:
    (folder / "a b").touch()
    (folder / "link").symlink_to(folder / "a b")
    bind("/etc/hostname", folder / "a b")
    assert is_mount_point(folder / "a b")
    assert not is_mount_point(folder / "link")
    assert not is_mount_point(folder)


def test_private_folder_under_a_shared_one(folder: Path) -> None:
    (shared,) = make(folder, "shared")
    mount("none", shared, "tmpfs")
    mount(None, shared, None, MountFlag.SHARED)
    (inner,) = make(shared, "inner")
    ensure_private_folder(inner)
    ensure_private_folder(inner)
    by_target = {entry.target: entry for entry in mountinfo()}
    assert by_target[str(shared)].shared
    assert not by_target[str(inner)].shared
    assert sum(entry.target == str(inner) for entry in mountinfo()) == 1
    with pytest.raises(NotMounted):
        make_private(folder)


@pytest.mark.parametrize("readonly", [False, True])
def test_clone_idmapped(folder: Path, readonly: bool) -> None:
    source, target = make(folder, "source", "target")
    (source / "file").touch()
    os.chown(source / "file", 5, 6)
    try:
        clone_idmapped(source, target, [(0, 100_000, 65536)], [(0, 200_000, 65536)], readonly=readonly)
    except FeatureMissing as error:
        pytest.skip(str(error))
    status = (target / "file").stat()
    assert (status.st_uid, status.st_gid) == (100_005, 200_006)
    assert (source / "file").stat().st_uid == 5
    assert bool(os.statvfs(target).f_flag & os.ST_RDONLY) is readonly


def test_clone_idmapped_refuses(folder: Path) -> None:
    lower, other, merged, target = make(folder, "lower", "other", "merged", "target")
    mount_overlay(merged, lowers=[lower, other])
    maps = [(0, 100_000, 65536)]
    with pytest.raises(FeatureMissing, match="ID-mapped"):
        clone_idmapped(merged, target, maps, maps)
    with pytest.raises(HyperBoxError, match="user namespace"):
        clone_idmapped(lower, target, [(0, 1, 10), (5, 20, 10)], maps)
    with pytest.raises(MountFailed, match="ENOENT"):
        clone_idmapped(folder / "nowhere", target, maps, maps)


@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
def test_paths_of_all_kinds(folder: Path, kind: Callable[[Path], str | bytes | Path]) -> None:
    (target,) = make(folder, "target")
    mount("none", kind(target), "tmpfs", data="size=1m")
    assert is_mount_point(kind(target))
    umount(kind(target))
