"""containerd as a client: which images it has, and what their layers are.

Only messages are generated; the methods are named here, because the wire format of a call holds no package of ours.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message
from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from hyperbox.api.errors.engines import EngineUnreachable
from hyperbox.engines.proto import engine_pb2 as pb

_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MAX_DOCUMENT = 8 << 20
_TIMEOUT = 10.0
_NAMESPACE = "containerd-namespace"
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class EngineImage:
    """An image of the engine: its name, and the layers of the platform that is here."""

    namespace: str
    name: str
    manifest_digest: str
    platform: str
    layer_digests: tuple[str, ...]
    diff_ids: tuple[str, ...]


class Containerd:
    """A containerd that is asked for its images. Every public call opens a connection and closes it again."""

    def __init__(self, address: Path) -> None:
        self._address = address

    def version(self) -> str:
        """Version of the engine.

        Raises:
            EngineUnreachable: It does not answer.
        """
        return self._run(lambda session: session.version())

    def images(self, machine: str) -> list[EngineImage]:
        """Return the images of all namespaces whose manifest for `machine` (an OCI architecture) is on this node.

        Raises:
            EngineUnreachable: It does not answer.
        """
        return self._run(lambda session: session.images(machine))

    def _run(self, work: Callable[[_Session], Awaitable[_Result]]) -> _Result:
        async def session() -> _Result:
            if not self._address.exists():
                raise EngineUnreachable(engine="containerd", address=self._address, reason="there is no such socket")
            channel = Channel(path=str(self._address))
            try:
                return await work(_Session(channel))
            except (GRPCError, OSError, TimeoutError, ProtocolError, StreamTerminatedError) as error:
                reason = error.message if isinstance(error, GRPCError) else str(error) or type(error).__name__
                raise EngineUnreachable(engine="containerd", address=self._address, reason=reason) from None
            finally:
                channel.close()

        return asyncio.run(session())


class _Session:
    """Calls over one open connection."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def version(self) -> str:
        answer = await self._unary("version.v1.Version/Version", pb.VersionRequest(), pb.VersionResponse)
        return str(answer.version)

    async def images(self, machine: str) -> list[EngineImage]:
        found = []
        spaces = await self._unary(
            "namespaces.v1.Namespaces/List", pb.ListNamespacesRequest(), pb.ListNamespacesResponse
        )
        for space in spaces.namespaces:
            answer = await self._unary(
                "images.v1.Images/List", pb.ListImagesRequest(), pb.ListImagesResponse, space.name
            )
            described = [await self._describe(space.name, image, machine) for image in answer.images]
            found += [image for image in described if image is not None]
        return found

    async def _describe(self, namespace: str, image: Any, machine: str) -> EngineImage | None:
        digest, document = image.target.digest, await self._document(namespace, image.target.digest)
        if document is not None and image.target.media_type in _INDEXES:
            for entry in document.get("manifests", ()):
                if entry.get("platform", {}).get("architecture") == machine:
                    digest, document = entry["digest"], await self._document(namespace, entry["digest"])
                    break
        if document is None or "config" not in document:
            return None
        config = await self._document(namespace, document["config"]["digest"])
        if config is None:
            return None
        return EngineImage(
            namespace=namespace,
            name=image.name,
            manifest_digest=digest,
            platform=f"{config.get('os', 'linux')}/{config.get('architecture', machine)}",
            layer_digests=tuple(layer["digest"] for layer in document.get("layers", ())),
            diff_ids=tuple(config.get("rootfs", {}).get("diff_ids", ())),
        )

    async def _document(self, namespace: str, digest: str) -> dict[str, Any] | None:
        """Read a JSON document from the content store; None when it is not there or is not JSON."""
        method: UnaryStreamMethod[Any, Any] = UnaryStreamMethod(
            self._channel,
            "/containerd.services.content.v1.Content/Read",
            pb.ReadContentRequest,
            pb.ReadContentResponse,
        )
        data = bytearray()
        try:
            metadata = {_NAMESPACE: namespace}
            async with method.open(timeout=_TIMEOUT, metadata=metadata) as stream:
                await stream.send_message(pb.ReadContentRequest(digest=digest), end=True)
                async for part in stream:
                    data += part.data
                    if len(data) > _MAX_DOCUMENT:
                        return None
            document = json.loads(data)
        except (GRPCError, ValueError):
            return None
        return document if isinstance(document, dict) else None

    async def _unary(self, name: str, request: Message, response: type[Message], namespace: str = "") -> Any:
        method: UnaryUnaryMethod[Any, Any] = UnaryUnaryMethod(
            self._channel, f"/containerd.services.{name}", type(request), response
        )
        return await method(request, timeout=_TIMEOUT, metadata={_NAMESPACE: namespace} if namespace else None)
