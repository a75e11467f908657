"""The implementations of the snapshot service that the contract is checked on."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from contract.snapshots_client import Snapshots
from hyperbox._dev.lab import Engine
from hyperbox.linux import mountinfo, probe
from hyperbox.snapshotter import Snapshotter, SnapshotterServer
from hyperbox.snapshotter.folders import detach_below
from hyperbox.store import Store
from support.lab_fixtures import Lab

IMPLEMENTATIONS = [
    pytest.param("composed-compacted", marks=pytest.mark.root),
    pytest.param("composed", marks=pytest.mark.root),
    pytest.param("vanilla", marks=pytest.mark.root),
    pytest.param("containerd-overlayfs", marks=[pytest.mark.root, pytest.mark.engine]),
    pytest.param("containerd-hyperbox", marks=[pytest.mark.root, pytest.mark.engine]),
]
_namespaces = (f"suite-{number}" for number in itertools.count())


@pytest.fixture
def place() -> Iterator[Path]:
    """A short folder (unix sockets have 107 bytes of path); nothing may stay mounted in it."""
    umask = os.umask(0)
    folder = Path(tempfile.mkdtemp(prefix="hb-"))
    yield folder
    os.umask(umask)
    left = [entry.target for entry in mountinfo() if entry.target.startswith(f"{folder}/")]
    detach_below(str(folder))
    shutil.rmtree(folder)
    assert left == []


@pytest.fixture(scope="session")
def reference_engine(lab: Lab) -> Engine:
    """A containerd alone, with its own overlayfs snapshotter."""
    return lab.engine("reference", docker=False)


@dataclass(frozen=True)
class Proxied:
    """A containerd that has HyperBox, compaction included, as a proxy snapshotter."""

    engine: Engine
    snapshotter: Snapshotter


@pytest.fixture(scope="session")
def proxied(lab: Lab) -> Iterator[Proxied]:
    place = Path(tempfile.mkdtemp(prefix="hb-"))
    with contextlib.ExitStack() as held:
        held.callback(shutil.rmtree, place)
        if missing := probe(place).missing_for_composed:
            pytest.skip(f"the kernel lacks {', '.join(feature.name for feature in missing)}")
        store = held.enter_context(Store.open(place / "state"))
        snapshotter = Snapshotter(store, place / "run", compaction_minimum=0)
        held.callback(snapshotter.close)
        server = SnapshotterServer(snapshotter, place / "run" / "s.sock")
        held.callback(server.stop, 1.0)
        server.start()
        engine = lab.engine("proxied", docker=False, snapshotter=("hyperbox", place / "run" / "s.sock"))
        held.callback(engine.stop)
        yield Proxied(engine, snapshotter)


@pytest.fixture(params=IMPLEMENTATIONS)
def snapshots(request: pytest.FixtureRequest, place: Path) -> Iterator[Snapshots]:
    """A client of a fresh snapshotter, one for each implementation."""
    if request.param == "containerd-overlayfs":
        yield from _containerd(request.getfixturevalue("reference_engine"), "overlayfs")
        return
    if request.param == "containerd-hyperbox":
        yield from _containerd(request.getfixturevalue("proxied").engine, "hyperbox")
        return
    yield from _hyperbox(request.param, place)


def _hyperbox(variant: str, place: Path) -> Iterator[Snapshots]:
    if variant != "vanilla" and (missing := probe(place).missing_for_composed):
        pytest.skip(f"the kernel lacks {', '.join(feature.name for feature in missing)}")
    store = Store.open(place / "state")
    snapshotter = Snapshotter(
        store,
        place / "run",
        data_path="vanilla" if variant == "vanilla" else "composed",
        compaction=variant == "composed-compacted",
        compaction_minimum=0,
    )
    server = SnapshotterServer(snapshotter, place / "run" / "s.sock")
    server.start()
    client = Snapshots(place / "run" / "s.sock", settle=lambda: _settled(snapshotter))
    yield client
    client.close()
    server.stop(1.0)
    failed = {s.name: s.extra for s in snapshotter.walk() if "compaction_failed" in s.extra}
    snapshotter.close()
    store.close()
    assert failed == {}


def _settled(snapshotter: Snapshotter) -> None:
    assert snapshotter.settle(30.0)


def _containerd(engine: Engine, snapshotter: str) -> Iterator[Snapshots]:
    """A snapshotter behind containerd's metadata store; overlayfs there is the reference for everything."""
    namespace = next(_namespaces)
    client = Snapshots(engine.containerd_socket, namespace=namespace, snapshotter=snapshotter)
    yield client
    client.close()
    client = Snapshots(engine.containerd_socket, namespace=namespace, snapshotter=snapshotter)
    names = {info.name: info.parent for info in client.walk()}
    while names:  # children first
        for name in [name for name in names if name not in names.values()]:
            client.remove(name)
            del names[name]
    client.close()
