"""Compaction on real mounts: what containers see stays the same, and folders go only when nobody can use them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.snapshots_client import mounted, tree
from hyperbox.api.events import COMPACTION_FAILED, LAYER_COMPACTED, Event
from hyperbox.linux import mountinfo
from hyperbox.snapshotter.observer import Silent
from linux.snapshotter_place import Place, place_for

pytestmark = pytest.mark.root

BIG = b"0123456789abcdef" * 512


class Recorder(Silent):
    """Keeps the events."""

    def __init__(self) -> None:
        self.events: list[tuple[Event, dict[str, Any]]] = []

    def event(self, event: Event, **fields: Any) -> None:
        self.events.append((event, fields))


@pytest.fixture
def place() -> Iterator[Place]:
    with place_for("composed") as place:
        yield place


def fill(root: Path) -> None:
    """Everything that a layer can hold and overlayfs can store."""
    (root / "usr").mkdir()
    (root / "usr/big").write_bytes(BIG)
    (root / "usr/big").chmod(0o4755)
    os.link(root / "usr/big", root / "usr/big-link")
    (root / "usr/tiny").write_bytes(b"tiny")
    (root / "usr/empty").touch()
    os.symlink("big", root / "usr/symlink")
    os.mkfifo(root / "usr/fifo")
    os.mknod(root / "usr/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.setxattr(root / "usr/big", "user.note", b"value")
    os.chown(root / "usr/tiny", 12, 34)
    (root / "gone").write_bytes(BIG)
    (root / "cleared").mkdir()
    (root / "cleared/old").write_bytes(BIG)
    (root / "dir").mkdir()
    (root / "dir/inside").write_bytes(BIG + b"inside")
    os.utime(root / "usr/big", ns=(1, 1_000_000_001))


def change(root: Path) -> None:
    """Everything that leaves marks in the upper directory of a composed mount."""
    (root / "gone").unlink()
    (root / "cleared/old").unlink()
    (root / "cleared").rmdir()
    (root / "cleared").mkdir()
    (root / "cleared/new").write_bytes(BIG + b"new")
    os.rename(root / "dir", root / "renamed")  # redirect
    (root / "renamed/added").write_bytes(BIG)
    (root / "usr/tiny").chmod(0o600)
    (root / "usr/big").chmod(0o700)  # metacopy


def test_a_chain_reads_the_same_before_and_after(place: Place) -> None:
    with place.paused():  # a mount that is being made counts as writable, and puts compaction off
        place.layer("base", "", fill, settle=False)
        before = place.view_tree("base")
    place.settle()
    assert place.snapshotter.stat("base").layer is not None
    assert place.view_tree("base") == before

    with mounted(place.snapshotter.prepare("child-a", "base"), place.mount) as root:
        change(root)
        changed = tree(root)
        files = [os.lstat(os.path.join(folder, name)) for folder, _, names in os.walk(root) for name in names]
        assert len({info.st_dev for info in files}) == 1
        assert (root / "usr/big").stat().st_mtime_ns == 1_000_000_001
    place.snapshotter.commit("child", "child-a")
    place.settle()
    assert place.snapshotter.stat("child").layer is not None
    assert place.view_tree("child") == changed
    assert "metacopy=on" in " ".join(place.snapshotter.view("look", "child")[0].options)
    assert place.failures() == {}


def test_marks_over_a_folder_that_is_not_compacted_yet(place: Place) -> None:
    """A raw layer with redirect and metacopy marks is a lower layer itself until its turn comes."""
    place.layer("base", "", fill)
    with mounted(place.snapshotter.prepare("child-a", "base"), place.mount) as root:
        change(root)
        changed = tree(root)
    with place.paused():
        place.snapshotter.commit("child", "child-a")
        assert place.snapshotter.stat("child").layer is None
        assert place.view_tree("child") == changed


def test_equal_files_are_one_object(place: Place) -> None:
    place.layer("one", "", lambda root: [(root / name).write_bytes(BIG) for name in ("a", "b")])
    place.layer("two", "", lambda root: (root / "c").write_bytes(BIG))
    with (
        mounted(place.snapshotter.view("v1", "one"), place.mount) as first,
        mounted(place.snapshotter.view("v2", "two"), place.mount.with_name("m2")) as second,
    ):
        assert (first / "a").read_bytes() == (second / "c").read_bytes() == BIG
    assert place.store.stats(walk=True).objects == 1


def test_the_folder_stays_under_a_mount_that_uses_it(place: Place) -> None:
    with place.paused():
        place.layer("base", "", fill, settle=False)
        folder = Path(place.snapshotter.folders.fs(place.snapshotter.stat("base").id))
        options = place.snapshotter.prepare("container", "base")
        assert str(folder) in " ".join(options[0].options)
    with mounted(options, place.mount) as root:
        before = tree(root)
        place.settle()
        assert place.snapshotter.stat("base").layer is not None
        place.snapshotter.keeping.sweep()
        assert folder.exists()  # handed out
        assert tree(root) == before
        assert str(folder) not in " ".join(place.snapshotter.mounts("container")[0].options)
        place.snapshotter.remove("container")
        place.snapshotter.keeping.sweep()
        assert folder.exists()  # still mounted
        assert (root / "usr/big").read_bytes() == BIG
    place.snapshotter.keeping.sweep()
    assert not folder.exists()
    assert "folder" not in place.snapshotter.stat("base").extra


def test_a_restart_keeps_the_folder_for_those_who_had_it_and_a_reboot_does_not(place: Place) -> None:
    with place.paused():
        place.layer("base", "", fill, settle=False)
        place.snapshotter.prepare("container", "base")
    place.settle()
    folder = Path(place.snapshotter.folders.fs(place.snapshotter.stat("base").id))
    place.restart()
    place.snapshotter.keeping.sweep()
    assert folder.exists()
    extra = place.snapshotter.stat("base").extra["folder"]
    with place.snapshotter.lock:
        machine = place.snapshotter.machine
        place.snapshotter.persist(machine.amend("base", extra={"folder": {**extra, "boot": "another"}}))
    place.snapshotter.keeping.sweep()
    assert not folder.exists()


def test_a_folder_that_can_still_be_written_is_left_alone(place: Place) -> None:
    options = place.snapshotter.prepare("key")
    with mounted(options, place.mount) as root:
        fill(root)
        place.snapshotter.commit("base", "key")
        place.settle()
        assert place.snapshotter.stat("base").layer is None
    place.restart()
    place.settle()
    assert place.snapshotter.stat("base").layer is not None


def test_what_cannot_be_compacted_stays_a_folder_with_the_reason(place: Place) -> None:
    recorder = Recorder()
    place.restart(observer=recorder)

    def nested(root: Path) -> None:
        (root / "file").write_bytes(BIG)
        os.setxattr(root / "file", "trusted.overlay.overlay.opaque", b"y")

    place.layer("base", "", nested)
    snapshot = place.snapshotter.stat("base")
    assert snapshot.layer is None
    assert "HB-" in snapshot.extra["compaction_failed"]
    assert [event for event, _ in recorder.events] == [COMPACTION_FAILED]
    with mounted(place.snapshotter.view("v", "base"), place.mount) as root:
        assert (root / "file").read_bytes() == BIG
    place.layer("sound", "", fill)
    assert [event for event, _ in recorder.events] == [COMPACTION_FAILED, LAYER_COMPACTED]


def test_small_layers_are_not_worth_it(place: Place) -> None:
    place.restart(compaction_minimum=1)
    place.layer("init", "", lambda root: (root / "hosts").write_bytes(b"x" * 100))
    assert place.snapshotter.stat("init").layer is None
    assert place.failures() == {}


def test_garbage_collection_meets_no_half_compacted_layer(place: Place) -> None:
    place.layer("base", "", fill)
    place.store.gc(grace=0)
    with mounted(place.snapshotter.view("v", "base"), place.mount) as root:
        assert (root / "usr/big").read_bytes() == BIG
    place.snapshotter.remove("v")
    place.snapshotter.remove("base")
    collected = place.store.gc(grace=0)
    assert len(collected.layers) == 1
    assert place.store.stats(walk=True).objects == 0


def test_close_leaves_no_mount(place: Place) -> None:
    place.layer("base", "", fill)
    place.snapshotter.prepare("container", "base")
    assert place.mounts()
    place.snapshotter.close()
    place.snapshotter.close()
    assert not place.mounts()
    assert not [entry for entry in mountinfo() if str(place.root) in entry.target]
