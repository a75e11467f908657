"""Small images whose every file is known: busybox below, seeded layers above, some contents common to all of them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from hyperbox._dev.lab import Registry
from hyperbox._dev.lab.images import LabImage
from support.registry_simulator import OCI_CONFIG, OCI_GZIP_LAYER, OCI_MANIFEST, RegistrySimulator, digest

_COMMON = 40
"""Contents that occur in images of all seeds."""


@dataclass(frozen=True)
class SmallImage:
    """One image as bytes, with what a container on it has to see."""

    seed: int
    manifest: bytes
    blobs: dict[str, bytes]
    """Config and layers by digest, lowest layer last in no order."""
    layers: list[tuple[bytes, str]]
    """Blob and diffID of each layer, lowest first."""
    files: dict[str, str] = field(repr=False)
    """Path without leading slash → sha256 of the content, all that the seeded layers hold."""

    @property
    def digest(self) -> str:
        """Digest of the manifest."""
        return digest(self.manifest)

    def push(self, registry: Registry, scratch: Path) -> str:
        """Put it into a registry of the lab and return the reference; `scratch` is a folder for its blobs."""
        folder = scratch / "blobs/sha256"
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in {**self.blobs, self.digest: self.manifest}.items():
            (folder / name.removeprefix("sha256:")).write_bytes(data)
        return registry.add(f"small{self.seed}", "v1", self.digest, self.blobs, scratch)

    def serve(self, simulator: RegistrySimulator) -> str:
        """Put it into a simulator and return the reference."""
        simulator.blobs.update(self.blobs)
        simulator.add_manifest(f"small{self.seed}", "v1", self.manifest)
        return f"{simulator.host}/small{self.seed}:v1"

    def archive(self, name: str) -> bytes:
        """The tar of an OCI layout, as `docker load` takes it."""
        index = {
            "schemaVersion": 2,
            "manifests": [
                {
                    "mediaType": OCI_MANIFEST,
                    "digest": self.digest,
                    "size": len(self.manifest),
                    "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name},
                }
            ],
        }
        members = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": json.dumps(index).encode()}
        for blob, data in {**self.blobs, self.digest: self.manifest}.items():
            members[f"blobs/sha256/{blob.removeprefix('sha256:')}"] = data
        return _tar(members)


def small_image(base: LabImage, seed: int, *, layers: int = 2, files: int = 60, largest: int = 60_000) -> SmallImage:
    """Make one on top of `base`; equal arguments give equal images."""
    dice = random.Random(seed)
    blob = base.blob(base.layers[0].digest).read_bytes()
    made = [(blob, base.layers[0].diff_id)]
    seen: dict[str, str] = {}
    for number in range(layers):
        members = {f"seeded/{number}/{n}": _content(dice, largest) for n in range(files)}
        if number:  # something of the layer below is replaced, and something goes
            members[f"seeded/{number - 1}/0"] = _content(dice, largest)
            members[f"seeded/{number - 1}/.wh.1"] = b""
            seen.pop(f"seeded/{number - 1}/1")
        tar = _tar(members, folders=True)
        made.append((gzip.compress(tar, 1, mtime=0), digest(tar)))
        seen.update({name: hashlib.sha256(data).hexdigest() for name, data in members.items() if ".wh." not in name})
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["sh"], "Env": ["PATH=/bin:/sbin:/usr/bin:/usr/sbin"]},
            "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in made]},
            "history": [{"created_by": f"layer {n}"} for n in range(len(made))],
        }
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": digest(config), "size": len(config)},
        "layers": [{"mediaType": OCI_GZIP_LAYER, "digest": digest(data), "size": len(data)} for data, _ in made],
    }
    blobs = {digest(config): config, **{digest(data): data for data, _ in made}}
    return SmallImage(seed, json.dumps(manifest).encode(), blobs, made, seen)


def _content(dice: random.Random, largest: int) -> bytes:
    if dice.random() < 0.4:
        number = dice.randrange(_COMMON)
        return random.Random(f"common {number}").randbytes(500 * number)
    return dice.randbytes(dice.choice([10, 900, 5000, largest]))


def _tar(members: dict[str, bytes], *, folders: bool = False) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        made: set[str] = set()
        for name, data in members.items():
            for parent in [str(p) for p in reversed(Path(name).parents)][1:] if folders else ():
                if parent not in made:
                    made.add(parent)
                    info = tarfile.TarInfo(parent)
                    info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, 1_700_000_000
                    tar.addfile(info)
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(data), 0o644, 1_700_000_000
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
