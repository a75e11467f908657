"""containerd as a client: which images it has, and what their layers are.

Only messages are generated; the methods are named here, because the wire format of a call holds no package of ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from hyperbox.api.errors.engines import EngineUnreachable
from hyperbox.engines.proto import engine_pb2 as pb

_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MAX_DOCUMENT = 8 << 20
_TIMEOUT = 10.0


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
    """A containerd that is asked for its images. Each call opens what it needs; `close` ends the connection."""

    def __init__(self, address: Path) -> None:
        self._address = address
        # gRPC would otherwise try for minutes to reach a socket that is not there.
        options = [("grpc.enable_retries", 0), ("grpc.max_receive_message_length", 64 << 20)]
        self._channel = grpc.insecure_channel(f"unix://{address}", options=options)

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def version(self) -> str:
        """Version of the engine.

        Raises:
            EngineUnreachable: It does not answer.
        """
        answer = self._unary("version.v1.Version/Version", pb.VersionRequest(), pb.VersionResponse)
        return str(answer.version)

    def namespaces(self) -> list[str]:
        """Names of all namespaces.

        Raises:
            EngineUnreachable: It does not answer.
        """
        answer = self._unary("namespaces.v1.Namespaces/List", pb.ListNamespacesRequest(), pb.ListNamespacesResponse)
        return [namespace.name for namespace in answer.namespaces]

    def images(self, machine: str) -> Iterator[EngineImage]:
        """Yield the images of all namespaces whose manifest for `machine` (an OCI architecture) is on this node.

        Raises:
            EngineUnreachable: It does not answer.
        """
        for namespace in self.namespaces():
            answer = self._unary("images.v1.Images/List", pb.ListImagesRequest(), pb.ListImagesResponse, namespace)
            for image in answer.images:
                found = self._describe(namespace, image, machine)
                if found is not None:
                    yield found

    def _describe(self, namespace: str, image: Any, machine: str) -> EngineImage | None:
        digest, document = image.target.digest, self._document(namespace, image.target.digest)
        if document is not None and image.target.media_type in _INDEXES:
            for entry in document.get("manifests", ()):
                if entry.get("platform", {}).get("architecture") == machine:
                    digest, document = entry["digest"], self._document(namespace, entry["digest"])
                    break
        if document is None or "config" not in document:
            return None
        config = self._document(namespace, document["config"]["digest"])
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

    def _document(self, namespace: str, digest: str) -> dict[str, Any] | None:
        """Read a JSON document from the content store; None when it is not there or is not JSON."""
        call = self._channel.unary_stream(
            "/containerd.services.content.v1.Content/Read",
            request_serializer=pb.ReadContentRequest.SerializeToString,
            response_deserializer=pb.ReadContentResponse.FromString,
        )
        data = bytearray()
        try:
            metadata = (("containerd-namespace", namespace),)
            for part in call(pb.ReadContentRequest(digest=digest), metadata=metadata, timeout=_TIMEOUT):
                data += part.data
                if len(data) > _MAX_DOCUMENT:
                    return None
            document = json.loads(data)
        except (grpc.RpcError, ValueError):
            return None
        return document if isinstance(document, dict) else None

    def _unary(self, method: str, request: Any, response: Any, namespace: str = "") -> Any:
        call = self._channel.unary_unary(
            f"/containerd.services.{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        metadata = (("containerd-namespace", namespace),) if namespace else ()
        try:
            return call(request, metadata=metadata, timeout=_TIMEOUT)
        except grpc.RpcError as error:
            reason = error.details() if isinstance(error, grpc.Call) else error
            raise EngineUnreachable(engine="containerd", address=self._address, reason=reason) from None
