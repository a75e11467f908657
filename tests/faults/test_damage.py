"""Bits that flip on the disk, and files that get lost: found, moved aside, fetched again, never read as if right."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperbox._dev.lab import LabError
from hyperbox._dev.lab.runs import wait_until
from hyperbox.api.errors.base import ExitCode
from hyperbox.api.messages import PullRequest, VerifyResult
from hyperbox.api.operations import IMAGE_LS, IMAGE_PULL, LAYER_LS, STATUS, STORE_STATS
from support.fault_images import SmallImage, small_image
from support.fault_place import Place, make_place
from support.lab_fixtures import Lab
from support.registry_simulator import RegistrySimulator

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.timeout(120)]

_SEEDS = itertools.count(200)


@pytest.fixture(scope="module")
def place(lab: Lab) -> Iterator[Place]:
    with make_place(lab, "damage") as made:
        yield made


@pytest.fixture
def simulator() -> Iterator[RegistrySimulator]:
    with RegistrySimulator() as one:
        yield one


@pytest.fixture(autouse=True)
def whole_again(place: Place) -> Iterator[None]:
    yield
    place.clean()
    assert place.verify().damage == []


def pulled(place: Place, simulator: RegistrySimulator) -> tuple[SmallImage, str]:
    image = small_image(place.base, next(_SEEDS))
    reference = image.serve(simulator)
    place.engine.docker("pull", "-q", reference)
    return image, reference


def flip(path: Path) -> None:
    """Change one byte of a file and nothing else about it."""
    with path.open("r+b", buffering=0) as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x20]))


def victim(place: Place, image: SmallImage) -> tuple[str, str]:
    """Path and digest of a file that is an object, of this image alone."""
    for name, digest in image.files.items():
        path = place.daemon.state / "objects" / digest[:2] / digest[2:]
        if path.exists() and path.stat().st_size == 60_000:
            return name, digest
    raise AssertionError("no such file in the image")


def kinds(found: VerifyResult) -> dict[str, tuple[str, bool]]:
    return {row.name: (row.kind, row.repaired) for row in found.damage}


@pytest.mark.parametrize("opened", [False, True])
def test_a_damaged_object_is_fetched_again(place: Place, simulator: RegistrySimulator, opened: bool) -> None:
    image, reference = pulled(place, simulator)
    name, digest = victim(place, image)
    aside = place.client.call(STORE_STATS).quarantined
    running = place.system.hold(reference)
    if opened:
        place.engine.docker("exec", running, "cat", f"/{name}")
    flip(place.daemon.state / "objects" / digest[:2] / digest[2:])
    assert kinds(place.verify()) == {digest: ("damaged-object", False)}
    assert place.client.call(STORE_STATS).quarantined == aside + 1
    # Between the two: an open fails, and no wrong byte is read, in old containers and in new ones.
    assert place.engine.docker("exec", running, "cat", f"/{name}", check=False).returncode
    assert place.engine.docker("run", "--rm", "--network", "none", reference, "cat", f"/{name}", check=False).returncode
    assert kinds(place.verify(repair=True)) == {digest: ("missing-object", True)}
    place.see(reference, image.files)
    place.kept[running] = (place.system.pid(running), image.files)
    place.check_kept()


def test_an_object_that_is_gone_is_fetched_at_the_next_start(place: Place, simulator: RegistrySimulator) -> None:
    """Power loss: the daemon is told by its own check, and repairs without being asked."""
    image, reference = pulled(place, simulator)
    _, digest = victim(place, image)
    place.daemon.kill()
    (place.daemon.state / "objects" / digest[:2] / digest[2:]).unlink()
    _pretend_reboot(place)
    place.daemon.start()
    place.reached()
    wait_until((place.daemon.state / "objects" / digest[:2] / digest[2:]).exists, 20, "the repair at the start")
    assert place.verify().damage == []
    place.see(reference, image.files)


def _pretend_reboot(place: Place) -> None:
    with contextlib.closing(sqlite3.connect(place.daemon.state / "catalogue.sqlite")) as database, database:
        database.execute("UPDATE meta SET value='another boot' WHERE key='boot_id'")


@pytest.mark.parametrize("ending", ["erofs", "objects"])
def test_a_damaged_layer_is_fetched_again(place: Place, simulator: RegistrySimulator, ending: str) -> None:
    image, reference = pulled(place, simulator)
    layer = next(row.layer for row in place.client.call(LAYER_LS).layers if row.diff_id == image.layers[2][1])
    flip(place.daemon.state / "layers" / f"{layer}.{ending}")
    assert kinds(place.verify()) == {layer: ("damaged-layer", False)}
    # All questions are still answered, and what cannot be shown right is not shown at all.
    assert place.client.call(STATUS).layers == place.client.call(STORE_STATS).layers == 3
    assert layer in {row.layer for row in place.client.call(LAYER_LS).layers}
    assert reference in {row.image for row in place.client.call(IMAGE_LS).images}
    place.gc()
    if ending == "erofs":
        with pytest.raises(LabError, match="HB-SNAP"):
            place.engine.docker("run", "--rm", "--network", "none", reference, "true")
    assert kinds(place.verify(repair=True)) == {layer: ("damaged-layer", True)}
    assert place.verify().damage == []
    place.see(reference, image.files)


def test_a_damaged_layer_comes_back_by_a_pull(place: Place, simulator: RegistrySimulator) -> None:
    image, reference = pulled(place, simulator)
    layer = next(row.layer for row in place.client.call(LAYER_LS).layers if row.diff_id == image.layers[1][1])
    flip(place.daemon.state / "layers" / f"{layer}.erofs")
    place.verify()
    place.client.call(IMAGE_PULL, PullRequest(image=reference))
    assert place.verify().damage == []
    place.see(reference, image.files)


def test_what_came_from_no_registry_is_told_and_loaded_again(place: Place) -> None:
    image = small_image(place.base, next(_SEEDS))
    name = f"loaded{image.seed}:v1"
    archive = image.archive(f"docker.io/library/{name}")
    place.engine.docker("load", "-q", stdin=archive)
    place.settle()
    _, digest = victim(place, image)
    flip(place.daemon.state / "objects" / digest[:2] / digest[2:])
    assert kinds(place.verify(repair=True)) == {digest: ("damaged-object", False)}
    place.clean()
    place.engine.docker("load", "-q", stdin=archive)
    place.settle()
    place.see(name, image.files)


def test_a_lost_catalogue_is_rebuilt_on_request(place: Place, simulator: RegistrySimulator) -> None:
    image, reference = pulled(place, simulator)
    running = place.keep(reference, image.files)
    place.engine.docker("exec", running, "sh", "-c", "echo precious > /written")
    place.daemon.stop()
    for path in place.daemon.state.glob("catalogue.sqlite*"):
        path.unlink()
    command = [sys.executable, "-m", "hyperbox.daemon.main", "--state", str(place.daemon.state)]
    command += ["--run", str(place.daemon.run_folder)]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == ExitCode.CORRUPT
    assert "HB-STORE-011" in refused.stderr
    assert "--rebuild-catalogue" in refused.stderr
    place.daemon.start("--rebuild-catalogue")
    place.reached()
    # Running containers go on, what they wrote is kept, and layers are here still.
    place.check_kept()
    assert place.system.out("exec", running, "cat", "/written") == "precious"
    assert place.client.call(STATUS).layers == len(image.layers)
    aside = list((place.daemon.state / "quarantine").glob("snapshots.*"))
    assert [path.read_text() for one in aside for path in one.glob("*/fs/written")] == ["precious\n"]
    place.gc()
    assert all(path.exists() for path in aside)
    # The engine has to be told: its snapshots are gone, so containers and images begin anew.
    place.clean()
    fetched = len(simulator.requests)
    place.engine.docker("pull", "-q", reference)
    place.see(reference, image.files)
    assert len(simulator.requests) > fetched
    for path in aside:
        shutil.rmtree(path)
    place.check_state()
