"""A file system that runs out of blocks or inodes: named errors, nothing half-written, and life afterwards."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hyperbox.api.errors.store import StoreFull
from hyperbox.store import Store

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root"),
]


@pytest.fixture(params=["tmpfs", "tmpfs-inodes", "ext4"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=6m", "hyperbox-test", str(folder)]
    elif request.param == "tmpfs-inodes":
        command = ["mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=500", "hyperbox-test", str(folder)]
    else:
        if shutil.which("mkfs.ext4") is None:
            pytest.skip("no mkfs.ext4 (package e2fsprogs)")
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(12 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(image)], check=True)
        command = ["mount", "-o", "loop", str(image), str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(store: Store) -> bytes:
    """Store objects until no more fit; returns the content that did not."""
    with store.objects.lease("fill") as lease:
        for _ in range(100_000):
            content = os.urandom(20_000)
            try:
                lease.put(content)
            except StoreFull:
                return content
    raise AssertionError("it never filled")


def test_a_full_disk_is_named_and_nothing_half_written_is_visible(small: Path) -> None:
    with Store.open(small / "state") as store:
        with store.objects.lease("before") as lease:
            objects = {lease.put(b"content" * 100): 700}
            before = store.layers.add(b"image", objects, entries=1, size=700, source="test")
        store.catalogue.snapshots.insert("k", kind="committed", layer_id=before.layer_id)
        refused = fill(store)
        digest = hashlib.sha256(refused).digest()
        assert not store.objects.has(digest)
        with store.objects.lease("more") as lease:
            with pytest.raises(StoreFull), lease.writer() as writer:
                _pour(writer.write)
            with pytest.raises(StoreFull):
                lease.writer(1 << 40)
            with pytest.raises(StoreFull):
                _add_layers(store)
        assert os.listdir(store.objects.ingest) == []
        found = store.verify()
        assert found.ok, found
        assert found.damaged == ()
        collected = store.gc(grace=0)
        assert collected.objects > 10
        with store.objects.lease("after") as lease:
            assert lease.put(refused) == digest
            store.layers.add(b"another", {digest: len(refused)}, entries=1, size=1, source="test")
        assert store.verify().ok
        assert store.layers.get(before.layer_id) == before
    with Store.open(small / "state") as store:
        assert store.recovered.reason == "clean stop"
        assert store.verify().ok


def _pour(write: Callable[[bytes], object], step: int = 1 << 20) -> None:
    block = os.urandom(step)
    for _ in range((1 << 30) // step):
        write(block)


def _insert_until_full(store: Store) -> int:
    for number in range(10_000):
        try:
            store.catalogue.snapshots.insert(f"k{number}", kind="active", labels={"long": "x" * 3000})
        except StoreFull:
            return number
    raise AssertionError("it never filled")


def _add_layers(store: Store) -> None:
    for number in range(100):
        store.layers.add(os.urandom(1 << 20) + b"%d" % number, {}, entries=1, size=1, source="test")


def test_a_catalogue_without_space_says_so_and_stays_whole(small: Path) -> None:
    with Store.open(small / "state") as store:
        filler = store.state / "filler"
        with filler.open("wb", buffering=0) as file:
            fill(store)
            with pytest.raises(OSError, match="No space"):
                _pour(file.write, 4096)
        written = _insert_until_full(store)
        assert len(store.catalogue.snapshots.list()) == written
        filler.unlink()
        store.gc(grace=0)
        store.catalogue.snapshots.insert("after", kind="active")
        assert len(store.catalogue.snapshots.list()) == written + 1
