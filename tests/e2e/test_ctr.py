"""`ctr`, the client that comes with containerd: pulls with and without labels of remote snapshots, and runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hyperbox._dev.fidelity import differences
from hyperbox._dev.lab import NEXT, STABLE, Engine, Hyperboxd, Release
from support.e2e_engines import FOREVER, System, container_tree, events, layers, settle
from support.lab_fixtures import Lab

pytestmark = pytest.mark.engine

RELEASES = [pytest.param(STABLE, id="containerd-1"), pytest.param(NEXT, id="containerd-2", marks=pytest.mark.slow)]


@pytest.fixture(params=RELEASES)
def system(request: pytest.FixtureRequest, lab: Lab) -> Iterator[System]:
    """A containerd without Docker, on HyperBox."""
    release: Release = request.param
    daemon: Hyperboxd = lab.hyperboxd("ctr", engine="ctr-e")
    engine: Engine = lab.engine("ctr-e", snapshotter=daemon.snapshotter, release=release, docker=False)
    yield System(engine, daemon)
    engine.stop()
    daemon.close()


def _run(system: System, reference: str, name: str, snapshotter: str, *command: str) -> int:
    """Start a container in the background; returns its process id."""
    system.engine.ctr("run", "-d", "--snapshotter", snapshotter, reference, name, *command)
    for line in system.engine.ctr("tasks", "ls").stdout.splitlines():
        if line.split()[0] == name:
            return int(line.split()[1])
    raise AssertionError(f"{name} does not run")


def _pull(system: System, lab: Lab, name: str) -> str:
    _, reference = lab.image(name)
    system.engine.ctr("images", "pull", "--plain-http", "--snapshotter", "hyperbox", reference)
    settle(system.client)
    return reference


def test_pull_and_run(system: System, lab: Lab) -> None:
    reference = _pull(system, lab, "debian-base")
    out = system.engine.ctr(
        "run", "--rm", "--snapshotter", "hyperbox", reference, "once", "cat", "/etc/os-release"
    ).stdout
    assert "bookworm" in out
    system.engine.ctr("images", "pull", "--plain-http", "--snapshotter", "overlayfs", reference)
    trees = [
        container_tree(_run(system, reference, f"on-{snapshotter}", snapshotter, "sleep", FOREVER))
        for snapshotter in ("overlayfs", "hyperbox")
    ]
    assert differences(*trees, made_by_engine={b""}) == []  # runc makes its mount points in the root folder
    assert len(trees[1].paths) > 1000
    assert all(len(tree.devices) == 1 for tree in trees)


def test_layers_come_by_pull_with_labels_and_by_compaction_without(system: System, lab: Lab) -> None:
    reference = _pull(system, lab, "python-web")
    found = layers(system.client, reference)
    if events(system.client, "layer.provided"):
        assert {(layer.form, layer.source, layer.reason) for layer in found} == {("composed", "pull", "")}
    else:  # ctr of containerd 1.7 has no labels for remote snapshots
        assert [layer.form for layer in found] == ["composed", "composed", "folder"], "the app's files are all tiny"
        assert all(layer.reason for layer in found)
    command = ("python3", "-c", "import flask; print(6 * 7)")
    assert system.engine.ctr("run", "--rm", "--snapshotter", "hyperbox", reference, "once", *command).stdout == "42\n"
    assert events(system.client, "layer.compaction-failed") == []


def test_usage_of_a_snapshot_and_its_end(system: System, lab: Lab) -> None:
    reference = _pull(system, lab, "busybox")
    snapshots = ("snapshots", "--snapshotter", "hyperbox")
    assert system.engine.ctr(*snapshots, "ls").stdout.count("Committed") == 1
    system.engine.ctr(
        "run", "--snapshotter", "hyperbox", reference, "one", "sh", "-c", "head -c 2000000 /dev/zero > /b"
    )
    assert 2_000_000 <= int(system.engine.ctr(*snapshots, "usage", "-b", "one").stdout.split()[-2]) < 2_100_000
    system.engine.ctr("containers", "rm", "one")
    system.engine.ctr("images", "rm", "--sync", reference)
    assert "sha256" not in system.engine.ctr(*snapshots, "ls").stdout
