"""`images.keep_blobs`: what needs the compressed layers works as it does without HyperBox."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperbox._dev.lab import NEXT
from support.e2e_engines import HOST, System, cli, events, layers, reconnected
from support.e2e_images import make_image
from support.lab_fixtures import Lab
from support.layer_archives import END, file

pytestmark = pytest.mark.engine

KEEP = {"HYPERBOX_IMAGES_KEEP_BLOBS": "true"}


@pytest.fixture
def keeping(lab: Lab) -> Iterator[System]:
    """Docker on a HyperBox that keeps blobs; nothing in it yet."""
    daemon = lab.hyperboxd("keep", engine="keep-e", env=KEEP)
    engine = lab.engine("keep-e", snapshotter=daemon.snapshotter)
    yield System(engine, daemon)
    engine.stop()
    daemon.close()


def _blobs(system: System, namespace: str = "moby") -> dict[str, str]:
    """Labels of everything in the content store, by digest."""
    rows = system.engine.ctr("-n", namespace, "content", "ls").stdout.splitlines()[1:]
    return {row.split()[0]: row.split()[-1] for row in rows}


def _leases(system: System) -> str:
    return system.engine.ctr("-n", "moby", "leases", "ls", "-q").stdout


def _runs(system: System, reference: str) -> bool:
    script = ("-c", "import flask; print(6 * 7)")
    return system.out("run", "--rm", *HOST, "--entrypoint", "python3", reference, *script) == "42"


def _collect(system: System) -> None:
    """Have containerd collect what nothing refers to: the end of a lease, waited for, does that."""
    system.engine.ctr("-n", "moby", "leases", "create", "--id", "passing")
    system.engine.ctr("-n", "moby", "leases", "delete", "--sync", "passing")


def test_list_save_load_push_prune_and_remove(keeping: System, vanilla: System, lab: Lab, tmp_path: Path) -> None:
    image, reference = lab.image("python-web")
    keeping.engine.docker("pull", "-q", reference)
    assert {layer.source for layer in layers(keeping.client, reference)} == {"pull"}
    assert reference in keeping.out("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").splitlines()
    blobs = _blobs(keeping)
    for layer in image.layers:
        labels = blobs[layer.digest]
        assert f"containerd.io/uncompressed={layer.diff_id}" in labels
        assert f"containerd.io/distribution.source.{lab.registry.host}={image.name}" in labels
    assert "hyperbox" not in _leases(keeping), "the manifest keeps them, so nothing lingers after a removal"

    keeping.engine.docker("image", "prune", "-f")
    _collect(keeping)
    assert set(_blobs(keeping)) >= {layer.digest for layer in image.layers}

    saved = tmp_path / "saved.tar"
    keeping.engine.docker("save", "-o", str(saved), reference)
    with tarfile.open(saved) as tar:
        names = set(tar.getnames())
    assert {f"blobs/sha256/{layer.digest.partition(':')[2]}" for layer in image.layers} <= names
    vanilla.clean()
    vanilla.engine.docker("load", "-i", str(saved))
    assert _runs(vanilla, reference)
    vanilla.clean()

    elsewhere = lab.registry.reference("kept/elsewhere", "1")
    keeping.engine.docker("tag", reference, elsewhere)
    keeping.engine.docker("push", "-q", elsewhere)
    vanilla.engine.docker("pull", "-q", elsewhere)
    assert _runs(vanilla, elsewhere)
    vanilla.clean()

    keeping.engine.docker("rmi", elsewhere, reference)
    assert not set(_blobs(keeping)) & {layer.digest for layer in image.layers}
    assert events(keeping.client, "layer.blob-not-kept") == []
    assert keeping.daemon is not None
    assert list((keeping.daemon.state / "ingest").iterdir()) == []


def test_layers_that_were_here_before_bring_their_blobs_as_well(lab: Lab, tmp_path: Path) -> None:
    """The lower layer came for another image, when blobs were not kept; the upper one was pulled ahead."""
    daemon = lab.hyperboxd("later", engine="later-e")
    engine = lab.engine("later-e", snapshotter=daemon.snapshotter)
    system = System(engine, daemon)
    base = lab.image("busybox")[0]
    shared = file(b"shared", b"s" * 5000) + END
    images = [
        make_image(tmp_path / name, base, f"kept-{name}", (shared, file(name.encode(), name.encode() * 3000) + END))
        for name in ("one", "two", "three")
    ]
    references = [image.push(lab.registry) for image in images]
    engine.docker("pull", "-q", references[0])
    assert not set(_blobs(system)) & {layer.digest for layer in images[0].layers}
    daemon.stop()
    settings = tmp_path / "hyperbox.conf"
    settings.write_text("[images]\nkeep_blobs = true\n")
    daemon.start("--config", str(settings))
    reconnected(system)
    cli(daemon, "image", "pull", references[1])
    for image, reference in zip(images[1:], references[1:], strict=True):
        engine.docker("pull", "-q", reference)
        assert set(_blobs(system)) >= {layer.digest for layer in image.layers}
        assert f"{image.name}:{image.tag}" in system.out("image", "ls", "--format", "{{.Repository}}:{{.Tag}}")
    assert "hyperbox" not in _leases(system)
    sources = _blobs(system)[images[2].layers[0].digest]
    assert all(f"{image.name}" in sources for image in images[1:]), "a push to either repository need not send it"
    engine.docker("rmi", references[1])
    _collect(system)
    assert set(_blobs(system)) >= {layer.digest for layer in images[2].layers}
    engine.docker("save", "-o", str(tmp_path / "saved.tar"), references[2])
    assert events(system.client, "layer.blob-not-kept") == []
    engine.stop()
    daemon.close()


def test_pull_works_when_the_engine_takes_no_blobs(lab: Lab) -> None:
    daemon = lab.hyperboxd("deaf", env={**KEEP, "HYPERBOX_ENGINE_CONTAINERD_ADDRESS": "/nowhere/containerd.sock"})
    engine = lab.engine("deaf-e", snapshotter=daemon.snapshotter)
    system = System(engine, daemon)
    image, reference = lab.image("busybox")
    engine.docker("pull", "-q", reference)
    assert system.sh(reference, "echo runs") == "runs"
    told = events(system.client, "layer.blob-not-kept")
    assert [(event["layer"], event["code"]) for event in told] == [(image.layers[0].digest, "HB-ENGINE-002")]
    engine.stop()
    daemon.close()


@pytest.mark.slow
def test_second_namespace_and_newer_engine(lab: Lab, tmp_path: Path) -> None:
    """Of the second namespace's pull nothing needs a fetch: all snapshots and blobs are in the first."""
    daemon = lab.hyperboxd("newer", engine="newer-e", env=KEEP)
    engine = lab.engine("newer-e", snapshotter=daemon.snapshotter, release=NEXT)
    system = System(engine, daemon)
    image, reference = lab.image("python-web")
    digests = {layer.digest for layer in image.layers}
    engine.docker("pull", "-q", reference)
    assert set(_blobs(system)) >= digests
    engine.ctr("-n", "other", "images", "pull", "--plain-http", "--snapshotter", "hyperbox", reference)
    assert set(_blobs(system, "other")) >= digests
    engine.docker("rmi", reference)
    assert not set(_blobs(system)) & digests
    engine.ctr("-n", "other", "images", "export", str(tmp_path / "exported.tar"), reference)
    assert "hyperbox" not in _leases(system)
    assert events(system.client, "layer.blob-not-kept") == []
    engine.stop()
    daemon.close()
