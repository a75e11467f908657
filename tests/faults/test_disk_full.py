"""The state folder's disk gets full: a clear error, nothing half-written, containers go on; with space all works."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperbox._dev.lab import LabError
from hyperbox._dev.lab.runs import wait_until
from hyperbox.api.errors.store import StoreFull
from hyperbox.snapshotter import Snapshotter
from hyperbox.store import Store
from support.fault_images import small_image
from support.fault_place import Place, make_place
from support.lab_fixtures import Lab

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.timeout(120)]

_SIZE = 48 << 20
_SEEDS = itertools.count(300)


@pytest.fixture(scope="module")
def disk(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small ext4 in a file."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("no mkfs.ext4 (package e2fsprogs)")
    folder = tmp_path_factory.mktemp("disk")
    image, point = folder / "image", folder / "mounted"
    with image.open("wb") as file:
        file.truncate(_SIZE)
    point.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-N", "20000", str(image)], check=True)
    done = subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True)


@pytest.fixture(scope="module")
def place(lab: Lab, disk: Path) -> Iterator[Place]:
    with make_place(lab, "full", state=disk / "state") as made:
        image = small_image(made.base, next(_SEEDS))
        reference = image.push(lab.registry, lab.run.data / "full-scratch")
        made.engine.docker("pull", "-q", reference)
        made.keep(reference, image.files)
        yield made
        shutil.rmtree(lab.run.data / "full-scratch")


@pytest.fixture(autouse=True)
def space_again(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "disk" in request.fixturenames:
        (request.getfixturevalue("disk") / "filler").unlink(missing_ok=True)


def fill(disk: Path, *, leave: int = 0) -> Path:
    """Take all space but `leave` bytes; returns the file to delete."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        free = os.statvfs(disk)
        left = free.f_bavail * free.f_frsize - leave
        # Somebody else may take the last blocks first; what could be had is taken all the same.
        with contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, max(4096, left - left % 4096))
    return filler


@pytest.mark.parametrize("leave", [0, 100_000, 1_500_000])
def test_a_pull_onto_a_full_disk(place: Place, lab: Lab, disk: Path, tmp_path: Path, leave: int) -> None:
    image = small_image(place.base, next(_SEEDS), layers=3, largest=100_000)
    reference = image.push(lab.registry, tmp_path)
    filler = fill(disk, leave=leave)
    failed = place.engine.docker("pull", "-q", reference, check=False)
    assert failed.returncode
    assert "space" in failed.stderr.lower() or "HB-STORE-003" in failed.stderr, failed.stderr
    place.check_kept()
    place.settle()
    assert place.ingest() == []
    assert place.verify().damage == []
    filler.unlink()
    place.check_state()
    place.engine.docker("pull", "-q", reference)
    place.see(reference, image.files)
    place.engine.docker("rmi", "-f", reference)
    assert place.verify().damage == []
    _tidy(place)


def test_containers_on_a_full_disk(place: Place, disk: Path) -> None:
    """A container that cannot be made is refused with the reason; a running one only cannot write."""
    container = next(iter(place.kept))
    image = place.system.out("inspect", "-f", "{{.Config.Image}}", container)
    filler = fill(disk)
    wrote = place.engine.docker("exec", container, "sh", "-c", "head -c 9000000 /dev/zero > /big", check=False)
    assert wrote.returncode
    refused = [
        place.engine.docker("run", "-d", "--name", f"refused{n}", "--network", "none", image, "true", check=False)
        for n in range(3)
    ]
    place.check_kept()
    filler.unlink()
    assert all(one.returncode == 0 or "space" in one.stderr.lower() or "HB-" in one.stderr for one in refused), refused
    place.engine.docker("rm", "-f", *(f"refused{n}" for n in range(3)), check=False)
    place.engine.docker("exec", container, "rm", "-f", "/big")
    place.engine.docker("run", "--rm", "--network", "none", image, "true")
    place.check_state()


def test_compaction_on_a_full_disk_leaves_the_folder(place: Place, disk: Path) -> None:
    image = small_image(place.base, next(_SEEDS))
    name = f"full{image.seed}:v1"
    place.daemon.stop()
    place.daemon.start()
    place.reached()
    place.engine.docker("load", "-q", stdin=image.archive(f"docker.io/library/{name}"))
    filler = fill(disk)
    place.settle()
    place.check_state()
    place.check_kept()
    filler.unlink()
    place.daemon.stop()
    place.daemon.start()
    place.reached()
    place.settle()
    place.see(name, image.files)
    assert place.verify().damage == []


def test_a_daemon_that_starts_on_a_full_disk(place: Place, disk: Path) -> None:
    """SIGKILL on a full disk: the next start either serves or says why not, and serves once there is space."""
    filler = fill(disk)
    place.daemon.kill()
    place.check_kept()
    said = ""
    try:
        place.daemon.start()
    except LabError as error:
        said = str(error)
    filler.unlink()
    assert place.daemon.pid or "HB-STORE-003" in said, said
    if not place.daemon.pid:
        place.daemon.start()
    place.reached()
    assert place.verify().damage == []
    place.check_state()


def test_a_snapshot_whose_row_does_not_fit_leaves_no_folder(tmp_path: Path) -> None:
    """A folder takes no blocks on tmpfs, so it is made, and then the row cannot be committed."""
    disk = tmp_path / "small"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "hyperbox-test", str(disk)]
    subprocess.run(command, check=True)
    try:
        with Store.open(disk / "state") as store:
            snapshotter = Snapshotter(store, tmp_path / "run")
            made = _prepare_until_full(snapshotter)
            assert len(os.listdir(store.state / "snapshots")) == made
            for number in range(3):  # what frees space needs none
                snapshotter.remove(f"k{number}")
            snapshotter.prepare("after")
            assert len(os.listdir(store.state / "snapshots")) == made - 2
            snapshotter.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _prepare_until_full(snapshotter: Snapshotter) -> int:
    for number in range(5000):
        try:
            snapshotter.prepare(f"k{number}", labels={"containerd.io/snapshot/long": "x" * 3000})
        except StoreFull:
            return number
    raise AssertionError("it never filled")


def _tidy(place: Place) -> None:
    kept = len(place.kept)
    wait_until(lambda: sum(row[3] == "active" for row in place.rows()) <= kept, 20, "the removal of containers")
    place.settle()
    place.gc()
