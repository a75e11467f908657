"""The demo as a user runs it, on the two smallest images, and interrupted in the middle."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperbox._dev.fidelity import differences, scan
from hyperbox._dev.lab import LabHome
from hyperbox._dev.lab.runs import SOCKETS, cgroups_named, processes_of
from support.lab_fixtures import Lab

_COMMAND = [
    sys.executable, "-m", "hyperbox._dev.demo", "--runs", "1", "--network", "5ms,400mbit", "--image", "busybox",
    "--image", "pause",
]  # fmt: skip


def _run_id(said: str) -> str:
    found = re.search(r"begins run (\w+)", said)
    assert found, said
    return found.group(1)


def _assert_nothing_is_left(home: LabHome, run_id: str) -> None:
    """Other runs may live in the same lab: what counts is what has this run's name."""
    assert not home.path("runs", run_id).exists()
    assert not (SOCKETS / run_id).exists()
    assert run_id not in Path("/proc/self/mountinfo").read_text()
    assert not cgroups_named(f"hyperbox-lab-{run_id}")
    assert processes_of(run_id, SOCKETS / run_id, home.path("programs")) == []
    assert not [line for line in _commands() if run_id.encode() in line]


def _commands() -> Iterator[bytes]:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended
            yield file.read_bytes()


@pytest.mark.engine
def test_the_demo_shows_one_table_and_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    lab.image("busybox")
    lab.image("pause")
    file = tmp_path / "numbers.json"
    done = subprocess.run([*_COMMAND, "--json", str(file)], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trees identical: yes" in done.stdout
    _assert_nothing_is_left(lab.run.home, _run_id(done.stderr))
    numbers = json.loads(file.read_text())
    assert set(numbers["circumstances"]["images"]) == {"busybox:v1", "pause:v1"}
    assert numbers["circumstances"]["network"] == {"round_trip_seconds": 0.005, "bits_per_second": 400e6}
    measures = {one["name"]: one for one in numbers["measures"]}
    assert {"pull all", "disk", "page cache when all run"} < measures.keys()
    assert all(one["hyperbox"]["median"] > 0 and one["vanilla"]["median"] > 0 for one in measures.values())
    assert all(f"{one['name']} " in done.stdout for one in measures.values())
    assert measures["page cache when all run"]["ratio"]["median"] < 1, "one program in two images is cached once"
    for tree in numbers["trees"].values():
        assert tree["paths"] > 250
        assert tree["differences"] == []
    assert numbers["layers"] == {"busybox:v1": ["composed, by pull"], "pause:v1": ["composed, by pull"]}


@pytest.mark.engine
@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGINT, "docker pull pause"), (signal.SIGTERM, "starting dockerd and containerd, and hyperboxd")],
)
def test_an_interrupted_demo_leaves_nothing(lab: Lab, number: signal.Signals, moment: str) -> None:
    lab.image("busybox")
    lab.image("pause")
    # A session of its own: Ctrl-C on a terminal goes to the whole foreground group, docker clients included.
    with subprocess.Popen(
        _COMMAND, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as demo:
        assert demo.stderr is not None
        said = []
        for line in demo.stderr:
            said.append(line)
            if moment in line and line.endswith("…\n"):
                os.killpg(demo.pid, number)
                break
        said.append(demo.stderr.read())
        assert demo.wait(60) == 130, "".join(said)
    assert "clearing up" in said[-1]
    _assert_nothing_is_left(lab.run.home, _run_id("".join(said)))


def test_a_comparison_names_every_kind_of_difference(tmp_path: Path) -> None:
    trees = []
    for name in ("left", "right"):
        tree = tmp_path / name
        tree.mkdir()
        for file in ("same", "content", "mode", "time", "link"):
            (tree / file).write_text("text")
            os.utime(tree / file, ns=(0, 1_000_000_001))
        trees.append(tree)
    left, right = trees
    (right / "content").write_text("tent")
    os.utime(right / "content", ns=(0, 1_000_000_001))
    (right / "mode").chmod(0o4755)
    os.utime(right / "time", ns=(0, 1_000_000_002))
    (right / "link").unlink()
    os.link(right / "same", right / "link")
    (right / "more").symlink_to("same")
    for tree in trees:
        os.utime(tree, ns=(0, 0))
    found = differences(scan(left), scan(right))
    fields = sorted((line.split(": ")[0], line.split(": ")[1]) for line in found)
    assert fields == [
        ("/content", "content"), ("/link", "links"), ("/mode", "mode"),
        ("/more", "only on the right"), ("/same", "group"), ("/same", "links"), ("/time", "mtime_ns"),
    ]  # fmt: skip
    assert differences(scan(left), scan(left)) == []
    ignored = differences(
        scan(left), scan(right, skip=["/more", "content", "link", "same", "mode"]), made_by_engine={b"time"}
    )
    assert not any(line.startswith("/time") for line in ignored)
