"""Power loss for real: what has reached the disk under an ext4 while the store works is mounted and opened again.

The disk is a file behind a loop device. Copying that file takes just what the file system has written so far: the
page cache of the mounted one is not in it, as with a machine whose plug is pulled.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperbox.store import Store

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a loop device needs root"),
    pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="no mkfs.ext4 (package e2fsprogs)"),
]


@contextlib.contextmanager
def mounted(image: Path, target: Path) -> Iterator[Path]:
    target.mkdir(exist_ok=True)
    # A long commit interval: nothing reaches the disk by itself while the test runs.
    command = ["mount", "-o", "loop,commit=300", os.fspath(image), os.fspath(target)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no loop devices here: {done.stderr.strip()}")
    try:
        yield target
    finally:
        subprocess.run(["umount", os.fspath(target)], check=True)


@pytest.mark.parametrize("seed", range(3))
def test_after_power_loss_no_wrong_byte_is_left_and_each_loss_is_told(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", os.fspath(disk)], check=True)
    with mounted(disk, tmp_path / "before") as folder, Store.open(folder / "state", boot_id="before") as store:
        safe, _ = add(store, dice, 20)
        store.checkpoint()
        doubtful, objects = add(store, dice, 60)
        store.catalogue.snapshots.insert("told", kind="committed", layer_id=doubtful)
        with store.objects.lease("unfinished") as lease:
            loose = [lease.put(dice.randbytes(3000)) for _ in range(20)]
            writer = lease.writer()
            writer.write(dice.randbytes(50_000))
            subprocess.run(["cp", "--sparse=always", os.fspath(disk), os.fspath(copy)], check=True)
            writer.abort()
    with mounted(copy, tmp_path / "after") as folder:
        state = folder / "state"
        there = {path.parent.name + path.name for path in (state / "objects").glob("*/*")}
        broken = {name for name in there if digest_of(state, name) != name}
        with Store.open(state, boot_id="after") as store:
            found = store.recovered
            assert found.reason == "power loss"
            assert {digest.hex() for digest in found.quarantined} == broken
            lost = {digest for digest in objects if digest.hex() not in there - broken}
            assert set(found.incomplete_layers.get(doubtful, ())) == lost
            assert safe not in found.incomplete_layers
            assert found.damaged_layers == ()
            assert {layer.layer_id for layer in store.layers.list()} == {safe, doubtful}
            row = store.catalogue.snapshots.get("told")
            assert row is not None
            assert row.layer_id == doubtful
            assert os.listdir(store.objects.ingest) == []
            checked = store.verify()
            assert checked.damaged == ()
            assert checked.missing.keys() == lost
        print(f"of {len(objects) + len(loose)} unsynced objects {len(broken)} were broken, {len(lost)} of a layer lost")
        assert broken, "the file system kept everything: this test shows nothing"


def add(store: Store, dice: random.Random, count: int) -> tuple[str, dict[bytes, int]]:
    with store.objects.lease("add") as lease:
        contents = [dice.randbytes(dice.randrange(1, 20_000)) for _ in range(count)]
        objects = {lease.put(content): len(content) for content in contents}
        record = store.layers.add(dice.randbytes(5000), objects, entries=count, size=1, source="test")
        return record.layer_id, objects


def digest_of(state: Path, name: str) -> str:
    return hashlib.sha256((state / "objects" / name[:2] / name[2:]).read_bytes()).hexdigest()
