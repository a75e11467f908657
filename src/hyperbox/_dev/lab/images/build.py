"""Building the lab's images into an OCI folder, and putting them into a registry."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..apt import PrivateApt, codename, unpack
from ..home import LabError, LabHome, recipe_of, remove_tree
from ..registry import Registry
from .chroot import SLIM, Overlay, abort_builds, bootstrap
from .layer_tar import Layer, pack, repack
from .recipes import Base, Recipe, resolve

_What = TypeVar("_What")
_Made = TypeVar("_Made")
_RECIPE = 2  # raise when the way of building changes
_CREATED = "2026-01-01T00:00:00Z"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"


@dataclass(frozen=True)
class LabImage:
    """A built image. Digests are `sha256:…`; `folder` is the OCI folder with its blobs."""

    name: str
    tag: str
    manifest: str
    config: str
    layers: tuple[Layer, ...]
    folder: Path
    recipe: Recipe

    @property
    def key(self) -> str:
        """`name:tag`, also its place in a registry."""
        return f"{self.name}:{self.tag}"

    @property
    def compressed_size(self) -> int:
        """Bytes of all layer blobs."""
        return sum(layer.size for layer in self.layers)

    def blob(self, digest: str) -> Path:
        """The file of one blob."""
        return self.folder / "blobs/sha256" / digest.partition(":")[2]

    def push(self, registry: Registry) -> str:
        """Put the image into a registry's storage; returns the reference to pull."""
        blobs = [self.config, *(layer.digest for layer in self.layers)]
        return registry.add(self.name, self.tag, self.manifest, blobs, self.folder)


class Images:
    """The images of a lab, built on first use and kept in its folder."""

    def __init__(self, home: LabHome) -> None:
        self.home = home
        self.folder = home.path("oci")
        self.blobs = self.folder / "blobs/sha256"

    def ensure(self, names: Iterable[str], variant: str = "gzip") -> list[LabImage]:
        """Have images by name (`nginx`, `python-web:v2`); builds those that are missing or out of date.

        `variant` is the compression of their layers: `gzip`, `zstd` or `plain`; the tags of the latter two end in it.
        """
        try:
            recipes = [resolve(name) for name in names]
        except KeyError as error:
            raise LabError(f"the lab has no image {error}") from None
        if all(self._is_built(recipe) for recipe in recipes):
            found = [self._image(recipe) for recipe in recipes]
        else:
            found = self._build(recipes)
        return found if variant == "gzip" else [self._variant(image, variant) for image in found]

    def _build(self, recipes: list[Recipe]) -> list[LabImage]:
        with self.home.lock():
            bases = dict.fromkeys(recipe.base for recipe in recipes if recipe.base and not self._is_built(recipe))
            self._each(self._base, list(bases))
            return self._each(self._image, recipes)

    def get(self, name: str) -> LabImage:
        """Have one image."""
        return self.ensure([name])[0]

    def save(self, image: LabImage, file: Path) -> None:
        """Write an image as an OCI archive that `docker load` and `ctr images import` take."""
        layout = file.with_suffix(".layout")
        target = layout / "blobs/sha256"
        target.mkdir(parents=True)
        try:
            for digest in (image.manifest, image.config, *(layer.digest for layer in image.layers)):
                shutil.copyfile(image.blob(digest), target / digest.partition(":")[2])
            entry = {
                "mediaType": _MANIFEST, "digest": image.manifest, "size": image.blob(image.manifest).stat().st_size,
                "annotations": {
                    "org.opencontainers.image.ref.name": image.tag,
                    "io.containerd.image.name": f"docker.io/library/{image.key}",
                },
            }  # fmt: skip
            (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
            (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
            subprocess.run(
                ["tar", "-C", str(layout), "-cf", str(file), "oci-layout", "index.json", "blobs"], check=True
            )
        finally:
            remove_tree(layout)

    def prune(self) -> int:
        """Delete blobs that no built image or base uses any more; returns how many bytes."""
        with self.home.lock():
            used = set()
            for record in (*self.home.root.glob("images/*/image.json"), *self.home.root.glob("bases/*/layer.json")):
                used |= set(re.findall(r"sha256:([0-9a-f]{64})", record.read_text()))
            freed = 0
            for blob in self.blobs.glob("*"):
                if blob.name not in used:
                    freed += blob.stat().st_size
                    blob.unlink()
            return freed

    def _each(self, build: Callable[[_What], _Made], what: list[_What]) -> list[_Made]:
        """Build several things, two at a time; dpkg and mmdebstrap use one core each."""
        with ThreadPoolExecutor(2) as pool:
            try:
                return list(pool.map(build, what))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                abort_builds()
                raise

    # Trees

    def _base_recipe(self, base: Base) -> str:
        return recipe_of(_RECIPE, base, SLIM, codename())

    def _base(self, base: Base) -> tuple[Path, Layer]:
        def build(part: Path) -> None:
            bootstrap(self.home, part / "tree", include=base.include, slim=base.slim)
            layer = pack(part / "tree", self.blobs)
            (part / "layer.json").write_text(json.dumps(dataclasses.asdict(layer)))

        target = self.home.path("bases", base.name)
        self.home.once(target, self._base_recipe(base), build, f"building base {base.name} with mmdebstrap")
        return target / "tree", Layer(**json.loads((target / "layer.json").read_text()))

    def _busybox(self, tree: Path) -> None:
        apt = PrivateApt(self.home, codename())
        unpack(apt.download(["busybox-static"], tree.with_name("debs")), tree.with_name("unpacked"))
        (tree / "bin").mkdir(parents=True)
        (tree / "tmp").mkdir()
        (tree / "tmp").chmod(0o1777)
        (tree / "etc").mkdir()
        (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (tree / "etc/group").write_text("root:x:0:\n")
        program = tree / "bin/busybox"
        shutil.copy2(tree.with_name("unpacked") / "bin/busybox", program)
        applets = subprocess.run([str(program), "--list"], capture_output=True, text=True, check=True).stdout.split()
        for applet in applets:
            if applet != "busybox":
                (tree / "bin" / applet).symlink_to("busybox")

    def _layers(self, recipe: Recipe, work: Path) -> list[Layer]:
        with ThreadPoolExecutor(2) as pool:
            if recipe.base is None:
                self._busybox(work / "tree")
                return [pool.submit(pack, work / "tree", self.blobs).result()]
            tree, base = self._base(recipe.base)
            overlay = Overlay(self.home, tree, work)
            packing: list[Future[Layer]] = []
            if recipe.packages:
                packing.append(pool.submit(pack, overlay.install(recipe.packages, recipe.before), self.blobs))
            if recipe.app:
                packing.append(pool.submit(pack, overlay.script(recipe.app), self.blobs))
            return [base, *(one.result() for one in packing)]

    # Images

    def _place(self, recipe: Recipe) -> tuple[Path, str]:
        base = self._base_recipe(recipe.base) if recipe.base else ""
        return self.home.path("images", f"{recipe.name}-{recipe.tag}"), recipe_of(_RECIPE, recipe, base)

    def _is_built(self, recipe: Recipe) -> bool:
        return self.home.is_current(*self._place(recipe))

    def _image(self, recipe: Recipe) -> LabImage:

        def build(part: Path) -> None:
            work = part / "work"
            work.mkdir()
            layers = self._layers(recipe, work)
            remove_tree(work)
            self._write_image(part, recipe, layers)

        target, stamp = self._place(recipe)
        self.home.once(target, stamp, build, f"building image {recipe.key}")
        return self._load(target, recipe, recipe.tag)

    def _variant(self, image: LabImage, variant: str) -> LabImage:
        tag = f"{image.tag}-{variant}"

        def build(part: Path) -> None:
            with ThreadPoolExecutor(2) as pool:
                layers = list(pool.map(lambda layer: repack(layer, self.blobs, variant), image.layers))
            self._write_image(part, image.recipe, layers)

        target = self.home.path("images", f"{image.name}-{tag}")
        recipe = recipe_of(_RECIPE, image.manifest, variant)
        self.home.once(target, recipe, build, f"compressing {image.key} as {variant}")
        return self._load(target, image.recipe, tag)

    def _blob(self, value: dict[str, Any]) -> tuple[str, int]:
        data = json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
        name = hashlib.sha256(data).hexdigest()
        (self.blobs / name).write_bytes(data)
        return f"sha256:{name}", len(data)

    def _write_image(self, part: Path, recipe: Recipe, layers: list[Layer]) -> None:
        env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **recipe.env}
        settings: dict[str, Any] = {"Env": [f"{name}={value}" for name, value in env.items()]}
        optional: dict[str, Any] = {
            "Entrypoint": list(recipe.entrypoint), "Cmd": list(recipe.cmd), "User": recipe.user,
            "WorkingDir": recipe.workdir, "ExposedPorts": {f"{recipe.port}/tcp": {}} if recipe.port else None,
        }  # fmt: skip
        settings |= {name: value for name, value in optional.items() if value}
        config, config_size = self._blob({
            "architecture": "amd64", "os": "linux", "created": _CREATED, "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": [{"created": _CREATED, "created_by": f"lab {recipe.key}"} for _ in layers],
        })  # fmt: skip
        manifest, _ = self._blob({
            "schemaVersion": 2, "mediaType": _MANIFEST,
            "config": {"mediaType": _CONFIG, "digest": config, "size": config_size},
            "layers": [
                {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size} for layer in layers
            ],
        })  # fmt: skip
        record = {"manifest": manifest, "config": config, "layers": [dataclasses.asdict(one) for one in layers]}
        (part / "image.json").write_text(json.dumps(record, indent=2))

    def _load(self, target: Path, recipe: Recipe, tag: str) -> LabImage:
        record = json.loads((target / "image.json").read_text())
        layers = tuple(Layer(**layer) for layer in record["layers"])
        return LabImage(recipe.name, tag, record["manifest"], record["config"], layers, self.folder, recipe)
