"""Objects and leases on the real file system; what GC may take while leases come and go."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperbox.api.errors.store import (
    LeaseReleased,
    ObjectDigestMismatch,
    ObjectSizeMismatch,
    StoreFull,
    StoreLocked,
    StoreUnusable,
    StoreWriteFailed,
)
from hyperbox.store import Store
from hyperbox.store.sidecar import decode_objects, encode_objects
from hyperbox.store.writes import StagedFile, atomic_replace, translate


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "state") as opened:
        yield opened


def test_a_put_object_is_found_read_only_and_once(store: Store) -> None:
    with store.objects.lease("test") as lease:
        digest = lease.put(b"content" * 300)
        inode = store.objects.path(digest).stat().st_ino
        assert lease.put(b"content" * 300) == digest
        assert lease.take(digest, 2100)
    path = store.objects.path(digest)
    assert path.parent.name + path.name == sha(b"content" * 300).hex()
    assert path.read_bytes() == b"content" * 300
    assert (path.stat().st_ino, path.stat().st_mode & 0o777) == (inode, 0o400)
    assert store.objects.has(digest)
    assert store.objects.size(digest) == 2100
    assert not store.objects.has(sha(b"other"))
    assert store.objects.size(sha(b"other")) is None
    assert os.listdir(store.objects.ingest) == []


def test_the_state_folder_is_closed_to_others(store: Store) -> None:
    assert store.state.stat().st_mode & 0o777 == 0o700
    assert len(os.listdir(store.objects.root)) == 256


def test_a_streamed_object_keeps_its_holes(store: Store) -> None:
    size = 3 << 20
    with store.objects.lease("test") as lease, lease.writer(size + 10) as writer:
        writer.write(b"head")
        writer.zeros(size)
        writer.write(memoryview(b"tail"))
        writer.zeros(0)
        writer.zeros(5000)
        digest, length = writer.commit()
    content = b"head" + bytes(size) + b"tail" + bytes(5000)
    assert (digest, length) == (sha(content), len(content))
    assert store.objects.path(digest).read_bytes() == content
    assert store.objects.path(digest).stat().st_blocks * 512 < 1 << 20
    assert store.objects.check(digest)


def test_an_aborted_or_mismatching_writer_leaves_nothing(store: Store) -> None:
    with store.objects.lease("test") as lease:
        with lease.writer() as writer:
            writer.write(b"x" * 2000)
        with lease.writer() as writer:
            writer.write(b"x")
            with pytest.raises(ObjectDigestMismatch):
                writer.commit(expected=sha(b"y"))
    assert os.listdir(store.objects.ingest) == []
    assert not store.objects.has(sha(b"x"))


def test_adopt_links_and_checks_the_size(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"layer file")
    with store.objects.lease("test") as lease:
        with pytest.raises(ObjectSizeMismatch):
            lease.adopt(source, sha(b"layer file"), 3)
        lease.adopt(source, sha(b"layer file"), 10)
        lease.adopt(source, sha(b"layer file"), 10)
    assert store.objects.path(sha(b"layer file")).stat().st_ino == source.stat().st_ino


def test_adopt_copies_over_file_systems_and_hashes_the_copy(store: Store) -> None:
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == store.objects.root.stat().st_dev:
        pytest.skip("no second file system at /dev/shm")
    source = shm / f"hyperbox-test-{os.getpid()}"
    source.write_bytes(b"elsewhere")
    try:
        with store.objects.lease("test") as lease:
            lease.adopt(source, sha(b"elsewhere"), 9)
            with pytest.raises(ObjectDigestMismatch):
                lease.adopt(source, sha(b"other"), 9)
    finally:
        source.unlink()
    assert store.objects.path(sha(b"elsewhere")).read_bytes() == b"elsewhere"
    assert not store.objects.has(sha(b"other"))


def test_a_wrong_claim_never_evicts_a_good_object(store: Store) -> None:
    with store.objects.lease("test") as lease:
        digest = lease.put(b"good")
        with pytest.raises(ObjectSizeMismatch):
            lease.take(digest, 5)
        with pytest.raises(ObjectSizeMismatch):
            lease.put(b"fakes", digest)
    assert store.objects.path(digest).read_bytes() == b"good"


def test_a_short_object_is_moved_aside_and_stored_again(store: Store) -> None:
    with store.objects.lease("test") as lease:
        digest = lease.put(b"good")
        store.objects.path(digest).chmod(0o600)
        store.objects.path(digest).write_bytes(b"go")
        assert not lease.take(digest, 4)
        assert not store.objects.has(digest)
        assert lease.put(b"good") == digest
    assert store.objects.check(digest)
    assert len(os.listdir(store.objects.quarantine_folder)) == 1


def test_gc_spares_what_leases_hold_and_takes_it_afterwards(store: Store) -> None:
    absent = sha(b"late")
    with store.objects.lease("outer") as lease:
        digest = lease.put(b"held")
        assert not lease.take(absent, 4)
        with store.objects.lease("inner") as inner:
            inner.put(b"late")
        assert [one.purpose for one in store.objects.leases()] == ["outer"]
        collected = store.gc(grace=0)
        assert (collected.objects, collected.kept) == (0, {"leased": 2, "young": 0})
    assert store.gc(grace=3600).kept == {"leased": 0, "young": 2}
    dry = store.gc(grace=0, dry_run=True)
    assert store.objects.has(digest)
    collected = store.gc(grace=0)
    assert (dry.objects, dry.freed_bytes) == (2, collected.freed_bytes)
    assert (collected.objects, collected.freed_bytes) == (2, 8192)
    assert not store.objects.has(digest)
    with pytest.raises(LeaseReleased):
        lease.put(b"x")


def test_a_lease_that_ends_during_a_sweep_protects_until_its_end(store: Store) -> None:
    lease = store.objects.lease("ends early")
    digest = lease.put(b"in between")
    with store.objects.sweeping():
        lease.release()
        lease.release()
        assert store.objects.remove(digest, older_than_ns=1 << 62) is None
    assert store.objects.remove(digest, older_than_ns=1 << 62) is not None


def test_an_open_object_outlives_its_removal(store: Store) -> None:
    with store.objects.lease("test") as lease:
        digest = lease.put(b"read me")
    with store.objects.path(digest).open("rb") as file:
        assert store.gc(grace=0).objects == 1
        assert file.read() == b"read me"


def test_strangers_are_told_and_left_alone(store: Store) -> None:
    stranger = store.objects.root / "00" / "not-an-object"
    stranger.write_bytes(b"?")
    assert store.gc(grace=0).strangers == ("00/not-an-object",)
    assert store.verify().strangers == ("00/not-an-object",)
    assert stranger.exists()


def test_many_threads_storing_the_same_things_make_each_once(store: Store) -> None:
    contents = [b"%d" % number * 200 for number in range(40)]
    inodes: set[tuple[bytes, int]] = set()

    def work(_: int) -> None:
        with store.objects.lease("worker") as lease:
            for content in contents:
                digest = lease.put(content)
                inodes.add((digest, store.objects.path(digest).stat().st_ino))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(inodes) == len(contents)
    assert store.verify().objects == len(contents)
    assert os.listdir(store.objects.ingest) == []


def test_collections_racing_with_ingests_lose_nothing(store: Store) -> None:
    stop = threading.Event()

    def collect() -> int:
        rounds = 0
        while not stop.is_set():
            store.gc(grace=0)
            rounds += 1
        return rounds

    def ingest(number: int) -> None:
        for turn in range(6):
            with store.objects.lease("ingest") as lease:
                contents = [b"shared-%d" % turn, b"own-%d-%d" % (number, turn)]
                objects = {lease.put(content): len(content) for content in contents}
                image = b"erofs-%d-%d" % (number, turn)
                record = store.layers.add(image, objects, entries=2, size=9, source="test")
                # Until it is held, a layer without snapshot is GC's; `hold` says whether it came in time.
                if store.layers.hold(lease, record.layer_id):
                    key = f"{number}-{turn}"
                    store.catalogue.snapshots.insert(key, kind="committed", layer_id=record.layer_id)

    with ThreadPoolExecutor(4) as pool:
        collector = pool.submit(collect)
        for future in [pool.submit(ingest, number) for number in range(3)]:
            future.result()
        stop.set()
        assert collector.result() > 0
    found = store.verify()
    assert found.ok, found
    assert found.layers == len(store.catalogue.snapshots.list()) > 0


def test_one_process_per_state_folder(store: Store) -> None:
    with pytest.raises(StoreLocked, match=f"in use by process {os.getpid()}"):
        Store.open(store.state)


def test_unusable_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnusable):
        Store.open(tmp_path / "file")
    state = tmp_path / "state"
    state.mkdir()
    (state / "objects").write_text("in the way")
    with pytest.raises(StoreUnusable):
        Store.open(state)
    (state / "objects").unlink()
    Store.open(state).close()


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, StoreFull), (errno.EDQUOT, StoreFull), (errno.EIO, StoreWriteFailed)]
)
def test_file_system_errors_get_names(number: int, kind: type[Exception]) -> None:
    assert isinstance(translate(OSError(number, os.strerror(number)), "/x"), kind)


def test_atomic_replace_and_staged_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    atomic_replace(target, b"one")
    atomic_replace(target, b"two")
    assert target.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["file"]
    with pytest.raises(StoreWriteFailed):
        atomic_replace(tmp_path / "absent" / "file", b"")
    staged = StagedFile(os.fspath(tmp_path))
    staged.write(b"x")
    with pytest.raises(StoreWriteFailed):
        staged.publish(os.fspath(tmp_path / "absent" / "file"))
    assert os.listdir(tmp_path) == ["file"]


@given(st.dictionaries(st.binary(min_size=32, max_size=32), st.integers(0, 2**64 - 1)))
def test_object_lists_round_trip(objects: dict[bytes, int]) -> None:
    data = encode_objects(objects)
    assert decode_objects(data) == objects
    assert len(data) == 40 * len(objects)


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_foreign_object_lists_are_read_or_refused(data: bytes) -> None:
    try:
        objects = decode_objects(data)
    except ValueError:
        return
    assert encode_objects(objects) == data


def test_print_what_a_look_up_and_a_small_put_cost(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    contents = [os.urandom(2000) for _ in range(3000)]
    digests = [sha(content) for content in contents]
    with store.objects.lease("measure") as lease:
        started = time.perf_counter()
        for content in contents:
            lease.put(content)
        put = time.perf_counter() - started
        started = time.perf_counter()
        found = sum(store.objects.has(digest) for digest in digests)
        has = time.perf_counter() - started
    assert found == len(contents)
    with capsys.disabled():
        each = 1e6 / len(contents)
        print(f"\nstore: has() {has * each:.1f} µs, put() of 2000 new bytes {put * each:.1f} µs")
