"""containerd's content store as a client: what it has, and blobs that are handed to it."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from grpclib.client import Stream, StreamStreamMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from hyperbox.api.errors.engines import BlobRefused
from hyperbox.engines.proto import engine_pb2 as pb
from hyperbox.engines.session import BROKEN, Session, metadata, run_session, words

SOURCE_LABEL: Final = "containerd.io/distribution.source."
"""With a registry's host behind it: its repositories that have a blob, with commas between them."""
UNCOMPRESSED_LABEL: Final = "containerd.io/uncompressed"
"""The diffID of a layer's blob."""
_REFERENCE_LABEL: Final = "containerd.io/gc.ref.content"
_EXPIRY_LABEL: Final = "containerd.io/gc.expire"
_LEASE_TIME: Final = timedelta(hours=1)
_STEP_SECONDS: Final = 30.0
"""Longest time for containerd to take one piece; the last one includes its fsync."""
_CONTENT: Final = "content.v1.Content"


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """One layer of a manifest in the content store."""

    media_type: str
    digest: str
    size: int


class ContentStore:
    """The content store of one containerd. Thread-safe; every call opens a connection and closes it again.

    Every call raises `EngineUnreachable` when containerd does not answer.
    """

    def __init__(self, address: Path) -> None:
        self._address = address

    def labels(self, namespace: str, digest: str) -> dict[str, str] | None:
        """Return the labels of a blob; None when the namespace does not have it."""
        return run_session(self._address, lambda session: _labels(session, namespace, digest))

    def refers(self, namespace: str, manifest: str, digest: str) -> bool:
        """Return whether a manifest that is here keeps a blob from containerd's garbage collection."""
        labels = self.labels(namespace, manifest) or {}
        return any(name.startswith(_REFERENCE_LABEL) and value == digest for name, value in labels.items())

    def layers(self, namespace: str, manifest: str) -> tuple[StoredLayer, ...]:
        """Return the layers that a manifest names, lowest first; nothing when the manifest is not here."""
        document = run_session(self._address, lambda session: session.document(namespace, manifest)) or {}
        return tuple(
            StoredLayer(str(layer.get("mediaType", "")), str(layer["digest"]), int(layer["size"]))
            for layer in document.get("layers", ())
        )

    def add_source(self, namespace: str, digest: str, host: str, path: str) -> None:
        """Note at a blob that is here that a repository has it, too: pushes to that registry need not send it."""
        run_session(self._address, lambda session: _add_source(session, namespace, digest, host, path))

    def lease(self, namespace: str) -> str:
        """Begin a lease: what is written under it is safe from containerd's garbage collection for an hour."""
        name = f"hyperbox-{uuid.uuid4().hex}"
        until = (datetime.now(UTC) + _LEASE_TIME).strftime("%Y-%m-%dT%H:%M:%SZ")
        request = pb.CreateLeaseRequest(id=name, labels={_EXPIRY_LABEL: until})
        run_session(
            self._address,
            lambda session: session.unary("leases.v1.Leases/Create", request, pb.CreateLeaseResponse, namespace),
        )
        return name

    def release(self, namespace: str, lease: str) -> None:
        """End a lease; one that has ended already is none."""

        async def work(session: Session) -> None:
            with _unless(Status.NOT_FOUND):
                await session.unary("leases.v1.Leases/Delete", pb.DeleteLeaseRequest(id=lease), pb.Empty, namespace)

        run_session(self._address, work)

    def write(
        self,
        namespace: str,
        digest: str,
        pieces: Iterable[bytes],
        *,
        size: int,
        labels: Mapping[str, str],
        lease: str,
    ) -> None:
        """Hand a blob over, piece by piece; `size` is 0 where nobody knows it. One that is there already is fine.

        containerd checks the digest. What `pieces` raises is passed on, and what was written so far is deleted.

        Raises:
            BlobRefused: containerd does not take it: its disk is full, the digest is another, …
        """
        ref = f"hyperbox-{lease}"
        begin = pb.WriteContentRequest(action=pb.STAT, ref=ref, total=size, expected=digest)

        async def work(session: Session) -> None:
            try:
                with _unless(Status.ALREADY_EXISTS):
                    await _write(session, metadata(namespace, lease), begin, pieces, labels)
            except BaseException as error:
                with contextlib.suppress(GRPCError, *BROKEN):
                    await session.unary(f"{_CONTENT}/Abort", pb.AbortContentRequest(ref=ref), pb.Empty, namespace)
                if isinstance(error, (GRPCError, *BROKEN)):
                    # A reset of the stream can hide the answer that it is there already.
                    if await _labels(session, namespace, digest) is not None:
                        return
                    raise BlobRefused(engine="containerd", digest=digest, reason=words(error)) from None
                raise

        run_session(self._address, work)


class _unless(contextlib.AbstractContextManager[None]):  # noqa: N801 - reads as a statement, like contextlib's own
    """Takes an answer with this status for a good one."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> bool:
        return isinstance(error, GRPCError) and error.status is self._status


async def _labels(session: Session, namespace: str, digest: str) -> dict[str, str] | None:
    with _unless(Status.NOT_FOUND):
        answer = await session.unary(
            f"{_CONTENT}/Info", pb.ContentInfoRequest(digest=digest), pb.ContentInfoResponse, namespace
        )
        return dict(answer.info.labels)
    return None


async def _add_source(session: Session, namespace: str, digest: str, host: str, path: str) -> None:
    name = f"{SOURCE_LABEL}{host}"
    known = ((await _labels(session, namespace, digest)) or {}).get(name, "").split(",")
    if path in known:
        return
    info = pb.ContentInfo(digest=digest, labels={name: ",".join(sorted({*known, path} - {""}))})
    request = pb.UpdateContentRequest(info=info, update_mask={"paths": [f"labels.{name}"]})
    with _unless(Status.NOT_FOUND):
        await session.unary(f"{_CONTENT}/Update", request, pb.UpdateContentResponse, namespace)


async def _write(
    session: Session,
    headers: Mapping[str, str],
    begin: pb.WriteContentRequest,
    pieces: Iterable[bytes],
    labels: Mapping[str, str],
) -> None:
    ref, digest = begin.ref, begin.expected
    method: StreamStreamMethod[Any, Any] = StreamStreamMethod(
        session.channel, f"/containerd.services.{_CONTENT}/Write", pb.WriteContentRequest, pb.WriteContentResponse
    )
    async with method.open(metadata=headers) as stream:
        # All of it, where another namespace of this containerd has the blob: then only the commit is missing.
        here = (await _exchange(stream, begin)).offset
        position = 0
        # Waiting for the next piece holds this thread's event loop up, which has nothing else to do.
        for piece in pieces:
            rest = piece[max(0, here - position) :]
            if rest:
                offset = position + len(piece) - len(rest)
                await _exchange(stream, pb.WriteContentRequest(action=pb.WRITE, ref=ref, offset=offset, data=rest))
            position += len(piece)
        commit = pb.WriteContentRequest(
            action=pb.COMMIT, ref=ref, total=position, expected=digest, offset=position, labels=labels
        )
        await _exchange(stream, commit, end=True)


async def _exchange(
    stream: Stream[Any, Any], request: pb.WriteContentRequest, *, end: bool = False
) -> pb.WriteContentResponse:
    async with asyncio.timeout(_STEP_SECONDS):
        await stream.send_message(request, end=end)
        answer = await stream.recv_message()
        if answer is None:
            # On its way out of the call this becomes the `GRPCError` that containerd's trailers tell, if any.
            raise StreamTerminatedError("containerd ended the transfer")
        assert isinstance(answer, pb.WriteContentResponse)
        return answer
