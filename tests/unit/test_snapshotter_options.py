"""Mount options, ID mappings and what keeps a folder: the pure parts of the snapshotter."""

from __future__ import annotations

import threading

import pytest

from hyperbox.api.errors.snapshotter import IdMappingInvalid
from hyperbox.linux import parse_mountinfo
from hyperbox.snapshotter.idmap import id_mapping
from hyperbox.snapshotter.keeping import names_folder
from hyperbox.snapshotter.model import LABEL_GID_MAPPING, LABEL_TARGET, LABEL_UID_MAPPING, Kind, Snapshot
from hyperbox.snapshotter.observer import Silent
from hyperbox.snapshotter.options import LONGEST, Lower, bind_mount, compose
from hyperbox.snapshotter.worker import Worker

RAW = Lower("/s/1/fs", composed=False)
RAW2 = Lower("/s/2/fs", composed=False)
IMAGE = Lower("/r/l/1", composed=True, objects=True)
TINY = Lower("/r/l/2", composed=True, objects=False)
COMPOSED = ("index=off", "xino=on", "metacopy=on", "redirect_dir=on")


def options(*lowers: Lower, active: bool = True) -> tuple[str, ...] | None:
    overlay = compose(lowers, objects="/o", upper="/u" if active else None, work="/w" if active else None)
    return overlay and overlay.as_mount().options


def test_folders_are_mounted_as_containerds_overlayfs_does() -> None:
    assert options() is None
    assert options(RAW, active=False) is None
    assert options(RAW) == ("workdir=/w", "upperdir=/u", "lowerdir=/s/1/fs", "index=off")
    assert options(RAW, RAW2, active=False) == ("lowerdir=/s/1/fs:/s/2/fs", "index=off")
    assert bind_mount("/s/1/fs", readonly=True).options == ("ro", "rbind")
    assert bind_mount("/s/1/fs", readonly=False).options == ("rw", "rbind")


def test_images_bring_the_objects_below_them() -> None:
    assert options(IMAGE) == ("workdir=/w", "upperdir=/u", "lowerdir=/r/l/1::/o", *COMPOSED)
    assert options(RAW, IMAGE, active=False) == ("lowerdir=/s/1/fs:/r/l/1::/o", *COMPOSED)
    assert options(RAW, TINY) == ("workdir=/w", "upperdir=/u", "lowerdir=/s/1/fs:/r/l/2", *COMPOSED)


def test_a_lone_image_is_mounted_over_the_objects_even_if_it_names_none() -> None:
    assert options(TINY, active=False) == ("lowerdir=/r/l/2::/o", *COMPOSED)


def test_unpacking_gets_only_real_folders_in_lowerdir() -> None:
    overlay = compose([RAW, IMAGE], objects="/o", upper="/u", work="/w")
    assert overlay is not None
    assert overlay.for_unpacking().as_mount().options == (
        "workdir=/w",
        "upperdir=/u",
        "lowerdir=/s/1/fs:/r/l/1",
        *COMPOSED,
    )
    for name, labels, kind, expected in (
        ("ns/1/extract-12-ab sha256:1", {}, Kind.ACTIVE, True),
        ("extract-12-ab sha256:1", {}, Kind.ACTIVE, True),
        ("ns/1/key", {LABEL_TARGET: "sha256:1"}, Kind.ACTIVE, True),
        ("ns/1/sha256:1", {LABEL_TARGET: "sha256:1"}, Kind.COMMITTED, False),
        ("ns/1/container", {}, Kind.ACTIVE, False),
    ):
        assert Snapshot(1, name, "", kind, labels, 0, 0).unpacking is expected


def test_long_or_mapped_overlays_do_not_fit() -> None:
    many = [Lower(f"/state/snapshots/{number}/fs", composed=False) for number in range(LONGEST // 20)]
    overlay = compose(many, objects="/o", upper="/u", work="/w")
    assert overlay is not None
    assert not overlay.fits()
    mapping = id_mapping({LABEL_UID_MAPPING: "0:1000:10", LABEL_GID_MAPPING: "0:2000:10"})
    view = compose([RAW], objects="/o", upper=None, work=None, mapping=mapping)
    assert view is not None
    assert not view.fits()


def test_id_mappings() -> None:
    assert id_mapping({}) is None
    mapping = id_mapping({LABEL_UID_MAPPING: "5:6:7,0:1000:1", LABEL_GID_MAPPING: "0:2000:10"})
    assert mapping is not None
    assert mapping.root == (1000, 2000)
    only_users = id_mapping({LABEL_UID_MAPPING: "0:1000:10"})
    assert only_users is not None
    assert only_users.root == (1000, 0)
    for text in ("1:2:3", "x", "0:1", "0:1:-2"):
        with pytest.raises(IdMappingInvalid):
            id_mapping({LABEL_UID_MAPPING: text})


@pytest.mark.parametrize(
    ("line", "used", "writable"),
    [
        ("/ /m rw - overlay overlay rw,lowerdir=/s/snapshots/7/fs:/r/l/1::/o,upperdir=/s/snapshots/9/fs", True, False),
        ("/ /m rw - overlay overlay rw,lowerdir+=/s/snapshots/7/fs,upperdir=/s/snapshots/9/fs", True, False),
        ("/ /m rw - overlay overlay rw,lowerdir=8/fs:7/fs,upperdir=/s/snapshots/9/fs", True, False),
        ("/ /m rw - overlay overlay rw,lowerdir=/x,upperdir=/s/snapshots/7/fs", True, True),
        ("/var/s/snapshots/7/fs /m rw - ext4 /dev/sda rw", True, True),
        ("/var/s/snapshots/7/fs /m ro - ext4 /dev/sda rw", True, False),
        ("/ /m rw - overlay overlay rw,lowerdir=/s/snapshots/17/fs,upperdir=/s/snapshots/9/fs", False, False),
        ("/var/s/snapshots/17/fs /m rw - ext4 /dev/sda rw", False, False),
        ("/ /m rw - overlay overlay rw,lowerdir=/other/snapshots/7/fs,upperdir=/other/snapshots/7/fs", False, False),
        ("/ /m rw - overlay overlay rw,lowerdir=snapshots/7/fs:snapshots/8/fs,upperdir=/other/7/fs", True, False),
        ("/ /m rw - overlay overlay rw,lowerdir+=/proc/self/fd/9,upperdir=/u", True, False),
        ("/var/other/snapshots/7/fs /m rw - ext4 /dev/sda rw", False, False),
        ("/ /m rw - tmpfs tmpfs rw,lowerdir=/s/snapshots/7/fs", False, False),
    ],
)
def test_mounts_that_name_a_folder(line: str, used: bool, writable: bool) -> None:
    mounts = parse_mountinfo(f"36 35 0:1 {line}\n".encode())
    assert len(mounts) == 1
    assert names_folder(mounts, "/s/snapshots", 7) is used
    assert names_folder(mounts, "/s/snapshots", 7, writable=True) is writable


def test_worker_runs_keyed_jobs_once_in_turn_and_survives_failures() -> None:
    faults: list[str] = []

    class Told(Silent):
        def fault(self, where: str, error: BaseException) -> None:
            faults.append(str(error))

    worker, gate, done = Worker(Told()), threading.Event(), []
    worker.submit("first", lambda: (gate.wait(5), 1 / 0)[0])
    for _ in range(3):
        worker.submit("again", lambda: done.append("again"))
    worker.submit("late", lambda: done.append("late"), delay=3600)
    gate.set()
    assert worker.drain(5)
    assert done == ["again"]
    assert faults == ["division by zero"]
    assert worker.pending() == 1
    worker.close()
    worker.submit("after", lambda: done.append("after"))
    assert worker.pending() == 0
