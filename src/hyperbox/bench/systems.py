"""The two systems that are compared: Docker on containerd's overlayfs, and the same programs with HyperBox."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperbox import linux
from hyperbox._dev.lab import Engine, Hyperboxd, LabError, Run, say, step
from hyperbox._dev.lab.images import LabImage, Started, run_until_ready
from hyperbox.api.messages import GcRequest
from hyperbox.api.operations import STORE_GC, STORE_STATS
from hyperbox.bench import footprint, processes
from hyperbox.client import Client

VANILLA = "vanilla"
HYPERBOX = "hyperbox"
_ATTEMPTS = 5


@dataclass(frozen=True)
class Pulled:
    """What one pull took, in seconds."""

    wall: float
    cpu: float
    """Processor time of all daemons of the system over the pull."""


@dataclass(frozen=True)
class Running:
    """Images that were started one after the other: seconds to ready by image, and bytes in the page cache then."""

    start: Mapping[str, float]
    cached: int


class System:
    """One engine of the lab, with or without HyperBox, seen as the thing to be measured."""

    def __init__(self, name: str, engine: Engine, daemon: Hyperboxd | None = None) -> None:
        self.name = name
        self.engine = engine
        self.daemon = daemon

    @classmethod
    def start(cls, run: Run, name: str) -> System:
        """Start `VANILLA` or `HYPERBOX` in a run; the run stops it."""
        with step(f"starting dockerd and containerd{', and hyperboxd' if name == HYPERBOX else ''} ({name})"):
            # Beside this machine's own engine: hyperboxd is to ask the lab's for the names of images.
            address = run.sockets / name / "containerd.sock"
            env = {"HYPERBOX_ENGINE_CONTAINERD_ADDRESS": str(address)}
            daemon = Hyperboxd(run, env=env) if name == HYPERBOX else None
            return cls(name, Engine(run, name, snapshotter=daemon.snapshotter if daemon else None), daemon)

    @property
    def folders(self) -> list[Path]:
        """Where everything lies that the system keeps for images."""
        state = [self.daemon.state] if self.daemon else []
        return [self.engine.root / "containerd", *state]

    @property
    def pids(self) -> list[int]:
        """The daemons that take part in a pull."""
        return [*self.engine.pids().values(), *([self.daemon.pid] if self.daemon else [])]

    @property
    def client(self) -> Client:
        """The control socket of the system's hyperboxd."""
        if self.daemon is None:
            raise LabError(f"{self.name} has no hyperboxd")
        return Client(self.daemon.api_socket)

    def pull(self, reference: str) -> Pulled:
        """`docker pull`, from the command's start to its end; the image is ready to run then."""
        pids = self.pids
        cpu, began = processes.cpu_seconds(pids), time.perf_counter()
        self.engine.docker("pull", "-q", reference)
        wall = time.perf_counter() - began
        return Pulled(wall, processes.cpu_seconds(pids) - cpu)

    def run(self, image: LabImage, reference: str) -> Started:
        """`docker run` an image until its service answers or its program has ended well."""
        return run_until_ready(self.engine, reference, image.recipe)

    def hold(self, reference: str) -> tuple[str, int]:
        """A container of an image in which nothing but `sleep` runs; returns its id and the process id of `sleep`."""
        options = ("--network", "host", "--entrypoint", "sleep")
        container = self.engine.docker("run", "-d", *options, reference, "2147483647").stdout.strip()
        pid = self.engine.docker("inspect", "-f", "{{.State.Pid}}", container).stdout.strip()
        return container, int(pid)

    def remove(self, containers: Sequence[str]) -> None:
        """Kill and remove containers."""
        ids = [container for container in containers if container]
        if ids:
            self.engine.docker("rm", "-f", "-v", *ids)

    def disk(self) -> int:
        """Bytes on the disk for all images of the system: compressed blobs, snapshots, objects, databases."""
        linux.syncfs(self.engine.root)
        return footprint.disk_bytes(self.folders)

    def page_cache(self) -> int:
        """Bytes in the page cache of everything that the system keeps for images."""
        mounts = []
        if self.daemon:
            below = f"{self.daemon.run_folder}/"
            mounts = [
                Path(entry.target)
                for entry in linux.mountinfo()
                if entry.fstype == "erofs" and entry.target.startswith(below)
            ]
        return footprint.cached_bytes(self.folders, mounts)

    def start_cold(self, images: Sequence[LabImage], references: Mapping[str, str], label: str) -> Running:
        """Start images with cold caches, count the page cache while all run, and remove their containers.

        Begins again when somebody else empties the machine's caches meanwhile: neither time nor count would be true.
        """
        for _ in range(_ATTEMPTS):
            footprint.drop_caches()
            drops = footprint.cache_drops()
            started: dict[str, Started] = {}
            for image in images:
                with step(f"{label}: docker run {image.key} until it is ready"):
                    started[image.key] = self.run(image, references[image.key])
            with step(f"{label}: counting pages in the page cache"):
                cached = self.page_cache()
            self.remove([one.container for one in started.values()])
            if footprint.cache_drops() == drops:
                return Running({key: one.seconds for key, one in started.items()}, cached)
            say("somebody else has emptied this machine's caches meanwhile; starting again")
        raise LabError("somebody keeps emptying this machine's caches; measure when it is alone")

    def clear(self) -> None:
        """Remove all containers and images, and see that their bytes are gone from the disk, so that a pull is cold."""
        self.remove(self.engine.docker("ps", "-aq", "--no-trunc").stdout.split())
        # Not `docker images`: before Docker 28 it leaves out images whose compressed blobs are not kept.
        images = self.engine.ctr("-n", "moby", "images", "ls", "-q").stdout.split()
        if images:
            self.engine.docker("rmi", "-f", *images)
        deadline = time.monotonic() + 60
        while left := self._left():
            if time.monotonic() > deadline:
                raise LabError(f"{self.name} keeps {left} although all images are removed")
            time.sleep(0.1)

    def _left(self) -> str:
        """What still lies on the disk of images that are removed; empty when nothing does."""
        containerd = self.engine.root / "containerd"
        blobs = len(list((containerd / "io.containerd.content.v1.content/blobs").glob("*/*")))
        snapshots = len(list((containerd / "io.containerd.snapshotter.v1.overlayfs/snapshots").glob("*")))
        found = {"blobs": blobs, "snapshots": snapshots}
        if self.daemon:
            self.client.call(STORE_GC, GcRequest(grace_seconds=0))
            stats = self.client.call(STORE_STATS)
            found |= {"objects": stats.objects, "layers": stats.layers}
        return ", ".join(f"{count} {what}" for what, count in found.items() if count)
