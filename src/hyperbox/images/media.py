"""Media types of images, OCI's and Docker's, and what HyperBox makes of each."""

from __future__ import annotations

import enum
from typing import Final

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_SCHEMA_1: Final = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)

MANIFESTS: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
CONFIGS: Final = frozenset({OCI_CONFIG, DOCKER_CONFIG})
ACCEPTED: Final = (OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST)
"""What the client asks a manifest endpoint for, best first."""

ESTARGZ_TOC_DIGEST: Final = "containerd.io/snapshot/stargz/toc.digest"
ESTARGZ_UNCOMPRESSED_SIZE: Final = "io.containers.estargz.uncompressed-size"
ZSTD_CHUNKED_CHECKSUM: Final = "io.github.containers.zstd-chunked.manifest-checksum"
ZSTD_CHUNKED_POSITION: Final = "io.github.containers.zstd-chunked.manifest-position"


class Compression(enum.Enum):
    """How a layer blob is compressed. The bytes themselves decide in the end; the media type only announces it."""

    PLAIN = "plain"
    GZIP = "gzip"
    ZSTD = "zstd"
    UNKNOWN = "unknown"
    """The media type does not say (some tools write a plain type for compressed layers): look at the bytes."""


_OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_OCI_FOREIGN_LAYER: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar"
_DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
_DOCKER_FOREIGN_LAYER: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar"

_LAYERS: Final = {
    _OCI_LAYER: Compression.PLAIN,
    f"{_OCI_LAYER}+gzip": Compression.GZIP,
    f"{_OCI_LAYER}+zstd": Compression.ZSTD,
    _OCI_FOREIGN_LAYER: Compression.PLAIN,
    f"{_OCI_FOREIGN_LAYER}+gzip": Compression.GZIP,
    f"{_OCI_FOREIGN_LAYER}+zstd": Compression.ZSTD,
    # Docker's plain type: containerd takes any compression below it.
    _DOCKER_LAYER: Compression.UNKNOWN,
    f"{_DOCKER_LAYER}.gzip": Compression.GZIP,
    f"{_DOCKER_LAYER}.zstd": Compression.ZSTD,
    _DOCKER_FOREIGN_LAYER: Compression.UNKNOWN,
    f"{_DOCKER_FOREIGN_LAYER}.gzip": Compression.GZIP,
}


def is_layer(media_type: str) -> bool:
    """Tell whether the media type is that of a file-system layer, distributable or not."""
    return media_type in _LAYERS


def is_foreign(media_type: str) -> bool:
    """Tell whether the media type is that of a layer that registries do not distribute."""
    return media_type.startswith((_OCI_FOREIGN_LAYER, _DOCKER_FOREIGN_LAYER))


def compression(media_type: str) -> Compression:
    """Return the compression that a layer's media type announces; UNKNOWN where it says nothing."""
    return _LAYERS.get(media_type, Compression.UNKNOWN)


def bare(media_type: str | None) -> str:
    """Return a Content-Type header's media type in lower case without parameters; empty for None."""
    return (media_type or "").partition(";")[0].strip().lower()
