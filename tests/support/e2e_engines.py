"""What the end-to-end tests do with an engine again and again, on HyperBox and beside it on plain overlayfs."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hyperbox import Client
from hyperbox._dev.fidelity import Scan, scan
from hyperbox._dev.lab import Engine, Hyperboxd
from hyperbox._dev.lab.runs import mounts_below, wait_until
from hyperbox.api.messages import EventsRequest, GcRequest, ImageDetail, ImageLayer, ImageRequest
from hyperbox.api.operations import EVENTS, HEALTH, IMAGE_EXPLAIN, LAYER_LS, STATUS, STORE_GC, STORE_STATS, STORE_VERIFY

FOREVER = "2147483647"
"""Seconds that a container sleeps which is to run until the test ends it."""
HOST = ("--network", "host")
"""The lab's engines have no bridge; containers that need no network of their own take the machine's."""


@dataclass(frozen=True)
class System:
    """An engine and, unless it is plain overlayfs, the hyperboxd under it."""

    engine: Engine
    daemon: Hyperboxd | None = None

    @property
    def hyperbox(self) -> bool:
        """Whether it runs on HyperBox."""
        return self.daemon is not None

    @property
    def client(self) -> Client:
        """The control socket of its hyperboxd."""
        assert self.daemon is not None
        return Client(self.daemon.api_socket)

    def out(self, *args: str, stdin: bytes | None = None) -> str:
        """What a `docker` command prints, without white space around it; fails with the test when the command does."""
        return self.engine.docker(*args, stdin=stdin).stdout.strip()

    def sh(self, image: str, script: str, *options: str) -> str:
        """What a shell script prints in a new container that is removed afterwards."""
        return self.out("run", "--rm", *HOST, *options, image, "sh", "-c", script)

    def hold(self, image: str, *options: str) -> str:
        """The id of a new container in which nothing but `sleep` runs."""
        return self.out("run", "-d", *HOST, "--stop-signal", "KILL", "--entrypoint", "sleep", *options, image, FOREVER)

    def pid(self, container: str) -> int:
        """Process id of a running container."""
        return int(self.out("inspect", "-f", "{{.State.Pid}}", container))

    def tree(self, container: str) -> Scan:
        """Everything that a running container sees, less what the engine mounts in it."""
        return container_tree(self.pid(container))

    def settle(self, seconds: float = 60) -> None:
        """Wait until every layer that can be compacted is; no-op on plain overlayfs."""
        if self.daemon is not None:
            settle(self.client, seconds)

    def images(self) -> set[str]:
        """Names of all images of Docker; `docker images` leaves those out whose compressed blobs are not kept."""
        return set(self.engine.ctr("-n", "moby", "images", "ls", "-q").stdout.split())

    def clean(self) -> None:
        """Remove all containers, volumes and images, also from the store."""
        containers = self.out("ps", "-aq", "--no-trunc").split()
        if containers:
            self.engine.docker("rm", "-f", "-v", *containers)
        images = self.images()
        if images:
            self.engine.docker("rmi", "-f", *images)
        self.engine.docker("builder", "prune", "-af", check=False)
        if self.daemon is not None:
            settle(self.client)
            self.client.call(STORE_GC, GcRequest(grace_seconds=0))


def container_tree(pid: int) -> Scan:
    """Everything that a container sees, less what its engine mounts in it."""
    with open(f"/proc/{pid}/mountinfo") as table:
        points = [line.split()[4].encode().decode("unicode_escape") for line in table]
    return scan(Path(f"/proc/{pid}/root"), ("proc", "sys", "dev", *(point for point in points if point != "/")))


def settle(client: Client, seconds: float = 60) -> None:
    """Wait until nothing waits for compaction but what is told to wait on."""
    wait_until(lambda: client.call(STATUS).compactions_pending == 0, seconds, "the end of all compactions")


def reconnected(system: System) -> None:
    """Wait until containerd has found a hyperboxd that was started again; it looks every three seconds at most."""
    assert system.daemon is not None
    look = ("-n", "moby", "snapshots", "--snapshotter", system.engine.storage_driver, "ls")
    wait_until(lambda: system.engine.ctr(*look, check=False).returncode == 0, 15, "containerd finding hyperboxd again")


def events(client: Client, name: str) -> list[Mapping[str, object]]:
    """The data of all events of one name."""
    return [row.data for row in client.call(EVENTS, EventsRequest(limit=10_000, name=name)).events]


def layers(client: Client, image: str) -> list[ImageLayer]:
    """`hyperbox image explain` of an image."""
    return explain(client, image).layers


def cli(daemon: Hyperboxd, *args: str) -> str:
    """What a `hyperbox` command prints; fails with the test when the command does."""
    command = [sys.executable, "-c", "from hyperbox.cli.main import main; main()", "--socket", str(daemon.api_socket)]
    done = subprocess.run([*command, *args], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def explain(client: Client, image: str) -> ImageDetail:
    """`hyperbox image explain` of an image."""
    return client.call(IMAGE_EXPLAIN, ImageRequest(image=image))


def assert_sound(client: Client) -> None:
    """The daemon is well, and every object and layer is what its name says."""
    health = client.call(HEALTH)
    assert (health.status, health.ready) == ("ok", True), health
    assert client.call(STORE_VERIFY).damage == []


def stored(client: Client) -> tuple[int, int]:
    """Numbers of layers and of objects in the store."""
    return len(client.call(LAYER_LS).layers), client.call(STORE_STATS).objects


def archive(files: Mapping[str, bytes]) -> bytes:
    """A tar of files, owned by root."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(data), 0o644, 1_700_000_000
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def layer_mounts(daemon: Hyperboxd) -> list[str]:
    """Mount points of a daemon."""
    return mounts_below(daemon.run_folder)
