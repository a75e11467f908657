"""Calls to containerd over a connection of their own.

Only messages are generated; the methods are named here, because the wire format of a call holds no package of ours.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message
from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from hyperbox.api.errors.engines import EngineUnreachable
from hyperbox.engines.proto import engine_pb2 as pb

TIMEOUT = 10.0
"""Seconds for one small call."""
BROKEN = (OSError, TimeoutError, ProtocolError, StreamTerminatedError)
"""What a connection that fails raises; an answer that says no is a `GRPCError`."""
_MAX_DOCUMENT = 8 << 20
_NAMESPACE = "containerd-namespace"
_LEASE = "containerd-lease"
_Result = TypeVar("_Result")


def run_session(address: Path, work: Callable[[Session], Awaitable[_Result]]) -> _Result:
    """Open a connection, do some work over it on this thread, and close it.

    Raises:
        EngineUnreachable: containerd does not answer, or with an error that `work` has not dealt with.
    """

    async def session() -> _Result:
        if not address.exists():
            raise EngineUnreachable(engine="containerd", address=address, reason="there is no such socket")
        channel = Channel(path=str(address))
        try:
            return await work(Session(channel))
        except (GRPCError, *BROKEN) as error:
            raise EngineUnreachable(engine="containerd", address=address, reason=words(error)) from None
        finally:
            channel.close()

    return asyncio.run(session())


def words(error: BaseException) -> str:
    """Return what a failed call says in words."""
    return str(error.message) if isinstance(error, GRPCError) else str(error) or type(error).__name__


def metadata(namespace: str, lease: str = "") -> Mapping[str, str]:
    """Return the headers that tell containerd for whom a call is, and under which lease."""
    headers = {_NAMESPACE: namespace} if namespace else {}
    return {**headers, _LEASE: lease} if lease else headers


class Session:
    """Calls over one open connection."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    async def unary(self, name: str, request: Message, response: type[Message], namespace: str = "") -> Any:
        """Call a method with one request and one answer. Raises `GRPCError` and what `BROKEN` names."""
        method: UnaryUnaryMethod[Any, Any] = UnaryUnaryMethod(
            self.channel, f"/containerd.services.{name}", type(request), response
        )
        return await method(request, timeout=TIMEOUT, metadata=metadata(namespace) or None)

    async def document(self, namespace: str, digest: str) -> dict[str, Any] | None:
        """Read a JSON document from the content store; None when it is not there or is not JSON."""
        method: UnaryStreamMethod[Any, Any] = UnaryStreamMethod(
            self.channel,
            "/containerd.services.content.v1.Content/Read",
            pb.ReadContentRequest,
            pb.ReadContentResponse,
        )
        data = bytearray()
        try:
            async with method.open(timeout=TIMEOUT, metadata=metadata(namespace)) as stream:
                await stream.send_message(pb.ReadContentRequest(digest=digest), end=True)
                async for part in stream:
                    data += part.data
                    if len(data) > _MAX_DOCUMENT:
                        return None
            document = json.loads(data)
        except (GRPCError, ValueError):
            return None
        return document if isinstance(document, dict) else None
