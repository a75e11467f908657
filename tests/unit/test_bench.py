"""What `hyperbox bench` and the demo decide without an engine: values, targets, footprints, networks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hyperbox.bench import Measure, Report, Target, disk_bytes
from hyperbox.bench.network import Network
from hyperbox.bench.processes import cpu_seconds, memory, wake_ups
from hyperbox.bench.results import Unit, amount
from hyperbox.cli.app import app


@pytest.mark.parametrize(
    ("target", "hyperbox", "vanilla", "verdict"),
    [
        (Target(0.7), (6.0, 7.0, 100.0), (10.0, 10.0, 10.0), "met"),
        (Target(0.7), (7.1,), (10.0,), "not met"),
        (Target(0.98, direction="at least"), (980.0,), (1000.0,), "met"),
        (Target(0.98, direction="at least"), (979.0,), (1000.0,), "not met"),
        (Target(20, of="value"), (20.0,), (), "met"),
        (Target(20, of="value"), (20.1,), (), "not met"),
        (Target(0.7), (7.0,), (), ""),
        (None, (7.0,), (10.0,), ""),
    ],
)
def test_a_verdict_compares_medians_with_the_target(
    target: Target | None, hyperbox: tuple[float, ...], vanilla: tuple[float, ...], verdict: str
) -> None:
    assert Measure("x", "s", hyperbox, vanilla, target).verdict == verdict


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(184_300_000, "bytes", "184 MB"), (2_340_000_000, "bytes", "2.34 GB"), (12.345, "s", "12.3 s"),
     (100081.2, "1/s", "100081 1/s"), (0.43, "ratio", "0.43")],
)  # fmt: skip
def test_amounts_have_three_digits(value: float, unit: Unit, text: str) -> None:
    assert amount(value, unit) == text


def test_a_report_shows_each_measure_once_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("title", {"kernel": "6"})
    report.add(Measure("pull", "s", (4.0, 5.0, 6.0), (10.0, 10.0, 11.0), Target(0.7)), Measure("idle", "1/s", (0.5,)))
    report.print()
    lines = capsys.readouterr().out.splitlines()
    pull = next(line for line in lines if line.lstrip().startswith("pull"))
    assert pull.split() == ["pull", "10", "s", "±0.5", "5", "s", "±1", "0.50", "≤", "0.7", "×", "met"]
    found = json.loads(json.dumps(report.as_dict()))
    assert found["circumstances"] == {"kernel": "6"}
    assert [one["name"] for one in found["measures"]] == ["pull", "idle"]
    assert found["measures"][0]["hyperbox"] == {"median": 5.0, "min": 4.0, "max": 6.0, "samples": [4.0, 5.0, 6.0]}
    assert found["measures"][1]["vanilla"] is None


def test_disk_counts_blocks_of_each_inode_once(tmp_path: Path) -> None:
    empty = disk_bytes([tmp_path])
    file = tmp_path / "file"
    file.write_bytes(os.urandom(1 << 20))
    os.link(file, tmp_path / "again")
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 1 << 30)
    assert 1 << 20 <= disk_bytes([tmp_path, tmp_path, tmp_path / "absent"]) - empty < 2 << 20


def test_networks_are_read_and_written() -> None:
    assert Network.parse("20ms,200mbit") == Network(0.02, 200e6)
    assert str(Network.parse("1.5ms,10MBIT")) == "1.5ms,10mbit"
    assert str(Network.parse("none")) == "none"
    for wrong in ("", "20", "20ms", "20ms,0mbit", "fast"):
        with pytest.raises(ValueError, match="is not a network"):
            Network.parse(wrong)


def test_processes_are_measured() -> None:
    before = wake_ups(os.getpid())
    for _ in range(5):
        time.sleep(0.001)
    assert wake_ups(os.getpid()) >= before + 5
    assert 0 < memory(os.getpid()).pss <= memory(os.getpid()).rss
    began = cpu_seconds([os.getpid()])
    subprocess.run([sys.executable, "-c", "sum(range(10**6))"], check=True)
    assert cpu_seconds([os.getpid()]) > began, "children that have ended count"


@pytest.mark.parametrize(("option", "value"), [("--network", "far"), ("--part", "everything"), ("--samples", "0")])
def test_wrong_options_are_named(option: str, value: str) -> None:
    done = CliRunner().invoke(app, ["bench", "run", option, value])
    assert done.exit_code == (2 if os.geteuid() == 0 or option == "--samples" else 7)
    assert os.geteuid() != 0 or option in done.output


_INTERRUPTED = """
import sys
from pathlib import Path
from hyperbox._dev.lab import LabHome
from hyperbox.bench import lab_run
import os, signal
with lab_run(LabHome(Path(sys.argv[1]))) as run:
    run.on_close(lambda: os.kill(os.getpid(), signal.SIGTERM))  # a second one, while it clears up
    print(run.data, run.sockets, flush=True)
    signal.pause()
"""


@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_is_cleared_up_after_signals(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", _INTERRUPTED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folders = [Path(name) for name in process.stdout.readline().split()]
        assert all(folder.is_dir() for folder in folders)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in said
    assert not any(folder.exists() for folder in folders)
