"""Pulling images into a real store from a simulated registry."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperbox.api.errors import HyperBoxError
from hyperbox.api.errors.images import BlobDigestMismatch, DiffIdMismatch
from hyperbox.api.errors.registry import (
    BadReference,
    LayerForeign,
    LayerHeldOff,
    LayerNotOfImage,
    LowerLayersMissing,
    ManifestNotFound,
    PullCancelled,
    PullTimedOut,
)
from hyperbox.images import erofs
from hyperbox.images.manifest import chain_ids
from hyperbox.images.platform import Platform
from hyperbox.images.pull import ImagePuller, PullProgress
from hyperbox.images.registry import RegistryClient, RegistrySettings
from hyperbox.images.stack import merged_lookup
from hyperbox.images.tree import Inode, Kind
from hyperbox.store import Store
from support.registry_simulator import RegistrySimulator, digest

BIG = hashlib.shake_128(b"big").digest(300_000)


def tar(*entries: tuple[str, bytes | None], mode: int = 0o750) -> bytes:
    """Files (with content) and folders (None); no folder is named unless it is an entry."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.mtime = 1_700_000_000
            info.mode, info.type = (mode, tarfile.DIRTYPE) if content is None else (0o644, tarfile.REGTYPE)
            info.size = len(content or b"")
            archive.addfile(info, io.BytesIO(content or b""))
    return buffer.getvalue()


BASE = tar(("etc", None), ("etc/os", b"debian"), ("bin", None), ("bin/tool", BIG))
ALONE = tar(("app", None), ("app/copy", BIG))
BOUND = tar(("etc/extra", b"x" * 3000))


def layer(archive: bytes) -> tuple[bytes, str]:
    return gzip.compress(archive, 1, mtime=0), digest(archive)


class Node:
    """A store, a client and a puller of one registry's images."""

    def __init__(self, tmp_path: Path, registry: RegistrySimulator, **options: Any) -> None:
        self.registry = registry
        self.progress: list[PullProgress] = []
        mirrors = options.pop("mirrors", {})
        self.store = Store.open(tmp_path / "state")
        self.client = RegistryClient(
            RegistrySettings(docker_configs=(), certs_dirs=(), read_seconds=5.0, mirrors=mirrors, attempts=2)
        )
        self.puller = ImagePuller(
            self.store,
            self.client,
            platform=Platform("linux", "amd64"),
            progress=self.progress.append,
            **{"hold_off_seconds": 0.0, **options},
        )

    def close(self) -> None:
        self.puller.close()
        self.client.close()
        self.store.close()

    def add(self, name: str, *archives: bytes, **options: Any) -> tuple[str, str, list[str], list[str]]:
        """Add an image to the registry; return reference, manifest digest, layer digests and chain IDs."""
        layers = [layer(archive) for archive in archives]
        manifest = self.registry.add_image(name, "v1", layers, **options)["digest"]
        chain = list(chain_ids([diff_id for _, diff_id in layers]))
        return f"{self.registry.host}/{name}:v1", manifest, [digest(blob) for blob, _ in layers], chain

    def blob_requests(self) -> int:
        """Requests for layers (the configurations are blobs, too)."""
        return len([path for path in self.registry.paths("/blobs/") if self._is_gzip(path)])

    def _is_gzip(self, path: str) -> bool:
        return self.registry.blobs.get(path.rpartition("/")[2], b"").startswith(b"\x1f\x8b")

    def held_objects(self) -> int:
        return sum(1 for path in (self.store.state / "objects").rglob("*") if path.is_file())


@pytest.fixture
def registry() -> Iterator[RegistrySimulator]:
    with RegistrySimulator() as simulator:
        yield simulator


@pytest.fixture
def node(tmp_path: Path, registry: RegistrySimulator) -> Iterator[Node]:
    node = Node(tmp_path, registry)
    yield node
    node.close()


def test_a_whole_image(node: Node):
    ref, manifest, blobs, chain = node.add("app", BASE, ALONE, BOUND)
    pulled = node.puller.pull(ref)
    assert pulled.image.manifest_digest == manifest
    assert [record.blob_digest for record in pulled.layers] == blobs
    for record, chain_id in zip(pulled.layers, chain, strict=True):
        assert node.store.layers.by_chain_id(chain_id) == record
    # What a layer leaves to those below (the folder `etc`) comes from there, and binds it to them.
    with erofs.Reader(node.store.layers.path(pulled.layers[2])) as image:
        etc = image.lookup(b"etc")
        assert etc is not None
        assert etc.mode == 0o750
    assert [record.diff_id is None for record in pulled.layers] == [False, False, True]
    row = node.store.catalogue.images.get(ref, "linux/amd64")
    assert row is not None
    assert row.manifest_digest == manifest
    assert [(one.state, one.source, one.digest) for one in row.layers] == [("fetched", "pull", b) for b in blobs]
    assert all(one.bytes_fetched == len(node.registry.blobs[one.digest]) for one in row.layers)
    assert {event.state for event in node.progress} >= {"waiting", "fetching", "fetched"}
    assert node.held_objects() == 2  # BIG once, and the 3000 bytes
    other, *_ = node.add("other", tar(("opt", None), ("opt/copy", BIG)))
    node.puller.pull(other)
    row = node.store.catalogue.images.get(other, "linux/amd64")
    assert row is not None
    assert row.layers[0].bytes_deduped == len(BIG)
    assert node.held_objects() == 2


def test_a_second_pull_fetches_nothing_and_keeps_what_is_known(node: Node):
    ref, *_ = node.add("app", BASE, ALONE)
    first = node.puller.pull(ref)
    before = node.store.catalogue.images.get(ref, "linux/amd64")
    count = node.blob_requests()
    assert node.puller.pull(ref).layers[0].layer_id == first.layers[0].layer_id
    assert node.blob_requests() == count
    after = node.store.catalogue.images.get(ref, "linux/amd64")
    assert before is not None
    assert after is not None
    assert after.layers == before.layers


def test_the_first_layer_starts_all(node: Node):
    ref, manifest, blobs, chain = node.add("app", BASE, ALONE, BOUND)
    record = node.puller.ensure(ref, manifest, blobs[0], chain[0], timeout=20)
    assert record.blob_digest == blobs[0]
    for blob, chain_id in zip(blobs, chain, strict=True):
        assert node.puller.ensure(ref, manifest, blob, chain_id, timeout=20).blob_digest == blob
    assert node.blob_requests() == 3
    assert len(node.registry.paths("/manifests/")) == 1
    assert node.puller.ensure("gone.example/x", "unused", blobs[0], chain[0]).layer_id == record.layer_id


def test_callers_share_flights(node: Node):
    first = node.add("one", BASE, ALONE)
    second = node.add("two", BASE, ALONE, BOUND)
    go = threading.Event()
    node.registry.fail("/blobs/", before=lambda: go.wait(5), times=3)
    results: list[str] = []

    def ask(ref: str, manifest: str, blobs: list[str], chain: list[str]) -> None:
        results.append(node.puller.ensure(ref, manifest, blobs[1], chain[1], timeout=20).layer_id)

    threads = [threading.Thread(target=ask, args=image) for image in (first, second, first, second)]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(20)
    assert len(set(results)) == 1
    assert len(results) == 4


def test_layers_without_ties_are_reused_under_another_base(node: Node):
    node.puller.pull(node.add("one", BASE, ALONE)[0])
    count = node.blob_requests()
    other = tar(("etc", None), ("etc/os", b"other"), mode=0o700)
    pulled = node.puller.pull(node.add("two", other, ALONE, BOUND)[0])
    assert node.blob_requests() == count + 2  # ALONE was here
    with erofs.Reader(node.store.layers.path(pulled.layers[2])) as image:
        etc = image.lookup(b"etc")
        assert etc is not None
        assert etc.mode == 0o700
    third = node.puller.pull(node.add("three", BASE, BOUND)[0])
    assert third.layers[1].layer_id != pulled.layers[2].layer_id  # the same blob over another base


def test_layers_below_the_first_wanted_are_left_to_the_engine(node: Node):
    ref, manifest, blobs, chain = node.add("app", BASE, BOUND, ALONE)
    assert node.puller.ensure(ref, manifest, blobs[2], chain[2], timeout=20).blob_digest == blobs[2]
    assert node.blob_requests() == 1
    row = node.store.catalogue.images.get(ref, "linux/amd64")
    assert row is not None
    assert row.layers[0].state == "engine"
    with pytest.raises(LowerLayersMissing):
        node.puller.ensure(ref, manifest, blobs[1], chain[1], timeout=20)
    below = {b"": Inode(Kind.DIRECTORY), b"etc": Inode(Kind.DIRECTORY, 0o711)}
    record = node.puller.ensure(ref, manifest, blobs[1], chain[1], timeout=20, below=below.get)
    with erofs.Reader(node.store.layers.path(record)) as image:
        etc = image.lookup(b"etc")
        assert etc is not None
        assert etc.mode == 0o711


def test_a_failed_layer_fails_alone_and_is_tried_again(tmp_path: Path, registry: RegistrySimulator):
    node = Node(tmp_path, registry, hold_off_seconds=3600)
    ref, manifest, blobs, chain = node.add("app", BASE, ALONE)
    bad, registry.blobs[blobs[0]] = registry.blobs[blobs[0]], layer(BOUND)[0].ljust(len(layer(BASE)[0]), b"\0")
    with pytest.raises(HyperBoxError):
        node.puller.ensure(ref, manifest, blobs[0], chain[0], timeout=20)
    assert node.puller.ensure(ref, manifest, blobs[1], chain[1], timeout=20).blob_digest == blobs[1]
    registry.blobs[blobs[0]] = bad
    with pytest.raises(LayerHeldOff, match="tried again in"):
        node.puller.ensure(ref, manifest, blobs[0], chain[0], timeout=20)
    node.close()
    node = Node(tmp_path, registry)
    assert node.puller.ensure(ref, manifest, blobs[0], chain[0], timeout=20).blob_digest == blobs[0]
    node.close()


def test_wrong_diff_id_is_refused(node: Node):
    blob, _ = layer(BASE)
    manifest = node.registry.add_image("liar", "v1", [(blob, digest(b"other"))])["digest"]
    with pytest.raises(DiffIdMismatch):
        node.puller.ensure(f"{node.registry.host}/liar:v1", manifest, digest(blob), digest(b"other"), timeout=20)
    assert node.store.layers.list() == []


def test_a_mirror_that_lies_is_left_for_the_origin(tmp_path: Path, registry: RegistrySimulator):
    with RegistrySimulator() as mirror:
        node = Node(tmp_path, registry, mirrors={registry.host: (mirror.host,)})
        ref, *_ = node.add("app", BASE, ALONE)
        mirror.manifests = registry.manifests
        mirror.blobs = {name: data[:-9] + b"lies" + data[-5:] for name, data in registry.blobs.items()}
        node.puller.pull(ref)
        assert node.blob_requests() == 2
        node.close()


def test_foreign_layers_are_left_to_the_engine(node: Node):
    foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    ref, manifest, blobs, chain = node.add("windows", BASE, layer_type=foreign)
    with pytest.raises(LayerForeign):
        node.puller.ensure(ref, manifest, blobs[0], chain[0], timeout=20)


def test_labels_that_do_not_fit(node: Node):
    ref, manifest, blobs, _ = node.add("app", BASE)
    with pytest.raises(LayerNotOfImage):
        node.puller.ensure(ref, manifest, blobs[0], digest(b"elsewhere"), timeout=20)
    with pytest.raises(BadReference):
        node.puller.ensure("NOT A NAME", manifest, blobs[0], digest(b"elsewhere"))
    with pytest.raises(ManifestNotFound):
        node.puller.ensure(ref, digest(b"nothing"), blobs[0], digest(b"elsewhere"))


def test_time_out_and_close(tmp_path: Path, registry: RegistrySimulator):
    node = Node(tmp_path, registry)
    ref, manifest, blobs, chain = node.add("app", BASE)
    registry.fail(blobs[0], stall_after=100, times=10)
    with pytest.raises(PullTimedOut):
        node.puller.ensure(ref, manifest, blobs[0], chain[0], timeout=0.05)
    failures: list[HyperBoxError] = []
    asking = threading.Event()

    def ask() -> None:
        asking.set()
        try:
            node.puller.ensure(ref, manifest, blobs[0], chain[0])
        except HyperBoxError as error:
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert asking.wait(5)
    node.puller.close(timeout=4)
    thread.join(4)
    assert isinstance(failures[0], PullCancelled)
    assert node.store.layers.list() == []
    assert list((node.store.state / "ingest").iterdir()) == []
    with pytest.raises(PullCancelled):
        node.puller.ensure(ref, manifest, blobs[0], chain[0])
    node.store.gc(grace=0)
    assert node.held_objects() == 0
    node.close()


def test_broken_transfers_do_not_show(node: Node):
    ref, *_ = node.add("app", BASE, ALONE)
    node.registry.fail("/blobs/", cut_after=100_000)
    node.registry.fail("/blobs/", cut_after=100_000)
    assert len(node.puller.pull(ref).layers) == 2


def test_damaged_blob_names_itself(node: Node):
    plain = tar(("etc", None), ("etc/os", b"debian"))
    blob = plain[:-1] + b"\1"  # the end of a tar is zeros that nobody reads: only the digest can tell
    manifest = node.registry.add_image("app", "v1", [(plain, digest(plain))])["digest"]
    node.registry.blobs[digest(plain)] = blob
    with pytest.raises(BlobDigestMismatch):
        node.puller.ensure(f"{node.registry.host}/app:v1", manifest, digest(plain), digest(plain), timeout=20)


def test_merged_lookup():
    directory, file, hidden = Inode(Kind.DIRECTORY, 0o700), Inode(Kind.FILE), Inode(Kind.WHITEOUT)
    bottom = {b"": directory, b"a": directory, b"a/b": directory, b"a/b/c": file, b"d": directory, b"d/e": file}
    opaque = Inode(Kind.DIRECTORY, opaque=True)
    assert merged_lookup([bottom.get])(b"a/b/c") is file
    for top in ({b"a": hidden}, {b"a": file}, {b"a": opaque}, {b"a": directory, b"a/b": hidden}):
        look = merged_lookup([bottom.get, {b"": directory, **top}.get])
        assert look(b"a/b/c") is None
        assert look(b"a/b") is None
        assert look(b"d/e") is file
    look = merged_lookup([bottom.get, {b"a": directory, b"a/x": file}.get])
    assert look(b"a/b/c") is file
    assert look(b"nothing/here") is None
