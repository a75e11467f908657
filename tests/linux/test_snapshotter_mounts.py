"""What the snapshotter mounts, over restarts, lost mounts, many layers, mapped owners and many callers."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from contract.snapshots_client import mount_all, mounted, tree
from hyperbox.api.errors.linux import FeatureMissing, MountFailed
from hyperbox.api.errors.snapshotter import (
    IdMappingInvalid,
    SnapshotDamaged,
    SnapshotExists,
    SnapshotNotFound,
)
from hyperbox.linux import umount
from hyperbox.snapshotter import Kind, Snapshotter
from hyperbox.snapshotter.folders import disk_usage
from hyperbox.snapshotter.model import LABEL_GID_MAPPING, LABEL_MAX_SIZE, LABEL_UID_MAPPING
from hyperbox.store import Store
from linux.snapshotter_place import Place, place_for

pytestmark = pytest.mark.root

BIG = b"0123456789abcdef" * 512
LAYERS = 160
MAPPED = {LABEL_UID_MAPPING: "0:100000:65536", LABEL_GID_MAPPING: "0:200000:65536"}


@pytest.fixture(params=["composed", "vanilla"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with place_for(request.param) as place:
        yield place


@pytest.fixture
def composed() -> Iterator[Place]:
    with place_for("composed") as place:
        yield place


def fill(root: Path) -> None:
    (root / "file").write_bytes(BIG)
    os.chown(root / "file", 10, 20)
    (root / "small").write_bytes(b"small")


def test_everything_is_there_after_a_restart(place: Place) -> None:
    place.layer("base", "", fill)
    place.snapshotter.prepare("active", "base", {"label": "1"})
    with mounted(place.snapshotter.mounts("active"), place.mount) as root:
        (root / "written").write_bytes(b"kept")
    place.snapshotter.view("view", "base")
    before = {s.name: s for s in place.snapshotter.walk()}
    place.restart()
    assert {s.name: s for s in place.snapshotter.walk()} == before
    with mounted(place.snapshotter.mounts("active"), place.mount) as root:
        assert (root / "written").read_bytes() == b"kept"
        assert (root / "file").read_bytes() == BIG
    place.snapshotter.prepare("next")
    assert place.snapshotter.stat("next").id > max(s.id for s in before.values())


def test_relative_folders_become_absolute_in_mounts(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.close()
    monkeypatch.chdir(place.root)
    with Store.open(Path("state")) as store:
        snapshotter = Snapshotter(store, Path("run"), data_path=place.arguments["data_path"])
        assert snapshotter.prepare("first")[0].source.startswith(f"{place.root}/state/")
        snapshotter.commit("base", "first")
        assert f"lowerdir={place.root}/" in ",".join(snapshotter.prepare("second", "base")[0].options)
        snapshotter.close()
    place._open()


def test_mounts_that_a_reboot_took_are_made_again(composed: Place) -> None:
    composed.layer("base", "", fill)
    composed.snapshotter.prepare("active", "base")
    composed.restart()
    for target in composed.mounts():
        umount(target)
    assert not composed.mounts()
    with mounted(composed.snapshotter.mounts("active"), composed.mount) as root:
        assert (root / "file").read_bytes() == BIG


def test_a_layer_that_somebody_unmounted_is_mounted_again(composed: Place) -> None:
    composed.layer("base", "", fill)
    for labels in ({}, MAPPED):
        name = f"active-{len(labels)}"
        composed.snapshotter.prepare(name, "base", labels)
        for target in composed.mounts():
            umount(target)
        with mounted(composed.snapshotter.mounts(name), composed.mount) as root:
            assert (root / "file").read_bytes() == BIG


def test_mounts_of_a_killed_daemon_are_taken_over(composed: Place) -> None:
    composed.layer("base", "", fill)
    options = composed.snapshotter.prepare("active", "base")
    left = composed.mounts()
    assert left
    # What SIGKILL leaves: the store's lock goes with the process, the mounts stay.
    composed.snapshotter._layers._mounted.clear()
    composed.restart()
    assert composed.mounts() == left
    with mounted(options, composed.mount) as root:
        assert (root / "file").read_bytes() == BIG


def test_a_late_engine_gets_an_error_and_never_an_empty_layer(composed: Place) -> None:
    composed.layer("base", "", fill)
    options = composed.snapshotter.prepare("active", "base")
    composed.snapshotter.close()
    composed.mount.mkdir(exist_ok=True)
    with pytest.raises(MountFailed):
        mount_all(options, composed.mount)


def test_a_layer_is_unmounted_with_its_last_snapshot(composed: Place) -> None:
    composed.layer("one", "", fill)
    composed.snapshotter.view("view", "one")
    assert len(composed.mounts()) == 1
    composed.snapshotter.remove("view")
    assert len(composed.mounts()) == 1
    composed.snapshotter.remove("one")
    assert not composed.mounts()
    assert os.listdir(composed.root / "run/l") == []


def test_a_running_container_keeps_its_layers_when_the_daemon_stops(composed: Place) -> None:
    composed.layer("base", "", fill)
    with mounted(composed.snapshotter.prepare("active", "base"), composed.mount) as root:
        composed.snapshotter.close()
        assert not composed.mounts()
        assert (root / "file").read_bytes() == BIG
        (root / "new").write_bytes(BIG)


def test_more_composed_layers_than_fit_into_options(composed: Place) -> None:
    def add(root: Path) -> None:
        (root / f"f{number}").write_bytes(b"%d" % number)

    parent = ""
    for number in range(LAYERS):
        composed.layer(f"l{number}", parent, add, settle=False)
        parent = f"l{number}"
    composed.settle()
    assert all(s.layer for s in composed.snapshotter.walk())
    options = composed.snapshotter.prepare("active", parent)
    assert options[0].type == "bind"
    with mounted(options, composed.mount) as root:
        assert {path.name for path in root.iterdir()} == {f"f{number}" for number in range(LAYERS)}
        (root / "written").touch()
        (root / "f0").unlink()
    composed.restart()
    with mounted(composed.snapshotter.mounts("active"), composed.mount) as root:
        assert (root / "written").exists()
        assert not (root / "f0").exists()
    composed.snapshotter.remove("active")
    assert os.listdir(composed.root / "run/m") == []


@pytest.mark.parametrize("kind", [Kind.ACTIVE, Kind.VIEW])
def test_mapped_owners(place: Place, kind: Kind) -> None:
    place.layer("base", "", fill)
    place.layer("top", "base", lambda root: (root / "more").write_bytes(BIG))
    make = place.snapshotter.prepare if kind is Kind.ACTIVE else place.snapshotter.view
    for parent in ("base", "top"):
        try:
            options = make(f"mapped-{parent}", parent, MAPPED)
        except FeatureMissing as error:
            pytest.skip(error.message)
        assert options[0].type == "bind"
        with mounted(options, place.mount) as root:
            info = (root / "file").stat()
            assert (info.st_uid, info.st_gid) == (100010, 200020)
            assert (root.stat().st_uid, root.stat().st_gid) == (100000, 200000)
            assert (root / "file").read_bytes() == BIG
            if kind is Kind.ACTIVE:
                (root / "small").write_bytes(b"changed")
                assert ((root / "small").stat().st_uid, (root / "small").read_bytes()) == (100000, b"changed")
            else:
                with pytest.raises(OSError, match="Read-only"):
                    (root / "small").write_bytes(b"changed")
        assert [path for path in os.listdir(place.root / "run/m") if "." in path] == []
    with mounted(place.snapshotter.view("plain", "base"), place.mount) as root:
        assert (root / "file").stat().st_uid == 10


def test_mapped_owners_without_parent_and_wrong_mappings(place: Place) -> None:
    with mounted(place.snapshotter.prepare("mapped", "", MAPPED), place.mount) as root:
        assert (root.stat().st_uid, root.stat().st_gid) == (100000, 200000)
    with pytest.raises(IdMappingInvalid):
        place.snapshotter.prepare("wrong", "", {LABEL_UID_MAPPING: "1:2"})
    assert [s.name for s in place.snapshotter.walk()] == ["mapped"]


def test_the_root_has_the_owner_of_the_parents_root(place: Place) -> None:
    place.layer("base", "", lambda root: os.chown(root, 5, 6))
    with mounted(place.snapshotter.prepare("active", "base"), place.mount) as root:
        info = root.stat()
        assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (5, 6, 0o755)


def test_usage(place: Place, request: pytest.FixtureRequest) -> None:
    with mounted(place.snapshotter.prepare("key"), place.mount) as root:
        (root / "file").write_bytes(BIG)
        os.link(root / "file", root / "link")
    active = place.snapshotter.usage("key")
    assert active == disk_usage(place.snapshotter.folders.fs(place.snapshotter.stat("key").id))
    assert (active.inodes, active.size >= len(BIG)) == (2, True)
    place.snapshotter.commit("base", "key")
    place.settle()
    committed = place.snapshotter.usage("base")
    assert place.snapshotter.usage("base") == committed
    assert committed.size >= len(BIG)
    place.snapshotter.view("view", "base")
    assert place.snapshotter.usage("view").size == 0
    with pytest.raises(SnapshotNotFound):
        place.snapshotter.usage("missing")


def test_a_quota_label_changes_nothing(place: Place) -> None:
    with mounted(place.snapshotter.prepare("key", "", {LABEL_MAX_SIZE: "1024"}), place.mount) as root:
        (root / "file").write_bytes(BIG)
    assert place.snapshotter.stat("key").labels == {LABEL_MAX_SIZE: "1024"}


def test_folders_without_a_row_are_swept(place: Place) -> None:
    place.layer("base", "", fill)
    place.snapshotter.prepare("active", "base")
    orphan = place.root / "state/snapshots/999"
    (orphan / "fs/sub").mkdir(parents=True)
    place.restart()
    assert not orphan.exists()
    (orphan / "fs/sub").mkdir(parents=True)
    place.snapshotter.cleanup()
    assert not orphan.exists()
    assert {s.name for s in place.snapshotter.walk()} == {"active", "base"}
    with mounted(place.snapshotter.mounts("active"), place.mount) as root:
        assert (root / "file").read_bytes() == BIG


def test_a_lost_folder_is_named(place: Place) -> None:
    with place.paused():
        place.layer("base", "", fill, settle=False)
        place.snapshotter.folders.remove(place.snapshotter.stat("base").id)
        with pytest.raises(SnapshotDamaged):
            place.snapshotter.prepare("active", "base")
        assert [s.name for s in place.snapshotter.walk()] == ["base"]
        place.snapshotter.remove("base")


def test_a_mount_inside_a_removed_snapshot_is_detached(place: Place) -> None:
    place.snapshotter.prepare("outer")
    place.snapshotter.prepare("inner")
    inside = Path(place.snapshotter.folders.fs(place.snapshotter.stat("outer").id)) / "here"
    inside.mkdir()
    mount_all(place.snapshotter.mounts("inner"), inside)
    place.snapshotter.remove("outer")
    assert not inside.parent.exists()
    assert place.snapshotter.mounts("inner")


def test_many_callers(place: Place) -> None:
    place.layer("base", "", fill)
    won: list[int] = []

    def work(number: int) -> None:
        for turn in range(8):
            name = f"{number}-{turn}"
            place.snapshotter.prepare(name, "base")
            if turn % 2:
                place.snapshotter.commit(f"{name}-c", name)
                place.snapshotter.view(f"{name}-v", f"{name}-c")
                place.snapshotter.remove(f"{name}-v")
                place.snapshotter.remove(f"{name}-c")
            else:
                place.snapshotter.remove(name)
        try:
            place.snapshotter.prepare("contended", "base")
        except SnapshotExists:
            return
        won.append(number)

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(12)))
    place.settle()
    assert len(won) == 1
    assert {s.name for s in place.snapshotter.walk()} == {"base", "contended"}
    place.snapshotter.keeping.sweep()
    place.snapshotter.cleanup()
    folders = {int(name) for name in os.listdir(place.root / "state/snapshots")}
    assert {place.snapshotter.stat("contended").id} <= folders <= {s.id for s in place.snapshotter.walk()}


def test_callers_of_one_layer_share_its_mount(composed: Place) -> None:
    composed.layer("base", "", fill)
    composed.restart()
    barrier = threading.Barrier(8)

    def view(number: int) -> str:
        barrier.wait(10)
        return composed.snapshotter.view(f"v{number}", "base")[0].options[0]

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(view, range(8)))) == 1
    assert len(composed.mounts()) == 1
    with mounted(composed.snapshotter.mounts("v0"), composed.mount) as root:
        assert set(tree(root)) == {"file", "small"}
