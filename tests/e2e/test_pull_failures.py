"""When HyperBox cannot or must not provide a layer: the engine's own way decides, and `image explain` says why."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hyperbox._dev.fidelity import differences
from hyperbox._dev.lab.images import LabImage
from hyperbox._dev.lab.runs import mounts_below, wait_until
from support.e2e_engines import System, assert_sound, cli, events, layers
from support.e2e_images import make_image
from support.lab_fixtures import Lab
from support.layer_archives import END, file, header

pytestmark = pytest.mark.engine

GOOD = file(b"good", b"good" * 1000) + END


@pytest.fixture
def pair(vanilla: System, hyper: System) -> Iterator[tuple[System, System]]:
    """Both systems, empty before; HyperBox's store is sound and nothing is half-made after each test."""
    assert hyper.daemon is not None
    for system in (vanilla, hyper):
        system.clean()
    mounts = set(mounts_below(hyper.daemon.run_folder))
    yield vanilla, hyper
    for system in (vanilla, hyper):
        system.clean()
    assert set(mounts_below(hyper.daemon.run_folder)) <= mounts
    assert list((hyper.daemon.state / "ingest").iterdir()) == []
    assert_sound(hyper.client)


def _image(lab: Lab, folder: Path, name: str, *tars: bytes) -> LabImage:
    return make_image(folder / "oci", lab.image("busybox")[0], name, tars)


def _pull(system: System, reference: str) -> str:
    """The error of a pull, without what is its own in each attempt; empty when it succeeds."""
    return system.engine.docker("pull", "-q", reference, check=False).stderr.strip()


def _replace(path: Path, data: bytes) -> None:
    path.unlink()  # it is a hard link
    path.write_bytes(data)


def test_blob_with_other_content_than_its_digest(pair: tuple[System, System], lab: Lab, tmp_path: Path) -> None:
    image = _image(lab, tmp_path, "changed", GOOD, file(b"top", os.urandom(50_000)) + END)
    reference = image.push(lab.registry)
    blob = lab.registry.blob_path(image.layers[-1].digest)
    right = blob.read_bytes()
    _replace(blob, right[:-1] + bytes([right[-1] ^ 1]))
    errors = [_pull(system, reference) for system in pair]
    assert all(errors), "nobody takes it"
    assert errors[0] == errors[1]
    reasons = [layer.reason for layer in layers(pair[1].client, reference)]
    assert reasons[0] == ""
    assert "HB-" in reasons[-1]
    _replace(blob, right)
    # For some seconds HyperBox leaves a layer that has failed to the engine, which goes on with the wrong bytes that it
    # has kept (on overlayfs, too).
    until = time.monotonic() + 60
    while (error := _pull(pair[1], reference)) and time.monotonic() < until:
        pass
    assert error == ""
    assert pair[1].sh(reference, "wc -c < /top") == "50000"


def test_blob_that_is_not_there(pair: tuple[System, System], lab: Lab, tmp_path: Path) -> None:
    image = _image(lab, tmp_path, "absent", GOOD, file(b"top", b"top" * 2000) + END)
    reference = image.push(lab.registry)
    lab.registry.blob_path(image.layers[-1].digest).unlink()
    errors = [_pull(system, reference) for system in pair]
    assert all("not found" in error for error in errors), errors
    image.push(lab.registry)
    assert [_pull(system, reference) for system in pair] == ["", ""]


def test_truncated_layer(pair: tuple[System, System], lab: Lab, tmp_path: Path) -> None:
    """Its digest is right: it was pushed like that."""
    image = _image(lab, tmp_path, "truncated", GOOD, file(b"top", b"t" * 100_000)[:50_000])
    reference = image.push(lab.registry)
    errors = [_pull(system, reference) for system in pair]
    assert all(errors)
    assert any("HB-" in layer.reason for layer in layers(pair[1].client, reference))


@pytest.mark.parametrize(
    ("name", "hostile"),
    [
        ("dots", file(b"../../outside", b"o" * 5000) + file(b"inside", b"i" * 5000)),
        ("absolute", file(b"/absolute", b"a" * 5000)),
        ("link-out", header(b"way", b"2", link=b"/") + file(b"way/through", b"t" * 5000)),
        ("trailing", file(b"last", b"l" * 5000) + END + b"rubbish" * 1000),
    ],
)
def test_hostile_layer_is_treated_as_the_engine_treats_it(
    pair: tuple[System, System], lab: Lab, tmp_path: Path, name: str, hostile: bytes
) -> None:
    assert pair[1].daemon is not None
    image = _image(lab, tmp_path, f"hostile-{name}", GOOD, hostile + END)
    reference = image.push(lab.registry)
    errors = [_pull(system, reference) for system in pair]
    assert bool(errors[0]) == bool(errors[1]), errors
    for place in ("/outside", "/through", "/absolute"):
        assert not Path(place).exists()
    if errors[0]:
        return
    pair[1].settle()
    trees = [system.tree(system.hold(reference)) for system in pair]
    assert differences(*trees, made_by_engine={b"", b".dockerenv", b"etc", b"etc/mtab", b"way"}) == []
    last = layers(pair[1].client, reference)[-1]
    if last.source != "pull":
        assert "HB-" in last.reason
        assert last.reason.split(":")[0] in cli(pair[1].daemon, "image", "explain", reference)


def test_registry_that_goes_away_in_the_middle(pair: tuple[System, System], lab: Lab, tmp_path: Path) -> None:
    image = _image(lab, tmp_path, "gone", GOOD, _many(80) + END)
    direct = image.push(lab.registry)
    for system in pair:
        assert _pull_interrupted(system, lab, image)
        assert _pull(system, direct) == ""
        assert system.sh(direct, "cat /many/* | wc -c") == "4000000"


def _pull_interrupted(system: System, lab: Lab, image: LabImage) -> str:
    """The error of a pull whose connections to the registry end while the last layer comes in."""
    proxy = lab.distance(0.001, 2e6)  # 16 s for all of it
    with ThreadPoolExecutor(1) as pool:
        pull = pool.submit(_pull, system, proxy.reference(image.name, image.tag))
        wait_until(lambda: _fetches(system, image.layers[-1].digest), 20, "the beginning of the fetch")
        proxy.stop()
        return pull.result(120)


def _many(count: int) -> bytes:
    return b"".join(file(b"many/%d" % number, os.urandom(50_000)) for number in range(count))


def _fetches(system: System, digest: str) -> bool:
    """Whether the first bytes of a layer are here: files of it in one, and the beginning of its blob in the other."""
    if system.daemon is not None:
        return len(list((system.daemon.state / "objects").glob("*/*"))) > 5
    ingests = system.engine.root / "containerd/io.containerd.content.v1.content/ingest"
    with contextlib.suppress(FileNotFoundError):  # ended in this moment, or none has begun
        for entry in ingests.iterdir():
            if digest in (entry / "ref").read_text() and (entry / "data").stat().st_size:
                return True
    return False


def test_layer_over_the_limit_is_left_to_the_engine_and_compacted(lab: Lab) -> None:
    daemon = lab.hyperboxd("limits", engine="limits-e", env={"HYPERBOX_IMAGES_MAX_LAYER_FILES": "1000"})
    engine = lab.engine("limits-e", snapshotter=daemon.snapshotter)
    system = System(engine, daemon)
    _, reference = lab.image("debian-base")
    engine.docker("pull", "-q", reference)
    declined = events(system.client, "layer.declined")
    assert len(declined) == 1
    system.settle()
    layer = layers(system.client, reference)[0]
    assert (layer.form, layer.source) == ("composed", "compacted")
    assert str(declined[0]["code"]) in layer.reason
    assert layer.reason in " ".join(cli(daemon, "image", "explain", reference, "--format", "json").split())
    assert "bookworm" in system.sh(reference, "cat /etc/os-release")
    engine.stop()
    daemon.close()


def test_remote_layers_can_be_switched_off(lab: Lab) -> None:
    daemon = lab.hyperboxd("off", engine="off-e", env={"HYPERBOX_SNAPSHOTTER_REMOTE_LAYERS": "false",
                                                       "HYPERBOX_SNAPSHOTTER_COMPACTION": "false"})  # fmt: skip
    engine = lab.engine("off-e", snapshotter=daemon.snapshotter)
    system = System(engine, daemon)
    _, reference = lab.image("busybox")
    engine.docker("pull", "-q", reference)
    assert [(layer.form, layer.source) for layer in layers(system.client, reference)] == [("folder", "engine")]
    assert system.sh(reference, "echo runs") == "runs"
    engine.stop()
    daemon.close()
