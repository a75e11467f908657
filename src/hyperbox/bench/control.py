"""Measured on HyperBox alone: look-ups in the store, calls of the daemon, what it costs at idle, the command line."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod

from hyperbox._dev.lab import LabError, step
from hyperbox.api.messages import LayerRequest
from hyperbox.api.operations import LAYER_INSPECT, LAYER_LS
from hyperbox.bench import processes
from hyperbox.bench.results import Measure, Target
from hyperbox.bench.systems import System
from hyperbox.snapshotter.proto import snapshots_pb2 as pb
from hyperbox.store.objects import FOLDERS, ObjectStore

LOOK_UP = Target(20, of="value")
LAYER = Target(5, of="value")
RESIDENT = Target(90e6, of="value")
WAKE_UPS = Target(1, of="value")
HELP = Target(0.3, of="value")
_SERVICE = "containerd.services.snapshots.v1.Snapshots"
_OBJECTS = 2000


def look_up(system: System) -> list[Measure]:
    """Whether an object is here, asked in this process, of a store that the daemon has filled; in µs."""
    assert system.daemon is not None
    objects = ObjectStore(system.daemon.state)
    digests = [digest for folder in FOLDERS for digest, _ in objects.scan(folder) if digest][:_OBJECTS]
    if not digests or not all(map(objects.has, digests)):
        raise LabError("the store has no objects to look up")
    with step(f"looking up {len(digests)} objects"):
        rounds = timeit.repeat(lambda: all(map(objects.has, digests)), number=1, repeat=15)
    micro = tuple(seconds / len(digests) * 1e6 for seconds in rounds)
    return [Measure("look-up of a present object, in process", "µs", micro, target=LOOK_UP)]


def layer_calls(system: System, samples: int = 100) -> list[Measure]:
    """One layer over the control socket and over the snapshotter socket; in ms."""
    layers = system.client.call(LAYER_LS).layers
    if not layers:
        raise LabError("the daemon knows no layer")
    request = LayerRequest(layer=layers[-1].layer)
    with step(f"asking the daemon for a layer, {samples} times on each socket"), _stat(system) as stat:
        http = _milliseconds(lambda: system.client.call(LAYER_INSPECT, request), samples)
        rpc = _milliseconds(stat, samples)
    return [
        Measure("a layer over the control socket (HTTP)", "ms", http, target=LAYER),
        Measure("a layer over the snapshotter socket (gRPC Stat)", "ms", rpc, target=LAYER),
    ]


def _milliseconds(call: Callable[[], object], samples: int) -> tuple[float, ...]:
    call()
    return tuple(seconds * 1e3 for seconds in timeit.repeat(call, number=1, repeat=samples))


@contextmanager
def _stat(system: System) -> Iterator[Callable[[], object]]:
    """Give a function that asks for one snapshot over one kept connection, as containerd does."""
    assert system.daemon is not None
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        channel = Channel(path=str(system.daemon.snapshotter_socket), loop=loop)
        try:
            listing: UnaryStreamMethod[Any, Any] = UnaryStreamMethod(
                channel, f"/{_SERVICE}/List", pb.ListSnapshotsRequest, pb.ListSnapshotsResponse
            )
            answers = runner.run(_call(listing, pb.ListSnapshotsRequest(snapshotter="hyperbox")))
            key = next(info.name for answer in answers for info in answer.info)
            stat: UnaryUnaryMethod[Any, Any] = UnaryUnaryMethod(
                channel, f"/{_SERVICE}/Stat", pb.StatSnapshotRequest, pb.StatSnapshotResponse
            )
            request = pb.StatSnapshotRequest(snapshotter="hyperbox", key=key)
            yield lambda: runner.run(_call(stat, request))
        finally:
            loop.call_soon(channel.close)
            runner.run(asyncio.sleep(0))


async def _call(method: UnaryUnaryMethod[Any, Any] | UnaryStreamMethod[Any, Any], request: Any) -> Any:
    return await method(request, metadata={"containerd-namespace": "moby"})


def resident(system: System, when: str, target: Target | None) -> list[Measure]:
    """Memory of the daemon now; RSS, and PSS, which counts what it shares with others only in part."""
    assert system.daemon is not None
    memory = processes.memory(system.daemon.pid)
    return [
        Measure(f"daemon, resident {when}", "bytes", (memory.rss,), target=target),
        Measure(f"daemon, proportional {when}", "bytes", (memory.pss,)),
    ]


def idle(system: System, seconds: float = 20.0) -> list[Measure]:
    """Wake-ups of the daemon's threads in each second while nobody asks for anything."""
    assert system.daemon is not None
    with step(f"watching the daemon at idle for {seconds:g} s"):
        time.sleep(5)  # what the calls before have left to do
        before, began = processes.wake_ups(system.daemon.pid), time.perf_counter()
        cpu = processes.cpu_seconds([system.daemon.pid])
        time.sleep(seconds)
        passed = time.perf_counter() - began
        woken = (processes.wake_ups(system.daemon.pid) - before) / passed
        cpu = processes.cpu_seconds([system.daemon.pid]) - cpu
    note = f"{cpu / passed:.2%} of a processor"
    return [Measure("daemon, wake-ups at idle", "1/s", (woken,), target=WAKE_UPS, note=note)]


def command_line(samples: int = 11) -> list[Measure]:
    """`hyperbox --help`, from the command's start to its end."""
    program = Path(sys.executable).with_name("hyperbox")
    if not program.exists():
        raise LabError(f"{program} is not there: install the package (`pip install .`) for its command")

    def call() -> None:
        subprocess.run([str(program), "--help"], stdout=subprocess.DEVNULL, check=True)

    with step(f"hyperbox --help, {samples} times"):
        taken = tuple(value / 1e3 for value in _milliseconds(call, samples))
    return [Measure("hyperbox --help", "s", taken, target=HELP)]
