"""SIGKILL at random points: what was answered is there, what was removed is gone, and everything reads right."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from contract.snapshots_client import mounted
from hyperbox.linux import UmountFlag, is_mount_point, umount
from hyperbox.snapshotter import Kind
from linux.snapshotter_place import Place, place_for
from linux.snapshotter_victim import content

pytestmark = [pytest.mark.root, pytest.mark.slow]

ROUNDS = 12
FACTS = "+-*"


def run_and_kill(root: Path, seed: int, after: float) -> list[str]:
    """Start the victim, kill it a while after it is ready, and return the facts that it told."""
    script = Path(__file__).with_name("snapshotter_victim.py")
    victim = subprocess.Popen([sys.executable, str(script), str(root), str(seed)], stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None
    assert victim.stdout.readline() == "ready\n"
    timer = threading.Timer(after, victim.kill)
    timer.start()
    told = victim.stdout.read()
    victim.wait(30)
    timer.join()
    victim.stdout.close()
    assert victim.returncode == -9
    while is_mount_point(root / "victim"):
        umount(root / "victim", UmountFlag.DETACH)
    return [line for line in told.split("\n")[:-1] if line[0] in FACTS]


def learn(facts: list[str], present: dict[str, int], doubtful: set[str]) -> None:
    for fact in facts:
        sign, name, *rest = fact.split()
        if sign == "+":
            present[name] = int(rest[1])
        elif sign == "-":
            doubtful.add(name)
        else:
            doubtful.discard(name)
            present.pop(name, None)


def check(place: Place, present: dict[str, int], doubtful: set[str]) -> None:
    found = {s.name: s for s in place.snapshotter.walk() if s.kind is Kind.COMMITTED}
    assert set(present) - doubtful <= set(found)
    for name, snapshot in found.items():
        seed = int(snapshot.labels["seed"])
        with mounted(place.snapshotter.view(f"{name}-check", name), place.mount) as root:
            for number in range(6):
                assert (root / f"{seed}-{number}").read_bytes() == content(seed, number), name
        place.snapshotter.remove(f"{name}-check")
        present[name] = seed
    for name in set(present) - set(found):
        del present[name]
    doubtful.clear()
    folders = {int(name) for name in os.listdir(place.root / "state/snapshots")}
    assert folders <= {s.id for s in place.snapshotter.walk()}


def test_kill_at_random_points() -> None:
    present: dict[str, int] = {}
    doubtful: set[str] = set()
    draw = random.Random(7)
    with place_for("composed") as place:
        for turn in range(ROUNDS):
            place.close()
            facts = run_and_kill(place.root, 1000 * (turn + 1), draw.uniform(0.05, 1.2))
            learn(facts, present, doubtful)
            place._open()
            check(place, present, doubtful)
            place.settle()
            check(place, present, doubtful)
        assert len(present) > ROUNDS
        assert place.failures() == {}
        verification = place.store.verify()
        assert verification.ok, verification
