"""One hyperboxd with Docker on it, to be broken: containers whose files are known, and what has to hold afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyperbox import Client
from hyperbox._dev.lab import Engine, Hyperboxd
from hyperbox._dev.lab.images import LabImage
from hyperbox._dev.lab.runs import mounts_below, wait_until
from hyperbox.api.messages import GcRequest, GcResult, VerifyRequest, VerifyResult
from hyperbox.api.operations import HEALTH, STATUS, STORE_GC, STORE_VERIFY
from support.e2e_engines import System
from support.lab_fixtures import Lab

BACKOFF = 20.0
"""Seconds within which an engine finds a daemon that has come back: containerd tries again after at most 3 s."""


def read_digest(pid: int, name: str) -> str:
    """sha256 of a file as a process in a container sees it."""
    with open(f"/proc/{pid}/root/{name}", "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass
class Place:
    """The daemon, its engine, and containers that go on running whatever happens to the daemon."""

    lab: Lab
    system: System
    daemon: Hyperboxd
    base: LabImage
    link: Path | None = None
    """Leads to the daemon's socket, where the engine was told this instead."""
    kept: dict[str, tuple[int, Mapping[str, str]]] = field(default_factory=dict)
    """Container → process id, and the files that it has to see."""

    @property
    def engine(self) -> Engine:
        """Docker on the daemon."""
        return self.system.engine

    @property
    def client(self) -> Client:
        """The daemon's control socket."""
        return Client(self.daemon.api_socket)

    # Containers

    def keep(self, image: str, files: Mapping[str, str]) -> str:
        """Start a container that stays, and check the files in it."""
        container = self.system.hold(image)
        self.kept[container] = (self.system.pid(container), files)
        self.check_kept()
        return container

    def drop(self, container: str) -> None:
        """Remove a container that was kept."""
        self.engine.docker("rm", "-f", container)
        del self.kept[container]

    def check_kept(self) -> None:
        """All kept containers run and read what they have to."""
        for container, (pid, files) in self.kept.items():
            wrong = {name for name, expected in files.items() if read_digest(pid, name) != expected}
            assert not wrong, f"{container} reads other bytes in {sorted(wrong)[:5]} ({len(wrong)} files)"

    def see(self, image: str, files: Mapping[str, str]) -> None:
        """Run a container that lives only for the look at its files."""
        container = self.system.hold(image)
        try:
            pid = self.system.pid(container)
            wrong = {name for name, expected in files.items() if read_digest(pid, name) != expected}
        finally:
            self.engine.docker("rm", "-f", container)
        assert not wrong, f"a new container of {image} reads other bytes in {sorted(wrong)[:5]} ({len(wrong)} files)"

    # The daemon

    def move(self, run: Path) -> None:
        """Give a stopped daemon another run folder."""
        assert self.link is not None
        assert not self.daemon.pid
        self.daemon.run_folder = run
        self.daemon.snapshotter_socket = run / "snapshotter.sock"
        self.daemon.api_socket = run / "api.sock"
        self.link.unlink()
        self.link.symlink_to(self.daemon.snapshotter_socket)

    def gc(self) -> GcResult:
        """Collect everything that nothing needs now."""
        return self.client.call(STORE_GC, GcRequest(grace_seconds=0))

    def verify(self, *, repair: bool = False) -> VerifyResult:
        """Hash everything."""
        return self.client.call(STORE_VERIFY, VerifyRequest(repair=repair))

    def settle(self) -> None:
        """Wait until nothing is left to compact."""
        wait_until(lambda: self.client.call(STATUS).compactions_pending == 0, 60, "the end of all compactions")

    def reached(self) -> None:
        """Wait until the engine has found the daemon again."""
        wait_until(lambda: self._listed() is not None, BACKOFF, "the engine's way back to the daemon")

    def _listed(self) -> set[str] | None:
        done = self.engine.ctr("-n", "moby", "snapshots", "--snapshotter", "hyperbox", "ls", check=False)
        return {line.split()[0] for line in done.stdout.splitlines()[1:]} if done.returncode == 0 else None

    # What has to hold

    def check_state(self) -> None:
        """The engine's view, the catalogue, the folders and the mounts agree."""
        self.check_kept()
        health = self.client.call(HEALTH)
        assert (health.status, health.ready) == ("ok", True), health
        before = self.rows()  # an engine that tidies up may remove some between the two looks
        listed = self._listed()
        assert listed is not None
        rows = self.rows()
        known = {key.rpartition("/")[2] for key, *_ in before + rows}
        assert listed <= known, f"snapshots of the engine that HyperBox lost: {sorted(listed - known)}"
        raw = {number for _, number, raw, kind in rows if raw and kind != "view"}
        lost = {number for number in raw if number not in self._folders()} & {number for _, number, *_ in self.rows()}
        assert not lost, f"snapshots without folder: {sorted(lost)}"
        # A snapshot that is removed goes before its folder does.
        wait_until(lambda: self._folders() <= {number for _, number, *_ in self.rows()}, 10, "the end of old folders")
        layers = {row[0] for row in self.query("SELECT id FROM layers")}
        mounted = {int(Path(point).name) for point in mounts_below(self.daemon.run_folder / "l")}
        assert mounted <= layers, f"mounted layers without row: {sorted(mounted - layers)}"

    def _folders(self) -> set[int]:
        return {int(name) for name in os.listdir(self.daemon.state / "snapshots")}

    def rows(self) -> list[tuple[Any, ...]]:
        """Key, id, whether it is a folder, and kind of all snapshots of the catalogue."""
        return self.query("SELECT key, id, raw, kind FROM snapshots")

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Read the catalogue beside the daemon."""
        path = self.daemon.state / "catalogue.sqlite"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as database:
            return database.execute(statement).fetchall()

    def ingest(self) -> list[str]:
        """Files that are being written."""
        return os.listdir(self.daemon.state / "ingest")

    def threads(self) -> int:
        """Number of threads of the daemon."""
        return len(os.listdir(f"/proc/{self.daemon.pid}/task"))

    def clean(self) -> None:
        """Remove all containers and images, and everything from the store."""
        self.kept.clear()
        self.system.clean()

    def nothing_left(self) -> None:
        """After everything was removed: no row, no folder, no object, no mount."""
        self.clean()
        wait_until(lambda: not self.rows(), 30, "the engine's removal of all snapshots")
        self.settle()
        self.gc()
        status = self.client.call(STATUS)
        assert (status.layers, status.objects) == (0, 0), status
        assert os.listdir(self.daemon.state / "snapshots") == []
        assert self.ingest() == []
        assert mounts_below(self.daemon.run_folder) == []


@contextlib.contextmanager
def make_place(
    lab: Lab,
    name: str,
    *,
    env: Mapping[str, str] | None = None,
    state: Path | None = None,
    socket: Path | None = None,
) -> Iterator[Place]:
    """A place for one test or one module; with `socket`, the engine goes through a link to the daemon's socket."""
    base, _ = lab.image("busybox")
    settings = {"HYPERBOX_ENGINE_CONTAINERD_ADDRESS": str(lab.run.sockets / name / "containerd.sock"), **(env or {})}
    with Hyperboxd(lab.run, f"{name}-d", env=settings, state=state) as daemon:
        if socket:
            socket.symlink_to(daemon.snapshotter_socket)
        engine = lab.engine(name, snapshotter=("hyperbox", socket or daemon.snapshotter_socket))
        try:
            yield Place(lab, System(engine, daemon), daemon, base, socket)
        finally:
            engine.stop()
            if socket:
                socket.unlink()
