"""Vanilla mode: equal files of committed folders become hard links, and nothing else changes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.snapshots_client import mounted
from linux.snapshotter_place import Place, place_for

pytestmark = pytest.mark.root

BIG = b"0123456789abcdef" * 512
WHEN = 1_000_000_000_000_000_001


@pytest.fixture
def place() -> Iterator[Place]:
    with place_for("vanilla") as place:
        yield place


def put(
    path: Path, content: bytes = BIG, mode: int = 0o644, owner: int = 0, when: int = WHEN, note: bytes = b""
) -> None:
    path.write_bytes(content)
    path.chmod(mode)
    os.chown(path, owner, owner)
    if note:
        os.setxattr(path, "user.note", note)
    os.utime(path, ns=(when, when))


def fill(root: Path) -> None:
    (root / "dir").mkdir(exist_ok=True)
    put(root / "dir/same")
    put(root / "dir/tiny", b"tiny")
    put(root / "dir/own-group")
    os.link(root / "dir/own-group", root / "dir/own-group-2")
    os.utime(root / "dir", ns=(WHEN, WHEN))


def inode(place: Place, name: str, path: str) -> os.stat_result:
    return os.stat(f"{place.snapshotter.folders.fs(place.snapshotter.stat(name).id)}/{path}")


def test_equal_files_are_linked_and_folder_times_stay(place: Place) -> None:
    place.layer("one", "", fill)
    before = place.view_tree("one")
    place.layer("two", "", fill)
    assert inode(place, "one", "dir/same").st_ino == inode(place, "two", "dir/same").st_ino
    assert inode(place, "one", "dir/tiny").st_ino != inode(place, "two", "dir/tiny").st_ino
    assert inode(place, "two", "dir/own-group").st_nlink == 2
    assert inode(place, "one", "dir").st_mtime_ns == inode(place, "two", "dir").st_mtime_ns == WHEN
    assert place.view_tree("one") == place.view_tree("two") == before
    assert os.listdir(place.root / f"state/snapshots/{place.snapshotter.stat('two').id}") == ["fs", "work"]


@pytest.mark.parametrize(
    "difference", [{"content": BIG + b"!"}, {"mode": 0o600}, {"owner": 1}, {"when": WHEN + 1}, {"note": b"x"}]
)
def test_any_difference_keeps_them_apart(place: Place, difference: dict[str, Any]) -> None:
    place.layer("one", "", lambda root: put(root / "file"))
    place.layer("two", "", lambda root: put(root / "file", **difference))
    assert inode(place, "one", "file").st_ino != inode(place, "two", "file").st_ino


def test_a_folder_in_use_is_left_alone_until_the_next_start(place: Place) -> None:
    place.layer("one", "", fill)
    with place.paused():
        place.layer("two", "", fill, settle=False)
        options = place.snapshotter.prepare("container", "two")
    with mounted(options, place.mount) as root:
        place.settle()
        assert inode(place, "one", "dir/same").st_ino != inode(place, "two", "dir/same").st_ino
        (root / "dir/same").write_bytes(b"changed")  # copied up: no link is written through
    place.snapshotter.remove("container")
    place.restart()
    place.settle()
    assert inode(place, "one", "dir/same").st_ino == inode(place, "two", "dir/same").st_ino
    with mounted(place.snapshotter.view("v", "two"), place.mount) as root:
        assert (root / "dir/same").read_bytes() == BIG


def test_a_kill_between_rename_and_time_is_mended(place: Place) -> None:
    place.layer("one", "", fill)
    top = Path(place.snapshotter.folders.fs(place.snapshotter.stat("one").id)).parent
    os.utime(top / "fs/dir", ns=(5, 5))
    note = f'{{"folder": "{top}/fs/dir", "atime": {WHEN}, "mtime": {WHEN}}}'
    (top / "linking.json").write_text(note)
    (top / "linking.tmp").touch()
    place.restart()
    assert inode(place, "one", "dir").st_mtime_ns == WHEN
    (top / "linking.json").write_text(note[:20])
    place.restart()
    assert sorted(os.listdir(top)) == ["fs", "work"]


def test_entries_go_with_their_last_folder(place: Place) -> None:
    place.layer("one", "", fill)
    place.layer("two", "", fill)

    def entries() -> int:
        return sum(len(files) for _, _, files in os.walk(place.root / "state/links"))

    assert entries() == 1
    for name, left in (("one", 1), ("two", 0)):
        place.snapshotter.remove(name)
        place.snapshotter.cleanup()
        place.settle()
        assert entries() == left
