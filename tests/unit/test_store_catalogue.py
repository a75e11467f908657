"""The catalogue: migrations, transactions, tables, and what a damaged or lost file gives."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from hyperbox.api.errors.store import (
    CatalogueDamaged,
    CatalogueFailed,
    CatalogueLost,
    CatalogueNewer,
    ImageNotFound,
    LayerNotFound,
    SnapshotExists,
    SnapshotNotFound,
)
from hyperbox.store import Catalogue, ImageLayer, Store
from hyperbox.store.schema import MIGRATIONS
from hyperbox.store.tables import EventTable


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    opened = Catalogue(tmp_path / "catalogue.sqlite")
    yield opened
    opened.close()


def test_each_migration_runs_on_the_schema_before_it(tmp_path: Path) -> None:
    path = tmp_path / "db"
    for count in range(len(MIGRATIONS) + 1):
        Catalogue(path, MIGRATIONS[:count]).close()
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (count,)
        connection.close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_failing_migration_leaves_the_schema_before_it(tmp_path: Path) -> None:
    path = tmp_path / "db"
    Catalogue(path).close()
    broken = (*MIGRATIONS, "CREATE TABLE half (a); INSERT INTO nowhere VALUES (1);")
    with pytest.raises(CatalogueFailed):
        Catalogue(path, broken)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        assert connection.execute("SELECT name FROM sqlite_master WHERE name='half'").fetchall() == []
    connection.close()
    Catalogue(path).close()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "db"
    Catalogue(path, (*MIGRATIONS, "CREATE TABLE tomorrow (a);")).close()
    with pytest.raises(CatalogueNewer, match=f"schema {len(MIGRATIONS) + 1}"):
        Catalogue(path)


def test_snapshot_rows(catalogue: Catalogue) -> None:
    snapshots = catalogue.snapshots
    base = snapshots.insert("ns/1/base", kind="committed", labels={"a": "ü"}, extra={"n": [1]}, now=5)
    top = snapshots.insert("ns/2/top", kind="active", parent=base.key, raw=True)
    assert snapshots.get("ns/1/base") == base
    assert snapshots.get_id(top.id) == top
    assert (base.created, base.labels, base.extra) == (5, {"a": "ü"}, {"n": [1]})
    with pytest.raises(SnapshotExists):
        snapshots.insert("ns/2/top", kind="view")
    with pytest.raises(LayerNotFound):
        snapshots.insert("ns/3", kind="view", layer_id="no such layer")
    committed = snapshots.rename(top.key, "ns/2/done", kind="committed", usage_bytes=7, updated=9)
    assert committed == replace(top, key="ns/2/done", kind="committed", usage_bytes=7, updated=9)
    assert snapshots.get(top.key) is None
    with pytest.raises(SnapshotExists):
        snapshots.rename("ns/2/done", base.key)
    with pytest.raises(SnapshotNotFound):
        snapshots.update("absent", kind="view")
    assert snapshots.children(base.key) == ("ns/2/done",)
    assert snapshots.delete("ns/2/done") == committed
    with pytest.raises(SnapshotNotFound):
        snapshots.delete("ns/2/done")
    assert snapshots.list() == [base]
    assert snapshots.insert("ns/2/top", kind="active").id > committed.id, "a number never comes back"


def test_a_transaction_is_all_or_nothing_and_private_until_its_end(catalogue: Catalogue) -> None:
    def fail() -> None:
        with catalogue.transaction():
            catalogue.snapshots.insert("gone", kind="active")
            with catalogue.transaction():
                catalogue.events.add("gone")
            assert catalogue.snapshots.get("gone") is not None
            with ThreadPoolExecutor(1) as other:
                assert other.submit(catalogue.snapshots.get, "gone").result() is None
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert catalogue.snapshots.list() == []
    assert catalogue.events.list() == []


def test_a_refused_row_inside_a_transaction_leaves_the_rest(catalogue: Catalogue) -> None:
    with catalogue.transaction():
        catalogue.snapshots.insert("a", kind="active")
        with pytest.raises(SnapshotExists):
            catalogue.snapshots.insert("a", kind="active")
        catalogue.snapshots.insert("b", kind="active")
    assert [row.key for row in catalogue.snapshots.list()] == ["a", "b"]


def test_many_threads_write_and_read(catalogue: Catalogue) -> None:
    barrier = threading.Barrier(6)

    def work(number: int) -> None:
        barrier.wait()
        for turn in range(10):
            with catalogue.transaction():
                count = int(catalogue.meta.get("count") or 0)
                catalogue.meta.set(count=count + 1)
            catalogue.snapshots.insert(f"{number}/{turn}", kind="active")
            assert catalogue.snapshots.get(f"{number}/{turn}") is not None

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert catalogue.meta.get("count") == "60"
    assert len(catalogue.snapshots.list()) == 60


def test_images(catalogue: Catalogue) -> None:
    images = catalogue.images
    layers = (ImageLayer("sha256:1", reason="no toc", bytes_fetched=3, seconds=0.5), ImageLayer("sha256:2"))
    images.upsert("r/app:1", platform="linux/amd64", manifest_digest="sha256:m", layers=layers, pinned=True, now=1)
    again = images.upsert("r/app:1", platform="linux/amd64", manifest_digest="sha256:m", now=2)
    assert (again.layers, again.pinned, again.first_seen, again.last_used) == (layers, True, 1, 2)
    other = images.upsert("r/app:1", platform="linux/arm64", manifest_digest="sha256:n", now=3)
    assert images.get("r/app:1") == other
    assert images.get("r/app:1", "linux/amd64") == again
    moved = images.upsert("r/app:1", platform="linux/amd64", manifest_digest="sha256:o", now=4)
    assert (moved.layers, moved.first_seen) == ((), 1)
    assert images.list() == [moved, other]
    assert images.delete("r/app:1", "linux/arm64") == 1
    assert images.delete("r/app:1") == 1
    with pytest.raises(ImageNotFound):
        images.delete("r/app:1")
    assert images.get("r/app:1") is None


def test_events_are_a_bounded_ring(catalogue: Catalogue) -> None:
    events = EventTable(catalogue._database, kept=5)
    for number in range(12):
        events.add("tick", {"n": number}, now=number)
    assert [event.data["n"] for event in events.list()] == [7, 8, 9, 10, 11]
    last = events.list(limit=2)
    assert [event.time for event in last] == [10, 11]
    assert events.list(after=last[-1].id) == []


def test_a_closed_catalogue_says_so(catalogue: Catalogue) -> None:
    catalogue.close()
    catalogue.close()
    with pytest.raises(CatalogueFailed):
        catalogue.snapshots.list()
    with pytest.raises(CatalogueFailed):
        catalogue.meta.set(a=1)


def make_store_with_layer(state: Path) -> str:
    with Store.open(state) as store, store.objects.lease("test") as lease:
        digest = lease.put(b"content")
        record = store.layers.add(b"image", {digest: 7}, entries=1, size=7, source="pull", diff_id="sha256:d")
        store.catalogue.snapshots.insert("k", kind="committed", layer_id=record.layer_id)
        return record.layer_id


@pytest.mark.parametrize("harm", ["lost", "garbage", "page"])
def test_a_damaged_or_lost_catalogue_is_named_and_rebuilt_from_the_files(tmp_path: Path, harm: str) -> None:
    state = tmp_path / "state"
    layer_id = make_store_with_layer(state)
    (state / "layers" / f"{'0' * 64}.erofs").write_bytes(b"not what it says")
    path = state / "catalogue.sqlite"
    if harm == "lost":
        path.unlink()
    elif harm == "garbage":
        path.write_bytes(b"garbage" * 1000)
    else:
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(path.stat().st_size - 4096))
    expected = CatalogueLost if harm == "lost" else CatalogueDamaged
    with pytest.raises(expected) as caught:
        Store.open(state)
    assert "--rebuild-catalogue" in caught.value.remedy
    with Store.open(state, rebuild=True) as store:
        [record] = store.layers.list()
        assert (record.layer_id, record.source, record.diff_id) == (layer_id, "rebuilt", None)
        assert store.catalogue.snapshots.list() == []
        assert store.recovered.hashed == 1
        assert store.verify().ok
        with store.objects.lease("pull again") as lease:
            objects = {lease.put(b"content"): 7}
            again = store.layers.add(b"image", objects, entries=1, size=7, source="pull", diff_id="sha256:d")
        assert (again.id, again.source) == (record.id, "pull")
        assert store.layers.by_diff_id("sha256:d") == again
    assert any(name.startswith("0" * 64) for name in os.listdir(state / "quarantine"))
