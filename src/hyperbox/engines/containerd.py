"""containerd as a client: which images it has, and what their layers are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperbox.engines.proto import engine_pb2 as pb
from hyperbox.engines.session import Session, run_session

_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")


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
        return run_session(self._address, _version)

    def images(self, machine: str) -> list[EngineImage]:
        """Return the images of all namespaces whose manifest for `machine` (an OCI architecture) is on this node.

        Raises:
            EngineUnreachable: It does not answer.
        """
        return run_session(self._address, lambda session: _images(session, machine))


async def _version(session: Session) -> str:
    answer = await session.unary("version.v1.Version/Version", pb.VersionRequest(), pb.VersionResponse)
    return str(answer.version)


async def _images(session: Session, machine: str) -> list[EngineImage]:
    found = []
    spaces = await session.unary("namespaces.v1.Namespaces/List", pb.ListNamespacesRequest(), pb.ListNamespacesResponse)
    for space in spaces.namespaces:
        answer = await session.unary("images.v1.Images/List", pb.ListImagesRequest(), pb.ListImagesResponse, space.name)
        described = [await _describe(session, space.name, image, machine) for image in answer.images]
        found += [image for image in described if image is not None]
    return found


async def _describe(session: Session, namespace: str, image: Any, machine: str) -> EngineImage | None:
    digest, document = image.target.digest, await session.document(namespace, image.target.digest)
    if document is not None and image.target.media_type in _INDEXES:
        for entry in document.get("manifests", ()):
            if entry.get("platform", {}).get("architecture") == machine:
                digest, document = entry["digest"], await session.document(namespace, entry["digest"])
                break
    if document is None or "config" not in document:
        return None
    config = await session.document(namespace, document["config"]["digest"])
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
