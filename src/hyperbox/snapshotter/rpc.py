"""The gRPC face: messages to calls of `Snapshotter`, errors to the statuses that containerd's errdefs reads.

The service is registered by hand instead of through generated stubs, which would tie the package to one version of
grpcio. The `snapshotter` field of requests is not looked at: containerd sends the name that the plug-in has in its
configuration, which is the administrator's to choose.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from hyperbox.api.errors.base import HyperBoxError
from hyperbox.snapshotter.model import Kind, Mount, Snapshot
from hyperbox.snapshotter.proto import mount_pb2
from hyperbox.snapshotter.proto import snapshots_pb2 as pb
from hyperbox.snapshotter.service import Snapshotter

SERVICE: Final = "containerd.services.snapshots.v1.Snapshots"

BATCH: Final = 100
"""Records in one message of List."""

_BY_NUMBER: Final = {status.value[0]: status for status in grpc.StatusCode}
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


class _Service:
    """The ten methods."""

    def __init__(self, snapshotter: Snapshotter) -> None:
        self._snapshotter = snapshotter

    def prepare(self, request: pb.PrepareSnapshotRequest, context: grpc.ServicerContext) -> pb.PrepareSnapshotResponse:
        mounts = self._snapshotter.prepare(request.key, request.parent, request.labels, wanted=context.is_active)
        return pb.PrepareSnapshotResponse(mounts=_mounts(mounts))

    def view(self, request: pb.ViewSnapshotRequest, _: grpc.ServicerContext) -> pb.ViewSnapshotResponse:
        mounts = self._snapshotter.view(request.key, request.parent, request.labels)
        return pb.ViewSnapshotResponse(mounts=_mounts(mounts))

    def mounts(self, request: pb.MountsRequest, _: grpc.ServicerContext) -> pb.MountsResponse:
        return pb.MountsResponse(mounts=_mounts(self._snapshotter.mounts(request.key)))

    def commit(self, request: pb.CommitSnapshotRequest, _: grpc.ServicerContext) -> Empty:
        self._snapshotter.commit(request.name, request.key, request.labels, request.parent)
        return Empty()

    def remove(self, request: pb.RemoveSnapshotRequest, _: grpc.ServicerContext) -> Empty:
        self._snapshotter.remove(request.key)
        return Empty()

    def stat(self, request: pb.StatSnapshotRequest, _: grpc.ServicerContext) -> pb.StatSnapshotResponse:
        return pb.StatSnapshotResponse(info=_info(self._snapshotter.stat(request.key)))

    def update(self, request: pb.UpdateSnapshotRequest, _: grpc.ServicerContext) -> pb.UpdateSnapshotResponse:
        info = request.info
        snapshot = self._snapshotter.update(info.name, info.labels, list(request.update_mask.paths))
        return pb.UpdateSnapshotResponse(info=_info(snapshot))

    def list(self, request: pb.ListSnapshotsRequest, _: grpc.ServicerContext) -> Iterator[pb.ListSnapshotsResponse]:
        found = self._snapshotter.walk(list(request.filters))
        for start in range(0, len(found), BATCH):
            yield pb.ListSnapshotsResponse(info=map(_info, found[start : start + BATCH]))

    def usage(self, request: pb.UsageRequest, _: grpc.ServicerContext) -> pb.UsageResponse:
        usage = self._snapshotter.usage(request.key)
        return pb.UsageResponse(size=usage.size, inodes=usage.inodes)

    def cleanup(self, _request: pb.CleanupRequest, _: grpc.ServicerContext) -> Empty:
        self._snapshotter.cleanup()
        return Empty()


def handler(snapshotter: Snapshotter) -> grpc.GenericRpcHandler[Any, Any]:
    """Return what a gRPC server needs to serve a snapshotter."""
    service = _Service(snapshotter)
    methods: dict[str, Any] = {}
    for name, (request, response) in _MESSAGES.items():
        streaming = name == "List"
        make = grpc.unary_stream_rpc_method_handler if streaming else grpc.unary_unary_rpc_method_handler
        watched = _watched_stream if streaming else _watched
        methods[name] = make(
            watched(snapshotter, name, getattr(service, name.lower())),
            request_deserializer=request.FromString,
            response_serializer=response.SerializeToString,
        )
    return grpc.method_handlers_generic_handler(SERVICE, methods)


def _watched(snapshotter: Snapshotter, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def call(request: Message, context: grpc.ServicerContext) -> Any:
        began, status = time.monotonic(), grpc.StatusCode.OK
        try:
            return method(request, context)
        except Exception as error:  # noqa: BLE001 - becomes a status; what is not ours is reported
            status, message = _status(snapshotter, name, error)
            _abort(context, status, message)
        finally:
            snapshotter.observer.call(name, status.name, time.monotonic() - began)

    return call


def _watched_stream(snapshotter: Snapshotter, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def call(request: Message, context: grpc.ServicerContext) -> Iterator[Any]:
        began, status = time.monotonic(), grpc.StatusCode.OK
        try:
            yield from method(request, context)
        except Exception as error:  # noqa: BLE001 - becomes a status; what is not ours is reported
            status, message = _status(snapshotter, name, error)
            _abort(context, status, message)
        finally:
            snapshotter.observer.call(name, status.name, time.monotonic() - began)

    return call


def _abort(context: grpc.ServicerContext, status: grpc.StatusCode, message: str) -> NoReturn:
    context.abort(status, message)
    raise AssertionError("abort returned")


def _status(snapshotter: Snapshotter, name: str, error: Exception) -> tuple[grpc.StatusCode, str]:
    if isinstance(error, HyperBoxError):
        return _BY_NUMBER[int(error.grpc_status)], f"{error.message} ({error.code})"
    snapshotter.observer.fault(f"{name} of the snapshotter", error)
    return grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"


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
