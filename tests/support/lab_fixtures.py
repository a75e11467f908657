"""Fixtures over the lab: real registry, engines and hyperboxd, and the proof that a session leaves nothing behind.

The lab of a session is one run with one registry; engines are started once, on first use. What cannot be had here
(no root, not Debian, no archive) is a skip that names it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hyperbox._dev.lab import (
    STABLE,
    Cri,
    Engine,
    Hyperboxd,
    LabError,
    LabHome,
    Registry,
    Release,
    Run,
    SlowProxy,
    sweep,
    toolbox,
)
from hyperbox._dev.lab.images import Images, LabImage
from hyperbox._dev.lab.runs import CGROUP_ROOT


@dataclass
class Lab:
    """What tests have of the lab. `run` owns everything started through it."""

    run: Run
    registry: Registry
    images: Images
    _pushed: dict[str, tuple[LabImage, str]] = field(default_factory=dict)

    def image(self, name: str, variant: str = "gzip") -> tuple[LabImage, str]:
        """An image and the reference to pull it; built and pushed on first use. Skips when it cannot be built."""
        key = f"{name} {variant}"
        if key not in self._pushed:
            try:
                image = self.images.ensure([name], variant)[0]
            except LabError as error:
                pytest.skip(f"image {name} cannot be built here: {error}")
            self._pushed[key] = (image, image.push(self.registry))
        return self._pushed[key]

    def engine(
        self, name: str, *, snapshotter: tuple[str, Path] | None = None, release: Release = STABLE, docker: bool = True,
        cri: Cri | None = None,
    ) -> Engine:  # fmt: skip
        """One more engine; the caller stops it, or the session does. Skips when its release cannot be had."""
        try:
            toolbox(self.run.home, release)
        except LabError as error:
            pytest.skip(f"engine {release.name} cannot be had here: {error}")
        return Engine(self.run, name, snapshotter=snapshotter, release=release, docker=docker, cri=cri)

    def hyperboxd(self, name: str, *, engine: str = "", env: Mapping[str, str] | None = None) -> Hyperboxd:
        """One more daemon; the caller closes it, or the session does.

        `engine` is the name of the engine, begun later, that it asks for images; `env` are settings as variables.
        """
        settings = dict(env or {})
        if engine:
            settings["HYPERBOX_ENGINE_CONTAINERD_ADDRESS"] = str(self.run.sockets / engine / "containerd.sock")
        return Hyperboxd(self.run, name, env=settings)

    def distance(self, round_trip: float, bits_per_second: float) -> SlowProxy:
        """A slow way to the registry."""
        return SlowProxy(self.run, self.registry, round_trip=round_trip, bits_per_second=bits_per_second)


@dataclass(frozen=True)
class Traces:
    """What a session could leave behind on the machine, seen at one moment."""

    mounts: frozenset[str]
    cgroups: frozenset[str]
    processes: frozenset[str]
    folders: frozenset[str]

    @classmethod
    def now(cls, programs: Path) -> Traces:
        """Look at the machine; of processes, only the lab's own programs and hyperboxd of this session's lab count."""
        with open("/proc/self/mountinfo") as table:
            mounts = frozenset(line.split()[4] for line in table if "lab" in line)
        cgroups = frozenset(
            str(path) for top in (CGROUP_ROOT, *CGROUP_ROOT.iterdir()) if top.is_dir() for path in _named(top)
        )
        processes = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    program = os.readlink(entry / "exe")
                except OSError:
                    continue
                if program.startswith(f"{programs}/"):
                    processes.add(f"{entry.name} {program}")
        folders = frozenset(name for name in ("/etc/docker", "/var/lib/docker", "/run/docker") if Path(name).exists())
        return cls(mounts, cgroups, frozenset(processes), folders)


def _named(top: Path) -> Iterator[Path]:
    names = ("hyperbox-lab-*", "docker", "moby", "default", "k8s.io")
    for pattern in names:
        yield from (path for path in top.glob(pattern) if (path / "cgroup.procs").exists())


@pytest.fixture(scope="session")
def lab_home() -> LabHome:
    """The lab's folder with the engine's programs; skips where the lab cannot be."""
    if os.geteuid() != 0:
        pytest.skip("needs root: the lab starts container engines")
    home = LabHome()
    try:
        sweep(home)
        toolbox(home)
    except LabError as error:
        pytest.skip(f"the lab cannot be set up here: {error}")
    return home


@pytest.fixture(scope="session")
def lab(lab_home: LabHome) -> Iterator[Lab]:
    """The session's run, with its registry. At the end: mounts, processes, cgroups and folders are as before."""
    programs = lab_home.path("programs")
    before = Traces.now(programs)
    with Run(lab_home) as run:
        yield Lab(run, Registry(run), Images(lab_home))
    after = Traces.now(programs)
    left = {
        "mounts": {mount for mount in after.mounts - before.mounts if run.id in mount},
        "cgroups": {group for group in after.cgroups - before.cgroups if run.cgroup in group},
        "folders": after.folders - before.folders,
        "processes": _of_run(after.processes - before.processes, run),
    }
    assert not any(left.values()), f"the lab left something behind: {left}"


def _of_run(processes: frozenset[str], run: Run) -> set[str]:
    """Processes of this session's run: another lab may have begun beside it."""
    found = set()
    for line in processes:
        pid = line.split()[0]
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if run.id.encode() in command:
            found.add(line)
    return found


@pytest.fixture(scope="session")
def registry(lab: Lab) -> Registry:
    """The session's registry."""
    return lab.registry


@pytest.fixture(scope="session")
def vanilla_engine(lab: Lab) -> Engine:
    """Docker on containerd's overlayfs."""
    return lab.engine("vanilla")


@pytest.fixture(scope="session")
def hyperboxd(lab: Lab) -> Hyperboxd:
    """A hyperboxd that lives as long as the session; it asks the session's engine for the names of images."""
    return lab.hyperboxd("hyperboxd", engine="hyperbox")


@pytest.fixture(scope="session")
def hyperbox_engine(lab: Lab, hyperboxd: Hyperboxd) -> Engine:
    """Docker on HyperBox."""
    return lab.engine("hyperbox", snapshotter=hyperboxd.snapshotter)


@pytest.fixture
def docker_cleanup() -> Iterator[Callable[[Engine], None]]:
    """Call with an engine: its containers and images are removed after the test."""
    engines: list[Engine] = []
    yield engines.append
    for engine in engines:
        containers = engine.docker("ps", "-aq").stdout.split()
        if containers:
            engine.docker("rm", "-f", "-v", *containers)
        images = engine.docker("images", "-q").stdout.split()
        if images:
            engine.docker("rmi", "-f", *dict.fromkeys(images))
