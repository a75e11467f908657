"""The proof: a container on HyperBox sees what it sees on plain overlayfs, in everything a program can notice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperbox._dev.fidelity import compare_containers, differences
from hyperbox._dev.lab.images import ALL_IMAGES, CI_IMAGES, run_until_ready
from support.e2e_engines import System, assert_sound, layers, reconnected
from support.e2e_images import BEFORE_1970, IMPLICIT, make_image, odd_layers
from support.lab_fixtures import Lab

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


def _images(quick: tuple[str, ...]) -> list[Any]:
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in ALL_IMAGES]


MADE_BY_ENGINE = {b"", b".dockerenv", b"etc", b"etc/mtab"}


@pytest.fixture
def pair(vanilla: System, hyper: System) -> Iterator[tuple[System, System]]:
    """Both systems; their containers are removed."""
    yield vanilla, hyper
    for system in (vanilla, hyper):
        containers = system.out("ps", "-aq", "--no-trunc").split()
        if containers:
            system.engine.docker("rm", "-f", "-v", *containers)


def _same(pair: tuple[System, System], names: tuple[str, str]) -> int:
    """Compare fresh containers of an image's two names; returns the number of paths."""
    pids = [system.pid(system.hold(name, "-u", "0")) for system, name in zip(pair, names, strict=True)]
    found = compare_containers(*pids)
    assert found.differences == ()
    return found.paths


@pytest.mark.parametrize("name", _images(CI_IMAGES))
def test_pulled_image(pair: tuple[System, System], lab: Lab, name: str) -> None:
    image, reference = lab.image(name)
    for system in pair:
        system.engine.docker("pull", "-q", reference)
    assert {(layer.form, layer.source) for layer in layers(pair[1].client, reference)} == {("composed", "pull")}
    started = run_until_ready(pair[1].engine, reference, image.recipe, seconds=120)
    if started.container:
        started.remove()
    assert _same(pair, (reference, reference)) > 200


@pytest.mark.parametrize("name", _images(("busybox:v1", "debian-base:v1")))
def test_loaded_image_after_compaction(pair: tuple[System, System], lab: Lab, name: str, tmp_path: Path) -> None:
    """Layers that the engine unpacked and HyperBox turned into objects afterwards."""
    vanilla, hyper = pair
    image, reference = lab.image(name)
    vanilla.engine.docker("pull", "-q", reference)
    # What was pulled before must not serve this name: its chain would be composed by pull already.
    hyper.clean()
    file = tmp_path / "image.tar"
    lab.images.save(image, file)
    hyper.engine.docker("load", "-q", "-i", str(file))
    file.unlink()
    hyper.settle(240)
    assert "compacted" in {layer.source for layer in layers(hyper.client, image.key)}
    started = run_until_ready(hyper.engine, image.key, image.recipe, seconds=120)
    if started.container:
        started.remove()
    assert _same(pair, (reference, image.key)) > 200
    hyper.clean()


@pytest.mark.parametrize("variant", ["zstd", "plain"])
def test_other_compressions(pair: tuple[System, System], lab: Lab, variant: str) -> None:
    _, reference = lab.image("debian-base", variant)
    for system in pair:
        system.engine.docker("pull", "-q", reference)
    assert {(layer.form, layer.source) for layer in layers(pair[1].client, reference)} == {("composed", "pull")}
    assert _same(pair, (reference, reference)) > 1000


def test_after_a_restart_of_hyperboxd(pair: tuple[System, System], lab: Lab) -> None:
    vanilla, hyper = pair
    assert hyper.daemon is not None
    _, reference = lab.image("python-web")
    for system in pair:
        system.engine.docker("pull", "-q", reference)
    before = hyper.hold(reference)
    hyper.daemon.stop()
    hyper.daemon.start()
    reconnected(hyper)
    assert _same(pair, (reference, reference)) > 1000
    held = vanilla.hold(reference)
    assert compare_containers(vanilla.pid(held), hyper.pid(before)).differences == ()


@pytest.mark.parametrize("way", ["pulled", "loaded", "loaded and compacted"])
def test_everything_odd(pair: tuple[System, System], lab: Lab, tmp_path: Path, way: str) -> None:
    vanilla, hyper = pair
    busybox, _ = lab.image("busybox")
    image = make_image(tmp_path / "oci", busybox, f"odd-{way.replace(' ', '-')}", odd_layers(tmp_path))
    reference = name = image.push(lab.registry)
    vanilla.engine.docker("pull", "-q", reference)
    if way == "pulled":
        hyper.engine.docker("pull", "-q", reference)
        assert {layer.source for layer in layers(hyper.client, reference)} == {"pull"}
    else:
        hyper.clean()
        lab.images.save(image, tmp_path / "odd.tar")
        hyper.engine.docker("load", "-q", "-i", str(tmp_path / "odd.tar"))
        name = image.key
    if way == "loaded and compacted":
        hyper.settle()
        assert {layer.source for layer in layers(hyper.client, name)} == {"compacted"}
    trees = [system.tree(system.hold(one)) for system, one in ((vanilla, reference), (hyper, name))]
    assert differences(trees[0], trees[1], made_by_engine=MADE_BY_ENGINE | IMPLICIT | BEFORE_1970) == []
    assert len(trees[1].devices) == 1
    paths = trees[1].paths
    assert paths[b"odd/a/large"].links == 3
    assert paths[b"odd/a/large"].mtime_ns == (-1_500_000_001 if way == "pulled" else 0)
    assert "security.capability" in dict(paths[b"odd/a/capable"].xattrs)
    assert paths[b"odd/sparse"].uid == 3_000_000_000
    assert paths[b"odd/twice"].group == b"odd/hard"
    assert {path for path in paths if path.startswith(b"odd/opaque/")} == {b"odd/opaque/new"}
    assert not {b"odd/whole", b"odd/kept/gone"} & paths.keys()
    assert dict(paths[b"odd/a/large"].xattrs)["user.binary"] == bytes(range(256))


def test_store_is_sound_after_all_that(hyper: System) -> None:
    hyper.settle()
    assert_sound(hyper.client)
