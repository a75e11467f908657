"""SIGKILL for hyperboxd at any moment of real work loses nothing.

`HYPERBOX_FAULT_ROUNDS` says how often (8 by default); `HYPERBOX_FAULT_SEED` plays a run again as far as that goes.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hyperbox._dev.fidelity import compare_containers
from hyperbox._dev.lab import Engine
from hyperbox.api.operations import STATUS
from support.e2e_engines import System
from support.fault_place import Place, make_place
from support.fault_workload import Workload
from support.lab_fixtures import Lab

ROUNDS = int(os.environ.get("HYPERBOX_FAULT_ROUNDS", "8"))
SEED = int(os.environ.get("HYPERBOX_FAULT_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
_LONGEST = 2.5
"""Seconds of work before a kill at a random time."""

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.timeout(120 + 20 * ROUNDS)]

Moment = Callable[[Place, random.Random], None]


@pytest.fixture(scope="module", params=["composed", "vanilla"])
def place(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Place]:
    settings = {"HYPERBOX_SNAPSHOTTER_DATA_PATH": request.param}
    with make_place(lab, f"kill-{request.param[0]}", env=settings) as made:
        yield made


def at_random(_: Place, dice: random.Random) -> None:
    time.sleep(dice.uniform(0.05, _LONGEST))


def when(watch: Callable[[Place], object]) -> Moment:
    """The moment at which what `watch` sees changes, and up to 20 ms more."""

    def moment(place: Place, dice: random.Random) -> None:
        time.sleep(dice.uniform(0.0, 0.5))
        deadline = time.monotonic() + _LONGEST
        before = watch(place)
        while watch(place) == before and time.monotonic() < deadline:
            pass
        time.sleep(dice.choice([0.0, dice.uniform(0.0, 0.02)]))

    return moment


def _folder(name: str) -> Callable[[Place], object]:
    return lambda place: sorted(os.listdir(place.daemon.state / name))


MOMENTS: dict[str, Moment] = {
    "at random": at_random,
    "a file is being written": when(_folder("ingest")),
    "a layer appears": when(_folder("layers")),
    "a snapshot's folder comes or goes": when(_folder("snapshots")),
    "a row is written": when(lambda place: os.stat(place.daemon.state / "catalogue.sqlite-wal").st_mtime_ns),
}
LOADS = (("pull", "raw"), ("medium", "raw", "gc"), ("raw", "raw", "gc"), ("pull", "pull", "gc"))


def test_no_kill_loses_anything(
    lab: Lab, place: Place, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    print(f"HYPERBOX_FAULT_SEED={SEED}")
    dice = random.Random(SEED)
    medium = {name: lab.image(name)[1] for name in ("python-web:v1", "debian-base")}
    workload = Workload(place, tmp_path, medium, SEED)
    first = workload.image()
    place.keep(_pulled(place, first.push(lab.registry, tmp_path)), first.files)
    done = interrupted = 0
    rounds = ROUNDS if place.client.call(STATUS).data_path == "composed" else (ROUNDS + 3) // 4
    for number, moment in zip(range(rounds), itertools.cycle(MOMENTS), strict=False):
        load = dice.choice(LOADS)
        with workload.running(load) as outcome:
            MOMENTS[moment](place, dice)
            workload.kill()
        place.check_kept()
        before = time.monotonic()
        # Every third start is killed as well.
        workload.start(killed_after=dice.uniform(0.05, 1.2) if number % 3 == 2 else None)
        started = time.monotonic() - before
        assert not outcome.failures, outcome.failures
        place.reached()
        workload.finish(outcome)
        place.check_state()
        done, interrupted = done + outcome.done, interrupted + len(outcome.interrupted)
        print(
            f"round {number}: {'+'.join(load)}, killed when {moment}: {outcome.done} jobs done,"
            f" {len(outcome.interrupted)} interrupted; up again in {started:.1f} s, {_since(before)} s in all"
        )
        if number % 4 == 1:
            if len(place.kept) > 2:
                place.drop(list(place.kept)[1])
            image = workload.image()
            place.keep(_pulled(place, image.push(lab.registry, tmp_path)), image.files)
    record_property("jobs", done)
    assert interrupted, "no kill met any work"
    found = place.verify()
    assert found.damage == []
    place.settle()
    place.gc()
    place.check_state()
    assert place.verify().damage == []


def test_what_survived_equals_plain_overlayfs(lab: Lab, place: Place, vanilla_engine: Engine) -> None:
    _, reference = lab.image("python-web:v1")
    vanilla = System(vanilla_engine)
    for system in (place.system, vanilla):
        system.engine.docker("pull", "-q", reference)
    left, right = (system.hold(reference) for system in (place.system, vanilla))
    try:
        compared = compare_containers(place.system.pid(left), vanilla.pid(right))
    finally:
        vanilla.engine.docker("rm", "-f", right)
        place.engine.docker("rm", "-f", left)
    assert compared.paths > 5000
    # On the vanilla data path, equal files are hard links of each other: that is how it shares.
    linked = place.client.call(STATUS).data_path == "vanilla"
    assert not [line for line in compared.differences if not (linked and (": links: " in line or ": group: " in line))]


def test_nothing_is_left_over_when_everything_is_removed(place: Place) -> None:
    place.nothing_left()


def _since(began: float) -> str:
    return f"{time.monotonic() - began:.1f}"


def _pulled(place: Place, reference: str) -> str:
    place.engine.docker("pull", "-q", reference)
    return reference
