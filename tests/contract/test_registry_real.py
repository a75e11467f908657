"""The registry client and the puller against Debian's docker-registry."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from hyperbox._dev.lab import Registry
from hyperbox.api.errors.registry import BlobNotFound, ManifestNotFound
from hyperbox.images.manifest import Descriptor
from hyperbox.images.platform import Platform
from hyperbox.images.pull import ImagePuller
from hyperbox.images.reference import parse_reference
from hyperbox.images.registry import RegistryClient, RegistrySettings
from hyperbox.store import Store
from support.registry_simulator import OCI_CONFIG, OCI_GZIP_LAYER, OCI_MANIFEST, digest

CONTENT = os.urandom(2 << 20)
SETTINGS = RegistrySettings(docker_configs=(), certs_dirs=())


def image(folder: Path, registry: Registry) -> str:
    """Make an image of one file and put it into the registry; return its reference."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("file")
        info.size = len(CONTENT)
        archive.addfile(info, io.BytesIO(CONTENT))
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def add(data: bytes, media_type: str) -> dict[str, object]:
        (blobs / digest(data).partition(":")[2]).write_bytes(data)
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    rootfs = {"type": "layers", "diff_ids": [digest(buffer.getvalue())]}
    config = add(json.dumps({"os": "linux", "architecture": "amd64", "rootfs": rootfs}).encode(), OCI_CONFIG)
    layer = add(gzip.compress(buffer.getvalue(), 1), OCI_GZIP_LAYER)
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]}
    manifest = add(json.dumps(document).encode(), OCI_MANIFEST)
    names = [str(config["digest"]), str(layer["digest"])]
    return registry.add("client/contract", "v1", str(manifest["digest"]), names, folder)


@pytest.mark.engine
def test_debians_registry(registry: Registry, tmp_path: Path):
    reference = parse_reference(image(tmp_path / "oci", registry))
    platform = Platform("linux", "amd64")
    with RegistryClient(SETTINGS) as client, Store.open(tmp_path / "state") as store:
        with ImagePuller(store, client, platform=platform) as puller:
            pulled = puller.pull(reference)
            (record,) = pulled.layers
            assert store.layers.objects_of(record.layer_id) == {bytes.fromhex(digest(CONTENT)[7:]): len(CONTENT)}
            layer = pulled.image.manifest.layers[0]
            again = client.resolve(f"{reference.repository}@{pulled.image.manifest_digest}", platform)
            assert again.manifest == pulled.image.manifest
        whole = client.open_blob(reference, layer).read()
        with client.open_blob(reference, layer, 1_000_000) as rest:
            assert rest.read() == whole[1_000_000:]
        with pytest.raises(ManifestNotFound):
            client.manifest(parse_reference(f"{reference.repository}:none"))
        with pytest.raises(BlobNotFound):
            client.open_blob(reference, Descriptor("", digest(b"none"), 4)).read()
