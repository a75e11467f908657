"""The gRPC face: messages to calls of `Snapshotter`, errors to the statuses that containerd's errdefs reads.

The methods run on threads, because they mount, measure and wait; the event loop only moves messages. The `snapshotter`
field of requests is not looked at: containerd sends the name that the plug-in has in its configuration, which is the
administrator's to choose.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import Any, Final

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Stream

from hyperbox.api.errors.base import HyperBoxError
from hyperbox.snapshotter.model import LABEL_TARGET, Kind, Mount, Snapshot
from hyperbox.snapshotter.proto import mount_pb2
from hyperbox.snapshotter.proto import snapshots_pb2 as pb
from hyperbox.snapshotter.service import Snapshotter

SERVICE: Final = "containerd.services.snapshots.v1.Snapshots"

_AT_ONCE: Final = frozenset({"Stat", "List", "Mounts", "View", "Commit"})
"""Methods that take about a millisecond and follow each other when a container starts: on a busy machine the way to
another thread and back costs more than the call. They block other calls only as the snapshotter's lock does anyway."""

BATCH: Final = 100
"""Records in one message of List."""

_MESSAGES: Final[dict[str, tuple[type[Message], type[Message]]]] = {
    "Prepare": (pb.PrepareSnapshotRequest, pb.PrepareSnapshotResponse),
    "View": (pb.ViewSnapshotRequest, pb.ViewSnapshotResponse),
    "Mounts": (pb.MountsRequest, pb.MountsResponse),
    "Commit": (pb.CommitSnapshotRequest, Empty),
    "Remove": (pb.RemoveSnapshotRequest, Empty),
    "Stat": (pb.StatSnapshotRequest, pb.StatSnapshotResponse),
    "Update": (pb.UpdateSnapshotRequest, pb.UpdateSnapshotResponse),
    "List": (pb.ListSnapshotsRequest, pb.ListSnapshotsResponse),
    "Usage": (pb.UsageRequest, pb.UsageResponse),
    "Cleanup": (pb.CleanupRequest, Empty),
}


Wanted = Callable[[], bool]
"""Whether the caller still waits for the answer."""


class _Methods:
    """The ten methods, as functions of a request that are called on a thread."""

    def __init__(self, snapshotter: Snapshotter) -> None:
        self._snapshotter = snapshotter

    def prepare(self, request: pb.PrepareSnapshotRequest, wanted: Wanted) -> pb.PrepareSnapshotResponse:
        mounts = self._snapshotter.prepare(request.key, request.parent, request.labels, wanted=wanted)
        return pb.PrepareSnapshotResponse(mounts=_mounts(mounts))

    def view(self, request: pb.ViewSnapshotRequest, _: Wanted) -> pb.ViewSnapshotResponse:
        mounts = self._snapshotter.view(request.key, request.parent, request.labels)
        return pb.ViewSnapshotResponse(mounts=_mounts(mounts))

    def mounts(self, request: pb.MountsRequest, _: Wanted) -> pb.MountsResponse:
        return pb.MountsResponse(mounts=_mounts(self._snapshotter.mounts(request.key)))

    def commit(self, request: pb.CommitSnapshotRequest, _: Wanted) -> Empty:
        self._snapshotter.commit(request.name, request.key, request.labels, request.parent)
        return Empty()

    def remove(self, request: pb.RemoveSnapshotRequest, _: Wanted) -> Empty:
        self._snapshotter.remove(request.key)
        return Empty()

    def stat(self, request: pb.StatSnapshotRequest, _: Wanted) -> pb.StatSnapshotResponse:
        return pb.StatSnapshotResponse(info=_info(self._snapshotter.stat(request.key)))

    def update(self, request: pb.UpdateSnapshotRequest, _: Wanted) -> pb.UpdateSnapshotResponse:
        info = request.info
        snapshot = self._snapshotter.update(info.name, info.labels, list(request.update_mask.paths))
        return pb.UpdateSnapshotResponse(info=_info(snapshot))

    def list(self, request: pb.ListSnapshotsRequest, _: Wanted) -> Iterator[pb.ListSnapshotsResponse]:
        found = self._snapshotter.walk(list(request.filters))
        for start in range(0, len(found), BATCH):
            yield pb.ListSnapshotsResponse(info=map(_info, found[start : start + BATCH]))

    def usage(self, request: pb.UsageRequest, _: Wanted) -> pb.UsageResponse:
        usage = self._snapshotter.usage(request.key)
        return pb.UsageResponse(size=usage.size, inodes=usage.inodes)

    def cleanup(self, _request: pb.CleanupRequest, _: Wanted) -> Empty:
        self._snapshotter.cleanup()
        return Empty()


class Service:
    """What a grpclib server needs to serve a snapshotter. Its event loop hands each call to a thread of `pool`."""

    def __init__(self, snapshotter: Snapshotter, pool: Executor) -> None:
        self._snapshotter = snapshotter
        self._pool = pool
        self._methods = _Methods(snapshotter)
        self.running = 0
        """Calls that have begun and not ended. Changed by the event loop only."""

    def __mapping__(self) -> dict[str, Handler]:
        """Return the handlers by path, as grpclib asks for them."""
        handlers = {}
        for name, (request, response) in _MESSAGES.items():
            streaming = name == "List"
            cardinality = Cardinality.UNARY_STREAM if streaming else Cardinality.UNARY_UNARY
            handler = self._handler(name, getattr(self._methods, name.lower()), streaming=streaming)
            handlers[f"/{SERVICE}/{name}"] = Handler(handler, cardinality, request, response)
        return handlers

    def _handler(self, name: str, method: Callable[..., Any], *, streaming: bool) -> Callable[[Stream[Any, Any]], Any]:
        async def handle(stream: Stream[Any, Any]) -> None:
            began, status = time.monotonic(), Status.OK
            gone = threading.Event()
            self.running += 1
            try:
                request = await stream.recv_message()
                if request is None:  # the caller closed its side without a word
                    raise GRPCError(Status.INVALID_ARGUMENT, "no message")
                if name in _AT_ONCE or (name == "Prepare" and LABEL_TARGET not in request.labels):
                    answer = method(request, lambda: True)
                else:
                    answer = await self._on_thread(method, request, lambda: not gone.is_set())
                for message in list(answer) if streaming else [answer]:
                    await stream.send_message(message)
            except asyncio.CancelledError:  # the caller hung up, its time is over, or the server stops
                gone.set()
                status = Status.CANCELLED
                raise
            except GRPCError as error:
                status = error.status
                raise
            except Exception as error:  # noqa: BLE001 - becomes a status; what is not ours is reported
                status, message = _status(self._snapshotter, name, error)
                raise GRPCError(status, message) from None
            finally:
                self.running -= 1
                self._snapshotter.observer.call(name, status.name, time.monotonic() - began)

        return handle

    async def _on_thread(self, method: Callable[..., Any], request: Message, wanted: Wanted) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, method, request, wanted)


def _status(snapshotter: Snapshotter, name: str, error: Exception) -> tuple[Status, str]:
    if isinstance(error, HyperBoxError):
        return Status(int(error.grpc_status)), f"{error.message} ({error.code})"
    snapshotter.observer.fault(f"{name} of the snapshotter", error)
    return Status.INTERNAL, f"{type(error).__name__}: {error}"


def _mounts(mounts: Sequence[Mount]) -> list[mount_pb2.Mount]:
    return [mount_pb2.Mount(type=m.type, source=m.source, options=m.options) for m in mounts]


def _info(snapshot: Snapshot) -> pb.Info:
    return pb.Info(
        name=snapshot.name,
        parent=snapshot.parent,
        kind=_KINDS[snapshot.kind],
        created_at=_timestamp(snapshot.created_ns),
        updated_at=_timestamp(snapshot.updated_ns),
        labels=dict(snapshot.labels),
    )


_KINDS: Final = {Kind.VIEW: pb.VIEW, Kind.ACTIVE: pb.ACTIVE, Kind.COMMITTED: pb.COMMITTED}


def _timestamp(nanoseconds: int) -> Timestamp:
    seconds, nanos = divmod(nanoseconds, 1_000_000_000)
    return Timestamp(seconds=seconds, nanos=nanos)
