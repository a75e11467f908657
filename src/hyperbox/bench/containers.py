"""Measured in and around containers whose image is here and warm: first output, open, read, stat, readdir, exec."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from hyperbox._dev.lab import LabError, step
from hyperbox._dev.lab.images import LabImage
from hyperbox.bench.footprint import drop_caches
from hyperbox.bench.images import Subject
from hyperbox.bench.results import Measure, Target, Unit
from hyperbox.bench.systems import HYPERBOX, VANILLA, System

FIRST_OUTPUT = Target(1.05)
STEADY = Target(0.98, direction="at least")
PYTHON_IMAGE = "python-web"
"""The image of the lab in which the loops run: they are written in Python."""
BLOCKS = 3
_Thing = TypeVar("_Thing")
_KINDS = {
    "read": "open and read a file",
    "stat": "stat a file",
    "list": "list a folder",
    "exec": "start a program",
}

_LOOPS = """
import os, stat, sys, time
files, folders = [], []
for top in ("/usr/lib/python3", "/usr/lib/python3.11", "/usr/share", "/etc", "/bin/"):
    for folder, _, names in os.walk(top):
        folders.append(folder)
        for name in names:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode) and status.st_size <= 65536:
                files.append(path)
files.sort(); folders.sort()
files, folders = files[::max(1, len(files) // 2000)], folders[::max(1, len(folders) // 500)]
def read(path):
    fd = os.open(path, os.O_RDONLY)
    while os.read(fd, 65536): pass
    os.close(fd)
def listing(path):
    with os.scandir(path) as entries:
        for entry in entries: pass
def execute(path):
    os.waitpid(os.posix_spawn(path, [path], {}), 0)
programs = ["/bin/true"] * 50
loops = {"read": (read, files), "stat": (os.stat, files), "list": (listing, folders), "exec": (execute, programs)}
print("ready", len(files), len(folders), flush=True)
for line in sys.stdin:
    call, items = loops[line.strip()]
    count, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < 0.15:
        for item in items: call(item)
        count += len(items)
    print(count / passed, flush=True)
"""


def first_output(subject: Subject, image: LabImage, samples: int) -> list[Measure]:
    """Time of `docker run` to the first byte that the container prints, on both systems in turn."""
    taken: dict[str, list[float]] = {name: [] for name in subject.systems}
    with step(f"docker run {image.key} to its first output, {samples} times on each system"):
        for number in range(samples + 1):
            for name, system in _in_turn(subject.systems.items(), number):
                seconds = _first_output(system, subject.reference(image))
                if number:  # the first one warms up
                    taken[name].append(seconds)
    return [_compared("warm docker run to first output", "s", taken, FIRST_OUTPUT)]


def _first_output(system: System, reference: str) -> float:
    options = ("--rm", "--network", "none", "--entrypoint", "echo")
    command = [system.engine.tools.program("docker"), "run", *options, reference, "hello"]
    began = time.perf_counter()
    with subprocess.Popen(command, env=system.engine.environment, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        first = client.stdout.read(1)
        seconds = time.perf_counter() - began
        client.stdout.read()
    if not first or client.returncode:
        raise LabError(f"docker run {reference} printed nothing on {system.name}")
    return seconds


def steady_state(subject: Subject, image: LabImage, samples: int) -> list[Measure]:
    """Operations per second of loops in one container on each system, in turn, with everything in the page cache.

    In blocks, each with new containers: what chance gives a process (the place of its memory, collisions in the
    kernel's tables) would otherwise look like a difference between the systems.
    """
    taken: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in subject.systems} for kind in _KINDS}
    for block in range(BLOCKS):
        drop_caches()  # what the containers themselves read is in the caches then, not what a measurement walked
        with ExitStack() as stack:
            loops = {
                name: stack.enter_context(_loops(system, subject.reference(image)))
                for name, system in _in_turn(subject.systems.items(), block)
            }
            with step(f"in containers: open, read, stat, list, exec; block {block + 1} of {BLOCKS}"):
                for kind, rates in taken.items():
                    _block(loops, kind, rates, -(-samples // BLOCKS))
    return [_compared(f"in a container: {_KINDS[kind]}", "1/s", rates, STEADY) for kind, rates in taken.items()]


def _block(loops: dict[str, subprocess.Popen[str]], kind: str, rates: dict[str, list[float]], samples: int) -> None:
    for number in range(samples + 1):
        for name, client in _in_turn(loops.items(), number):
            rate = _ask(client, kind)
            if number:
                rates[name].append(rate)


def _in_turn(items: Iterable[tuple[str, _Thing]], number: int) -> list[tuple[str, _Thing]]:
    """The two systems in an order that changes every time, so that neither always comes second."""
    found = list(items)
    return found[::-1] if number % 2 else found


@contextmanager
def _loops(system: System, reference: str) -> Iterator[subprocess.Popen[str]]:
    container, _ = system.hold(reference)
    command = [system.engine.tools.program("docker"), "exec", "-i", container, "python3", "-B", "-c", _LOOPS]
    with subprocess.Popen(
        command, env=system.engine.environment, text=True, bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as client:
        try:
            assert client.stdout is not None
            if not client.stdout.readline().startswith("ready"):
                raise LabError(f"the loops do not run in a container of {reference} on {system.name}")
            yield client
        finally:
            assert client.stdin is not None
            client.stdin.close()
            client.wait()
            system.remove([container])


def _ask(client: subprocess.Popen[str], kind: str) -> float:
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(f"{kind}\n")
    return float(client.stdout.readline())


def _compared(name: str, unit: Unit, taken: dict[str, list[float]], target: Target) -> Measure:
    return Measure(name, unit, tuple(taken[HYPERBOX]), tuple(taken[VANILLA]), target)
