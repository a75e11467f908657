"""Blobs on their way to containerd's content store, against a service that refuses what the real one seldom does."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server, Stream

from hyperbox.api.errors.engines import BlobRefused, EngineUnreachable
from hyperbox.engines.content import ContentStore
from hyperbox.engines.proto import engine_pb2 as pb

PIECES = [bytes([number]) * 70_000 for number in range(5)]
BLOB = b"".join(PIECES)
DIGEST = f"sha256:{hashlib.sha256(BLOB).hexdigest()}"
LABELS = {"containerd.io/uncompressed": "sha256:00"}


class Service:
    """The methods of containerd that are used for a write, as its content service answers them."""

    def __init__(self) -> None:
        self.blobs: dict[str, pb.ContentInfo] = {}
        self.leases: dict[str, str] = {}
        self.written = bytearray()
        self.writes = 0
        self.aborted: list[str] = []
        self.offset = 0
        self.room = 1 << 30
        self.lease = ""

    async def info(self, stream: Stream[pb.ContentInfoRequest, pb.ContentInfoResponse]) -> None:
        request = await stream.recv_message()
        assert request is not None
        if request.digest not in self.blobs:
            raise GRPCError(Status.NOT_FOUND, "not found")
        await stream.send_message(pb.ContentInfoResponse(info=self.blobs[request.digest]))

    async def update(self, stream: Stream[pb.UpdateContentRequest, pb.UpdateContentResponse]) -> None:
        request = await stream.recv_message()
        assert request is not None
        for path in request.update_mask.paths:
            name = path.removeprefix("labels.")
            self.blobs[request.info.digest].labels[name] = request.info.labels[name]
        await stream.send_message(pb.UpdateContentResponse(info=self.blobs[request.info.digest]))

    async def write(self, stream: Stream[pb.WriteContentRequest, pb.WriteContentResponse]) -> None:
        self.lease = str((stream.metadata or {})["containerd-lease"])
        at = self.offset
        async for request in stream:
            if request.expected in self.blobs:
                raise GRPCError(Status.ALREADY_EXISTS, "exists")
            if request.offset and request.offset != at:
                raise GRPCError(Status.OUT_OF_RANGE, f"write @{request.offset} must occur at {at}")
            if at + len(request.data) > self.room:
                raise GRPCError(Status.UNKNOWN, "no space left on device")
            self.writes += request.action == pb.WRITE
            self.written += request.data
            at += len(request.data)
            if request.action == pb.COMMIT:
                assert (request.total, request.offset) == (at, at)
                self.blobs[request.expected] = pb.ContentInfo(digest=request.expected, size=at, labels=request.labels)
            await stream.send_message(pb.WriteContentResponse(action=request.action, offset=at))

    async def abort(self, stream: Stream[pb.AbortContentRequest, pb.Empty]) -> None:
        request = await stream.recv_message()
        assert request is not None
        self.aborted.append(request.ref)
        await stream.send_message(pb.Empty())

    async def create(self, stream: Stream[pb.CreateLeaseRequest, pb.CreateLeaseResponse]) -> None:
        request = await stream.recv_message()
        assert request is not None
        self.leases[request.id] = request.labels["containerd.io/gc.expire"]
        await stream.send_message(pb.CreateLeaseResponse())

    async def delete(self, stream: Stream[pb.DeleteLeaseRequest, pb.Empty]) -> None:
        request = await stream.recv_message()
        assert request is not None
        if self.leases.pop(request.id, None) is None:
            raise GRPCError(Status.NOT_FOUND, "no such lease")
        await stream.send_message(pb.Empty())

    def __mapping__(self) -> dict[str, Handler]:
        content, leases = "/containerd.services.content.v1.Content", "/containerd.services.leases.v1.Leases"
        unary, both = Cardinality.UNARY_UNARY, Cardinality.STREAM_STREAM
        return {
            f"{content}/Info": Handler(self.info, unary, pb.ContentInfoRequest, pb.ContentInfoResponse),
            f"{content}/Update": Handler(self.update, unary, pb.UpdateContentRequest, pb.UpdateContentResponse),
            f"{content}/Write": Handler(self.write, both, pb.WriteContentRequest, pb.WriteContentResponse),
            f"{content}/Abort": Handler(self.abort, unary, pb.AbortContentRequest, pb.Empty),
            f"{leases}/Create": Handler(self.create, unary, pb.CreateLeaseRequest, pb.CreateLeaseResponse),
            f"{leases}/Delete": Handler(self.delete, unary, pb.DeleteLeaseRequest, pb.Empty),
        }


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """It listens on `tmp_path/containerd.sock`."""
    made, loop, ready = Service(), asyncio.new_event_loop(), threading.Event()

    async def serve(ended: asyncio.Event) -> None:
        server = Server([made])
        await server.start(path=str(tmp_path / "containerd.sock"))
        ready.set()
        await ended.wait()
        server.close()
        await server.wait_closed()

    ended = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(ended)))
    thread.start()
    assert ready.wait(10)
    yield made
    loop.call_soon_threadsafe(ended.set)
    thread.join(10)
    loop.close()


@pytest.fixture
def store(service: Service, tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "containerd.sock")


def hand_over(store: ContentStore, pieces: Iterator[bytes] | None = None) -> None:
    lease = store.lease("here")
    store.write("here", DIGEST, pieces or iter(PIECES), size=len(BLOB), labels=LABELS, lease=lease)


def test_blob_is_written_under_a_lease(service: Service, store: ContentStore) -> None:
    assert store.labels("here", DIGEST) is None
    hand_over(store)
    assert service.written == BLOB
    assert store.labels("here", DIGEST) == LABELS
    assert list(service.leases) == [service.lease]
    assert service.aborted == []
    store.release("here", service.lease)
    store.release("here", service.lease)
    assert service.leases == {}


@pytest.mark.parametrize("offset", [1, 70_000, 100_000, len(BLOB)])
def test_what_containerd_has_already_is_not_sent_again(service: Service, store: ContentStore, offset: int) -> None:
    """All of it where another namespace has the blob."""
    service.offset = offset
    hand_over(store)
    assert service.written == BLOB[offset:]
    assert store.labels("here", DIGEST) == LABELS


def test_blob_that_is_there_is_well(service: Service, store: ContentStore) -> None:
    service.blobs[DIGEST] = pb.ContentInfo(digest=DIGEST)
    hand_over(store)
    assert service.written == b""


def test_refusal_says_why_and_leaves_nothing(service: Service, store: ContentStore) -> None:
    service.room = 100_000
    with pytest.raises(BlobRefused, match="no space left on device"):
        hand_over(store)
    assert service.aborted == [f"hyperbox-{service.lease}"]


def test_source_that_fails_leaves_nothing(service: Service, store: ContentStore) -> None:
    def broken() -> Iterator[bytes]:
        yield PIECES[0]
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        hand_over(store, broken())
    assert service.aborted == [f"hyperbox-{service.lease}"]
    assert store.labels("here", DIGEST) is None


def test_sources_are_added_to_those_that_are_known(service: Service, store: ContentStore) -> None:
    service.blobs[DIGEST] = pb.ContentInfo(digest=DIGEST, labels=LABELS)
    for path in ("team/b", "team/a", "team/b"):
        store.add_source("here", DIGEST, "registry.example", path)
    assert store.labels("here", DIGEST) == {
        **LABELS, "containerd.io/distribution.source.registry.example": "team/a,team/b",
    }  # fmt: skip


def test_manifest_refers_by_its_labels(service: Service, store: ContentStore) -> None:
    service.blobs["sha256:1"] = pb.ContentInfo(digest="sha256:1", labels={"containerd.io/gc.ref.content.l.0": DIGEST})
    assert store.refers("here", "sha256:1", DIGEST)
    assert not store.refers("here", "sha256:1", "sha256:2")
    assert not store.refers("here", "sha256:3", DIGEST)


def test_engine_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EngineUnreachable, match="no such socket"):
        ContentStore(tmp_path / "none.sock").labels("here", DIGEST)
