"""Layers, verify, statistics, collection and the durability check."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperbox.api.errors.store import LayerDamaged, LayerIncomplete, LayerNotFound
from hyperbox.store import ImageLayer, LayerRecord, Progress, Store
from hyperbox.store.recovery import SLACK


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(state: Path) -> Iterator[Store]:
    with Store.open(state) as opened:
        yield opened


def add(store: Store, name: bytes, contents: Collection[bytes], **more: Any) -> LayerRecord:
    with store.objects.lease("add") as lease:
        objects = {lease.put(content): len(content) for content in contents}
        size = sum(objects.values())
        return store.layers.add(b"image " + name, objects, entries=len(objects), size=size, source="test", **more)


def overwrite(path: Path, content: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(content)


def die(store: Store) -> None:
    """Leave the store as a killed process does: no clean-stop marker, no sync."""
    store.catalogue.close()
    store._lock.release()


def checkpoint_here(store: Store) -> None:
    """A checkpoint that draws the line exactly here: the recovery's slack is taken out of it."""
    store.checkpoint()
    probe = store.objects.ingest / "clock"
    probe.touch()
    before = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns == before:  # the kernel stamps files with a clock that ticks coarsely
        probe.touch()
    store.catalogue.meta.set(checkpoint=probe.stat().st_ctime_ns + SLACK)
    probe.unlink()


def test_a_layer_is_found_by_all_its_names(store: Store) -> None:
    record = add(store, b"a", [b"1", b"22"], diff_id="sha256:d", chain_id="sha256:c")
    assert record.layer_id == hashlib.sha256(b"image a").hexdigest()
    assert (record.objects, record.objects_bytes, record.metadata_bytes) == (2, 3, 7)
    assert store.layers.path(record).read_bytes() == b"image a"
    assert store.layers.get(record.layer_id) == store.layers.by_id(record.id) == record
    assert store.layers.by_diff_id("sha256:d") == store.layers.by_chain_id("sha256:c") == record
    assert store.layers.by_diff_id("sha256:c") is None
    with pytest.raises(LayerNotFound):
        store.layers.get("absent")


def test_the_same_layer_again_keeps_its_row_file_and_first_names(store: Store) -> None:
    first = add(store, b"a", [b"1"])
    inode = store.layers.path(first).stat().st_ino
    second = add(store, b"a", [b"1"], diff_id="sha256:d", blob_digest="sha256:b")
    third = add(store, b"a", [b"1"], diff_id="sha256:e")
    assert (second.id, third.id, third.diff_id, third.blob_digest) == (first.id, first.id, "sha256:d", "sha256:b")
    assert store.layers.by_diff_id("sha256:d") == store.layers.by_diff_id("sha256:e") == third
    assert store.layers.path(first).stat().st_ino == inode
    assert os.listdir(store.objects.ingest) == []


def test_an_image_may_come_from_a_file(store: Store, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"image f")
    record = store.layers.add(tmp_path / "image", {}, entries=0, size=0, source="test")
    assert record.layer_id == hashlib.sha256(b"image f").hexdigest()


def test_a_layer_needs_its_objects(store: Store) -> None:
    with pytest.raises(LayerIncomplete, match="names 1 objects"):
        store.layers.add(b"image", {bytes(32): 1}, entries=1, size=1, source="test")
    assert store.layers.list() == []
    assert os.listdir(store.layers.root) == []


def test_statistics_tell_what_sharing_saves(store: Store) -> None:
    record = add(store, b"a", [b"shared" * 1000, b"a"])
    add(store, b"b", [b"shared" * 1000, b"bb"])
    store.catalogue.snapshots.insert("k", kind="committed", layer_id=record.layer_id)
    stats = store.stats(walk=True)
    assert (stats.layers, stats.objects, stats.layer_bytes, stats.object_bytes) == (2, 3, 12003, 6003)
    assert (stats.referenced_bytes, stats.snapshots, stats.dedup_ratio) == (6001, 1, 12003 / 6003)
    assert stats.walked is not None
    assert (stats.walked.objects, stats.walked.apparent, stats.walked.allocated) == (3, 6003, 16384)
    assert store.stats().walked is None


def test_collection_keeps_what_is_referred_to(store: Store) -> None:
    used, pinned, mounted, free = (add(store, name, [b"common", name]) for name in (b"u", b"p", b"m", b"f"))
    store.catalogue.snapshots.insert("k", kind="committed", layer_id=used.layer_id)
    layers = (ImageLayer("sha256:x", layer_id=pinned.layer_id), ImageLayer("sha256:y"))
    store.catalogue.images.upsert("r", platform="p", manifest_digest="m", layers=layers, pinned=True)
    assert store.gc().layers == ()
    dry = store.gc(grace=0, keep_layers={mounted.layer_id}, dry_run=True)
    collected = store.gc(grace=0, keep_layers={mounted.layer_id})
    assert [layer.layer_id for layer in dry.layers] == [layer.layer_id for layer in collected.layers] == [free.layer_id]
    assert dry.objects == collected.objects == 1
    assert {layer.layer_id for layer in store.layers.list()} == {used.layer_id, pinned.layer_id, mounted.layer_id}
    assert not store.layers.path(free).exists()
    assert store.verify().ok
    store.catalogue.snapshots.delete("k")
    store.catalogue.images.delete("r")
    assert store.gc(grace=0).objects == 4
    assert os.listdir(store.layers.root) == []


def test_a_held_layer_stays(store: Store) -> None:
    record = add(store, b"a", [b"1"])
    with store.objects.lease("use") as lease:
        assert store.layers.hold(lease, record.layer_id) == record
        assert store.gc(grace=0).layers == ()
    assert store.gc(grace=0).layers == (record,)
    with store.objects.lease("late") as lease:
        assert store.layers.hold(lease, record.layer_id) is None


def test_files_of_a_layer_without_row_are_collected(store: Store) -> None:
    record = add(store, b"a", [b"1"])
    assert store.catalogue.layers.delete(record.layer_id)
    assert store.gc().objects == 0
    assert store.layers.path(record).exists()
    assert store.gc(grace=0).objects == 1
    assert os.listdir(store.layers.root) == []


def test_verify_moves_damage_aside_and_has_it_repaired(store: Store) -> None:
    contents = [b"one" * 1000, b"two" * 1000, b"three" * 1000]
    record = add(store, b"a", contents)
    add(store, b"b", contents[1:])
    digests = [hashlib.sha256(content).digest() for content in contents]
    overwrite(store.objects.path(digests[0]), b"ONE" * 1000)
    store.objects.path(digests[1]).unlink()
    with store.objects.lease("alone") as lease:
        lease.put(b"alone")
    seen: list[Progress] = []
    found = store.verify(progress=seen.append)
    assert not found.ok
    assert found.damaged == (digests[0],)
    assert found.missing.keys() == {digests[0], digests[1]}
    assert len(found.missing[digests[1]]) == 2
    assert found.unreferenced == 1
    assert seen[-1].objects == found.objects == 3
    assert not store.objects.has(digests[0])

    def repair(missing: Collection[bytes]) -> set[bytes]:
        with store.objects.lease("repair") as lease:
            return {lease.put(content) for content in contents if hashlib.sha256(content).digest() in missing}

    repaired = store.verify(repair=repair)
    assert repaired.ok
    assert set(repaired.repaired) == {digests[0], digests[1]}
    assert store.verify().missing == {}
    assert store.layers.objects_of(record.layer_id).keys() == set(digests)


def test_verify_does_not_believe_a_repair(store: Store) -> None:
    record = add(store, b"a", [b"content"])
    [digest] = store.layers.objects_of(record.layer_id)
    store.objects.path(digest).unlink()
    assert not store.verify(repair=lambda missing: missing).ok


@pytest.mark.parametrize("which", ["erofs", "objects"])
def test_a_damaged_layer_is_moved_aside_and_comes_back_when_added_again(store: Store, which: str) -> None:
    record = add(store, b"a", [b"content"])
    free = add(store, b"free", [b"free"])
    store.catalogue.snapshots.insert("k", kind="committed", layer_id=record.layer_id)
    overwrite(store.layers.root / f"{record.layer_id}.{which}", b"damage")
    overwrite(store.layers.root / f"{free.layer_id}.{which}", b"damage")
    found = store.verify()
    assert found.damaged_layers.keys() == {record.layer_id, free.layer_id}
    assert [layer.layer_id for layer in store.layers.list()] == [record.layer_id]
    collected = store.gc(grace=0)
    if which == "objects":
        with pytest.raises(LayerDamaged):
            store.layers.objects_of(record.layer_id)
        assert collected.blocked_by == (record.layer_id,)
        assert collected.objects == 0
    assert add(store, b"a", [b"content"]).id == record.id
    assert store.verify().ok
    assert store.gc(grace=0).blocked_by == ()


def test_a_wrong_size_in_an_object_list_is_found(store: Store) -> None:
    with store.objects.lease("add") as lease:
        digest = lease.put(b"content")
        store.layers.add(b"image", {digest: 8}, entries=1, size=8, source="test")
    assert store.verify().wrong_size.keys() == {digest}


def test_clean_stops_and_process_deaths_hash_nothing(state: Path) -> None:
    store = Store.open(state, boot_id="boot 1")
    assert store.recovered.reason == "new"
    add(store, b"a", [b"content"])
    (store.objects.ingest / "1.1").write_bytes(b"half")
    die(store)
    with Store.open(state, boot_id="boot 1") as store:
        assert (store.recovered.reason, store.recovered.hashed, store.recovered.leftovers) == ("process death", 0, 1)
    with Store.open(state, boot_id="boot 2") as store:
        assert (store.recovered.reason, store.recovered.hashed) == ("clean stop", 0)


def test_power_loss_hashes_what_is_young_and_tells_what_is_lost(state: Path) -> None:
    store = Store.open(state, boot_id="boot 1")
    old = add(store, b"old", [b"old content"])
    checkpoint_here(store)
    new = add(store, b"new", [b"new content", b"never written", b"zeros" * 100, b"old content"])
    bad = add(store, b"bad", [b"new content"])
    store.catalogue.snapshots.insert("k", kind="committed", layer_id=new.layer_id)
    zeros, absent = hashlib.sha256(b"zeros" * 100).digest(), hashlib.sha256(b"never written").digest()
    store.objects.path(absent).unlink()
    overwrite(store.objects.path(zeros), b"")
    overwrite(store.layers.path(bad), b"")
    die(store)
    store = Store.open(state, boot_id="boot 2")
    found = store.recovered
    assert (found.reason, found.hashed, found.quarantined, found.clean) == ("power loss", 2, (zeros,), False)
    assert found.damaged_layers == (bad.layer_id,)
    assert found.incomplete_layers.keys() == {new.layer_id}
    assert set(found.incomplete_layers[new.layer_id]) == {zeros, absent}
    assert not store.objects.has(zeros)
    assert {record.layer_id for record in store.layers.list()} == {old.layer_id, new.layer_id}
    die(store)
    with Store.open(state, boot_id="boot 2") as store:
        assert set(store.recovered.incomplete_layers[new.layer_id]) == {zeros, absent}, "told again"
        add(store, b"new", [b"new content", b"never written", b"zeros" * 100, b"old content"])
    with Store.open(state, boot_id="boot 2") as store:
        assert store.recovered.clean
        assert store.verify().ok


def test_a_checkpoint_makes_old_what_was_there(state: Path) -> None:
    store = Store.open(state, boot_id="boot 1")
    add(store, b"a", [b"content"])
    first = store.checkpoint()
    assert store.checkpoint() == first + 1
    checkpoint_here(store)
    die(store)
    with Store.open(state, boot_id="boot 2") as store:
        assert (store.recovered.reason, store.recovered.hashed) == ("power loss", 0)
        assert store.recovered.clean


def test_a_clock_that_was_set_back_moves_the_checkpoint_back(state: Path) -> None:
    store = Store.open(state, boot_id="boot 1")
    store.catalogue.meta.set(checkpoint=1 << 62)
    die(store)
    store = Store.open(state, boot_id="boot 1")
    add(store, b"a", [b"content"])
    die(store)
    with Store.open(state, boot_id="boot 2") as store:
        assert store.recovered.hashed == 1
