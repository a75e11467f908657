"""A real containerd unpacks images onto HyperBox and gets the trees that its own overlayfs gets."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.conftest import Proxied
from contract.snapshots_client import Entry, Snapshots, mounted, tree
from hyperbox._dev.lab import Engine

pytestmark = [pytest.mark.root, pytest.mark.engine]

Member = tuple[str, bytes | None]
"""Path and content; None for a folder."""


def layer(*members: Member, more: Callable[[tarfile.TarFile], None] = lambda _: None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.mode, info.mtime = 0o755 if content is None else 0o644, 1_000_000_000
            if content is None:
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content or b""))
        more(tar)
    return out.getvalue()


def archive(name: str, layers: list[bytes]) -> bytes:
    """An OCI image layout as a tar, for `ctr images import`."""
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, media: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": f"application/vnd.oci.image.{media}", "digest": f"sha256:{digest}", "size": len(data)}

    described = [blob(data, "layer.v1.tar") for data in layers]
    rootfs = {"type": "layers", "diff_ids": [entry["digest"] for entry in described]}
    config = blob(json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode(), "config.v1+json")
    manifest = {"schemaVersion": 2, "config": config, "layers": described}
    entry = blob(json.dumps(manifest).encode(), "manifest.v1+json")
    entry["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    blobs["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    blobs["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    return layer(*blobs.items())


def chain_id(layers: list[bytes]) -> str:
    digests = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in layers]
    chain = digests[0]
    for digest in digests[1:]:
        chain = f"sha256:{hashlib.sha256(f'{chain} {digest}'.encode()).hexdigest()}"
    return chain


def unpacked(engine: Engine, snapshotter: str, layers: list[bytes], place: Path) -> dict[str, Entry]:
    name = f"example.test/unpack:{len(layers)}"
    file = place / f"{snapshotter}-{len(layers)}.tar"
    file.write_bytes(archive(name, layers))
    engine.ctr("-n", "unpack", "images", "import", "--snapshotter", snapshotter, str(file))
    client = Snapshots(engine.containerd_socket, namespace="unpack", snapshotter=snapshotter)
    with mounted(client.view(f"view-{len(layers)}", chain_id(layers)), place / "m") as root:
        found = tree(root)
    client.remove(f"view-{len(layers)}")
    client.close()
    return found


def test_folders_that_no_layer_names_do_not_look_like_the_hosts(
    proxied: Proxied, reference_engine: Engine, place: Path
) -> None:
    """containerd looks for the attributes of a folder without entry in all parts of `lowerdir`, split at colons."""
    odd = place / "odd"
    odd.mkdir(mode=0o711)
    os.chown(odd, 123, 456)
    inside = f"{place.relative_to('/')}/odd/file"
    big = b"content" * 1000
    base = [layer(("etc", None), ("etc/file", big), ("srv", None), ("gone", big))]
    two = [*base, layer((inside, big), ("srv/new", big), ("etc/.wh.file", b""), (".wh.gone", b""))]
    for layers in (base, two):
        expected = unpacked(reference_engine, "overlayfs", layers, place)
        found = unpacked(proxied.engine, "hyperbox", layers, place)
        assert found == expected
        assert proxied.snapshotter.settle(30)
    assert found[str(Path(inside).parent)].owner == (0, 0)
    layers_in_use = [snapshot.layer for snapshot in proxied.snapshotter.walk(["kind==committed,name~=unpack"])]
    assert len(layers_in_use) == 2
    assert all(layers_in_use)
