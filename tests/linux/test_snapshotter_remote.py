"""Layers that HyperBox provides: the remote snapshotter contract, over the socket, with every way to fail."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from contract.snapshots_client import Snapshots, mounted
from hyperbox.api.errors.snapshotter import LayerNotProvided
from hyperbox.images import erofs
from hyperbox.images.tree import Inode, Kind, Tree
from hyperbox.snapshotter import LayerRequest, SnapshotterServer
from hyperbox.snapshotter.model import LABEL_TARGET
from hyperbox.snapshotter.proto import snapshots_pb2 as pb
from hyperbox.snapshotter.remote import LABEL_IMAGE, LABEL_LAYER, LABEL_LAYERS, LABEL_MANIFEST
from hyperbox.store import LayerRecord, Store
from linux.snapshotter_place import Place, place_for

pytestmark = pytest.mark.root

BIG = b"0123456789abcdef" * 512


class Provider:
    """Makes the layer of any request itself: one file, named after the blob. `before` may wait or raise."""

    def __init__(self) -> None:
        self.store: Store | None = None
        self.requests: list[LayerRequest] = []
        self.heard: list[LayerRequest] = []
        self.before: Callable[[], object] = lambda: None

    def ensure(self, request: LayerRequest) -> LayerRecord:
        self.requests.append(request)
        self.before()
        assert self.store is not None
        tree, content = Tree(), BIG + request.layer.encode()
        with self.store.objects.lease("test") as lease:
            digest = lease.put(content)
            tree.inodes[request.layer.encode()] = Inode(Kind.FILE, size=len(content), digest=digest)
            tree.inodes[b""].implicit = False
            return self.store.layers.add(
                erofs.build(tree), tree.objects(), entries=2, size=len(content), source="pull", chain_id=request.target
            )

    def here(self, request: LayerRequest) -> None:
        self.heard.append(request)


class Served:
    """A place behind a socket."""

    def __init__(self, place: Place, provider: Provider, server: SnapshotterServer, client: Snapshots) -> None:
        self.place, self.provider, self.server, self.client = place, provider, server, client


@contextlib.contextmanager
def serve(**arguments: object) -> Iterator[Served]:
    provider = Provider()
    with place_for("composed", provider=provider, compaction=False, **arguments) as place:
        provider.store = place.store
        server = SnapshotterServer(place.snapshotter, place.root / "run/s.sock")
        server.start()
        client = Snapshots(place.root / "run/s.sock")
        try:
            yield Served(place, provider, server, client)
        finally:
            client.close()
            server.stop(1)


@pytest.fixture
def served() -> Iterator[Served]:
    with serve() as served:
        yield served


def labels(number: int, image: str = "image") -> dict[str, str]:
    return {
        LABEL_TARGET: f"chain-{number}",
        LABEL_IMAGE: image,
        LABEL_MANIFEST: "manifest",
        LABEL_LAYER: f"blob-{number}",
        LABEL_LAYERS: f"blob-{number},blob-{number + 1}",
    }


def provided(client: Snapshots, number: int, parent: str = "", namespace: str = "ns") -> pb.Info:
    """Prepare as containerd does, and look up as its metadata store does what has come of it."""
    key = f"{namespace}/{100 + number}/extract-1 chain-{number}"
    with pytest.raises(grpc.RpcError) as caught:
        client.prepare(key, parent, labels(number))
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    found = client.walk(f'labels."{LABEL_TARGET}"==chain-{number},parent=="{parent}"')
    assert [info.kind for info in found] == [pb.COMMITTED]
    return found[0]


def test_a_chain_is_provided_and_runs(served: Served) -> None:
    first = provided(served.client, 1)
    assert first.name == "ns/101/chain-1"
    assert first.labels == labels(1)
    second = provided(served.client, 2, first.name)
    request = served.provider.requests[1]
    assert (request.image, request.manifest, request.layer) == ("image", "manifest", "blob-2")
    assert request.layers == ("blob-2", "blob-3")
    assert [(below.chain_id, below.layer is not None) for below in request.below] == [("chain-1", True)]
    with mounted(served.client.prepare("ns/9/container", second.name), served.place.mount) as root:
        assert (root / "blob-1").read_bytes() == BIG + b"blob-1"
        assert (root / "blob-2").read_bytes() == BIG + b"blob-2"
        (root / "blob-1").unlink()
    assert served.client.usage(first.name).size > len(BIG)


def test_another_namespace_shares_the_layer_without_a_fetch(served: Served) -> None:
    first = provided(served.client, 1, namespace="one")
    assert provided(served.client, 1, namespace="two").name == first.name
    assert [request.namespace for request in served.provider.requests] == ["one"]
    assert [request.namespace for request in served.provider.heard] == ["one", "two"]


def test_the_same_layer_on_another_parent_is_another_snapshot(served: Served) -> None:
    base = provided(served.client, 1)
    alone, above = provided(served.client, 2), provided(served.client, 2, base.name)
    assert alone.name != above.name
    assert (alone.parent, above.parent) == ("", base.name)


def test_concurrent_prepares_of_one_target_make_one_snapshot(served: Served) -> None:
    barrier = threading.Barrier(6)
    served.provider.before = lambda: time.sleep(0.2)

    def ask(number: int) -> str:
        barrier.wait(10)
        return provided(served.client, 1, namespace=f"n{number}").name

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(ask, range(6)))) == 1
    assert len(served.provider.requests) == 1
    assert len(served.client.walk()) == 1


def test_a_taken_key_is_told_before_anything_is_fetched(served: Served) -> None:
    served.client.prepare("key")
    with pytest.raises(grpc.RpcError) as caught:
        served.client.prepare("key", "", labels(1))
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert served.provider.requests == []
    with pytest.raises(grpc.RpcError) as caught:
        served.client.prepare("other", "no parent", labels(1))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    "error", [LayerNotProvided(layer="x", reason="registry down"), RuntimeError("bug"), TimeoutError()]
)
def test_a_failure_leaves_the_layer_to_the_engine_with_the_reason(served: Served, error: Exception) -> None:
    def fail() -> None:
        raise error

    served.provider.before = fail
    with mounted(served.client.prepare("ns/1/extract-1 chain-1", "", labels(1)), served.place.mount) as root:
        (root / "unpacked").write_bytes(BIG)
    served.client.commit("ns/2/chain-1", "ns/1/extract-1 chain-1", labels(1))
    declined = served.place.snapshotter.stat("ns/2/chain-1").extra["declined"]
    assert declined["code"] == LayerNotProvided.code
    assert str(error.args[0] if error.args else type(error).__name__) in declined["reason"]
    # Unpacked by the engine, it is now as good as provided.
    assert provided(served.client, 1, namespace="other").name == "ns/2/chain-1"


def test_labels_that_do_not_name_an_image_are_an_ordinary_prepare(served: Served) -> None:
    assert served.client.prepare("key", "", {LABEL_TARGET: "chain-1"})
    assert served.provider.requests == []


def test_a_slow_layer_is_left_to_the_engine_in_time() -> None:
    gate = threading.Event()
    with serve(remote_timeout=0.6) as served:
        served.provider.before = lambda: gate.wait(30)
        assert served.client.prepare("key", "", labels(1))
        assert "0.6 s" in served.place.snapshotter.stat("key").extra["declined"]["reason"]
        gate.set()


def test_waiting_prepares_do_not_hold_up_other_calls(served: Served) -> None:
    gate, began = threading.Event(), threading.Semaphore(0)
    served.provider.before = lambda: (began.release(), gate.wait(30))
    with ThreadPoolExecutor(80) as pool:
        waiting = [pool.submit(served.client.prepare, f"wait-{n}", "", labels(n)) for n in range(80)]
        for _ in range(64):
            assert began.acquire(timeout=10)
        # Those over the limit of waiting calls are ordinary at once.
        while len(served.client.walk()) < 16:
            time.sleep(0.01)
        started = time.monotonic()
        served.client.prepare("ordinary")
        served.client.commit("committed", "ordinary")
        served.client.remove("committed")
        assert time.monotonic() - started < 5
        gate.set()
        codes = [getattr(future.exception(), "code", lambda: None)() for future in waiting]
    assert codes.count(grpc.StatusCode.ALREADY_EXISTS) == 64
    assert codes.count(None) == 16


def test_a_client_that_went_away_leaves_nothing(served: Served) -> None:
    gate, began = threading.Event(), threading.Event()
    served.provider.before = lambda: (began.set(), gate.wait(30))
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(served.client._call, "Prepare", key="key", labels=labels(1), timeout=1.0)
        assert began.wait(10)
        error = call.exception()
        assert isinstance(error, grpc.RpcError)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert served.client.walk() == []
    gate.set()
    assert provided(served.client, 1).name
    assert [info.kind for info in served.client.walk()] == [pb.COMMITTED]


def test_stopping_lets_waiting_calls_go_in_bounded_time(served: Served) -> None:
    gate, began = threading.Event(), threading.Event()
    served.provider.before = lambda: (began.set(), gate.wait(30))
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(served.client.prepare, "key", "", labels(1))
        assert began.wait(10)
        started = time.monotonic()
        served.server.stop(0.5)
        assert isinstance(call.exception(10), grpc.RpcError)
        assert time.monotonic() - started < 5
        gate.set()
    served.place.snapshotter.close()


def test_vanilla_mode_provides_nothing() -> None:
    provider = Provider()
    with place_for("vanilla", provider=provider) as place:
        assert place.snapshotter.prepare("key", "", labels(1))
        place.snapshotter.commit("name", "key", labels(1))
        assert place.snapshotter.prepare("again", "", labels(1))
    assert provider.requests == []
