"""How hyperboxd ends and begins again: in the middle of work, beside another one, after a reboot, somewhere else."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperbox._dev.lab.runs import accepts, mounts_below, unmount_below, wait_until
from hyperbox.api.errors.base import ExitCode
from hyperbox.api.operations import STATUS
from support.fault_images import small_image
from support.fault_place import Place, make_place
from support.lab_fixtures import Lab
from support.registry_simulator import RegistrySimulator, digest

pytestmark = [pytest.mark.root, pytest.mark.engine]

SHUTDOWN = 4.0
MARGIN = 5.0
"""Seconds that the interpreter and a loaded machine may add."""


@pytest.fixture(scope="module")
def place(lab: Lab) -> Iterator[Place]:
    with make_place(lab, "stop", env={"HYPERBOX_DAEMON_SHUTDOWN_SECONDS": str(SHUTDOWN)}) as made:
        image = small_image(made.base, 1)
        reference = image.push(lab.registry, lab.run.data / "stop-scratch")
        made.engine.docker("pull", "-q", reference)
        made.keep(reference, image.files)
        yield made
        shutil.rmtree(lab.run.data / "stop-scratch")


@pytest.fixture(autouse=True)
def runs_before_and_after(place: Place) -> Iterator[None]:
    if not place.daemon.pid:
        place.daemon.start()
    place.reached()
    yield
    place.check_kept()


def assert_gone(place: Place) -> None:
    """Nothing of the daemon is visible in its run folder."""
    assert mounts_below(place.daemon.run_folder) == []
    assert not place.daemon.api_socket.exists()
    assert not place.daemon.snapshotter_socket.exists()


def second(*, state: Path, run: Path) -> subprocess.CompletedProcess[str]:
    """Another daemon, which is to refuse."""
    command = [sys.executable, "-m", "hyperbox.daemon.main", "--state", str(state), "--run", str(run)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("signals", [1, 2])
def test_sigterm_in_the_middle_of_a_pull(place: Place, signals: int) -> None:
    image = small_image(place.base, 10 + signals)
    with RegistrySimulator() as simulator:
        reference = image.serve(simulator)
        stalled = digest(image.layers[-1][0])
        simulator.fail(f"/blobs/{stalled}", stall_after=1000)
        pull = threading.Thread(target=place.engine.docker, args=("pull", "-q", reference), kwargs={"check": False})
        pull.start()
        wait_until(lambda: bool(simulator.paths(f"/blobs/{stalled}")), 20, "the request for the layer that stalls")
        began, pid = time.monotonic(), place.daemon.pid
        for _ in range(signals - 1):
            os.kill(pid, signal.SIGTERM)
            time.sleep(0.05)
        status = place.daemon.stop()
        seconds = time.monotonic() - began
        assert status == 0, place.daemon.log.read_text()[-3000:]
        assert seconds < SHUTDOWN + MARGIN
        assert_gone(place)
        place.check_kept()
        pull.join(60)
        assert not pull.is_alive()
        place.daemon.start()
        place.reached()
        assert place.ingest() == []
        place.engine.docker("pull", "-q", reference)
        place.see(reference, image.files)
    assert place.verify().damage == []
    place.check_state()


def test_while_it_is_down_containers_run_and_the_engine_gets_a_clear_error(place: Place) -> None:
    assert place.daemon.stop() == 0
    assert_gone(place)
    container = next(iter(place.kept))
    assert place.system.out("exec", container, "cat", "/seeded/0/2") is not None
    refused = place.engine.docker("run", "--rm", "--network", "none", _image(place), "true", check=False)
    assert refused.returncode
    assert "unavailable" in refused.stderr.lower() or "connect" in refused.stderr.lower(), refused.stderr
    place.daemon.start()
    place.reached()
    place.engine.docker("run", "--rm", "--network", "none", _image(place), "true")


def test_a_second_one_on_the_same_state_refuses(place: Place, tmp_path: Path) -> None:
    before = sorted(mounts_below(place.daemon.run_folder))
    for run in (tmp_path / "run", place.daemon.run_folder):
        refused = second(state=place.daemon.state, run=run)
        assert refused.returncode == ExitCode.CONFLICT
        assert "HB-STORE-001" in refused.stderr
        assert str(place.daemon.pid) in refused.stderr
        assert "Traceback" not in refused.stderr
    assert_undisturbed(place, before)


def test_a_second_one_on_the_same_run_folder_refuses(place: Place, tmp_path: Path) -> None:
    before = sorted(mounts_below(place.daemon.run_folder))
    assert before, "a container keeps its layers mounted"
    refused = second(state=tmp_path / "state", run=place.daemon.run_folder)
    assert refused.returncode == ExitCode.CONFLICT
    assert "HB-DAEMON-004" in refused.stderr
    assert_undisturbed(place, before)


def assert_undisturbed(place: Place, mounts: list[str]) -> None:
    assert accepts(place.daemon.snapshotter_socket)
    assert place.client.call(STATUS).pid == place.daemon.pid
    assert sorted(mounts_below(place.daemon.run_folder)) == mounts
    place.engine.docker("run", "--rm", "--network", "none", _image(place), "true")


def test_a_catalogue_of_a_newer_version_is_left_alone(place: Place) -> None:
    place.daemon.stop()
    path = place.daemon.state / "catalogue.sqlite"
    with sqlite3.connect(path) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        database.execute("PRAGMA user_version=999")
    database.close()
    refused = second(state=place.daemon.state, run=place.daemon.run_folder)
    assert refused.returncode == ExitCode.UNSUPPORTED
    assert "HB-STORE-012" in refused.stderr
    assert_gone(place)
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (999,)
        database.execute(f"PRAGMA user_version={version}")
    database.close()
    place.daemon.start()
    place.reached()
    place.check_state()


def test_stale_sockets_are_replaced(place: Place) -> None:
    place.daemon.kill()
    assert place.daemon.api_socket.exists()
    assert place.daemon.snapshotter_socket.exists()
    place.daemon.start()
    place.reached()
    place.check_state()


def test_after_a_reboot_mounts_are_made_again(place: Place) -> None:
    """The machine goes down with a stopped container: mounts and everything below /run are gone."""
    container, (_, files) = next(iter(place.kept.items()))
    place.engine.docker("stop", "-t", "0", container)
    place.daemon.kill()
    unmount_below(place.daemon.run_folder)
    shutil.rmtree(place.daemon.run_folder)
    place.daemon.start()
    place.reached()
    place.engine.docker("start", container)
    place.kept[container] = (place.system.pid(container), files)
    place.check_state()


def test_lost_layer_mounts_are_noticed(place: Place) -> None:
    """Somebody unmounts the layers under a running daemon."""
    unmount_below(place.daemon.run_folder)
    place.see(_image(place), next(iter(place.kept.values()))[1])
    place.check_state()


def test_the_run_folder_may_move(lab: Lab, tmp_path: Path) -> None:
    link = lab.run.sockets / "moving.sock"
    with make_place(lab, "moving", socket=link) as place:
        image = small_image(place.base, 30)
        place.engine.docker("pull", "-q", reference := image.push(lab.registry, tmp_path))
        container = place.keep(reference, image.files)
        old = place.daemon.run_folder
        assert place.daemon.stop() == 0
        assert_gone(place)
        place.move(lab.run.sockets / "moved")
        place.daemon.start()
        place.reached()
        place.engine.docker("restart", "-t", "0", container)
        place.kept[container] = (place.system.pid(container), image.files)
        place.check_state()
        assert mounts_below(place.daemon.run_folder)
        assert mounts_below(old) == []
        shutil.rmtree(old)


def _image(place: Place) -> str:
    return place.system.out("inspect", "-f", "{{.Config.Image}}", next(iter(place.kept)))
