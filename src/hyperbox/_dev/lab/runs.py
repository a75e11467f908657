"""One use of the lab: the folders, processes, mounts and cgroups that it has, and taking all of them away again.

A run owns two folders: `<lab>/runs/<id>` for data, and `/run/hyperbox-lab/<id>` for sockets, whose paths may have 107
bytes only. `owner.json` in the data folder names the process that has the run and every process it started, each with
its start time, so that a process id in use by somebody else is never taken for ours. When the owner is gone, killed
or crashed, `sweep` ends the run in its place.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .home import LabError, LabHome, remove_tree, say

SOCKETS = Path("/run/hyperbox-lab")
CGROUP_ROOT = Path("/sys/fs/cgroup")
_STOP_SECONDS = 15.0
_SIDE_EFFECTS = ("/run/containerd/s", "/run/containerd/runc", "/run/containerd", "/run/docker/plugins", "/run/docker")
"""Folders that engines make whatever is configured; removed at the end if they were not there and are empty."""


def start_time(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None when there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for the state of another process; raises `LabError` naming `what` when it takes longer."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.02)


def accepts(path: Path) -> bool:
    """Whether something listens on a unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def mounts_below(folder: Path) -> list[str]:
    """Mount points at or below a folder, the last mounted first."""
    found = []
    with open("/proc/self/mountinfo") as table:
        for line in table:
            point = line.split()[4].encode().decode("unicode_escape")
            if f"{point}/".startswith(f"{folder}/"):
                found.append(point)
    return found[::-1]


def unmount_below(folder: Path) -> None:
    """Unmount everything at or below a folder. What is busy is detached, so that nothing stays visible."""
    for point in mounts_below(folder):
        if subprocess.run(["umount", point], capture_output=True, check=False).returncode:
            subprocess.run(["umount", "-l", point], capture_output=True, check=False)


def cgroups_named(name: str) -> list[Path]:
    """The folders of a top-level cgroup in every hierarchy (cgroup v1, v2 or both)."""
    hierarchies = [CGROUP_ROOT, *(path for path in CGROUP_ROOT.iterdir() if path.is_dir())]
    return [path / name for path in hierarchies if (path / name).is_dir() and (path / name / "cgroup.procs").exists()]


def remove_cgroup(name: str) -> None:
    """Remove an empty top-level cgroup and those in it, in every hierarchy."""
    for top in cgroups_named(name):
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let an impatient second Ctrl-C wait until what is going on has ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Let an interrupt wait until a process that is being started is known to its run; it comes at the end."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    caught = [number for number in numbers if callable(signal.getsignal(number))]
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in caught}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)


class Child:
    """A process that a run has started, with its log."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def wait_for(self, ready: Callable[[], bool], seconds: float = 30.0) -> None:
        """Wait until it is ready; raises `LabError` with the end of its log when it exits or takes too long."""

        def check() -> bool:
            if self.process.poll() is not None:
                raise LabError(f"{self.name} exited with status {self.process.returncode}:\n{self.log_tail()}")
            return ready()

        try:
            wait_until(check, seconds, f"{self.name} becoming ready")
        except LabError as error:
            raise LabError(f"{error}\n{self.log_tail()}") from None

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, seconds: float = _STOP_SECONDS) -> None:
        """End it: SIGTERM, and SIGKILL when it takes longer than `seconds`. Returns when it is gone."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                say(f"{self.name} does not stop; killing it")
                self.process.kill()
                self.process.wait()


class Run:
    """The folders and processes of one use of the lab. A context manager; `close` may be called twice."""

    def __init__(self, home: LabHome) -> None:
        self.home = home
        self.id = secrets.token_hex(3)
        self.data = home.path("runs", self.id)
        self.sockets = SOCKETS / self.id
        self.cgroup = f"hyperbox-lab-{self.id}"
        """The name of the top-level cgroup for this run's containers, without a slash."""
        self.data.mkdir(parents=True)
        self.sockets.mkdir(parents=True, mode=0o711)
        self._absent = [folder for folder in _SIDE_EFFECTS if not os.path.exists(folder)]
        self._processes: list[tuple[int, int]] = []
        self._closers: list[Callable[[], None]] = []
        self._closed = False
        self._record()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _record(self) -> None:
        owner = {
            "owner": [os.getpid(), start_time(os.getpid())],
            "sockets": str(self.sockets),
            "cgroup": self.cgroup,
            "absent": self._absent,
            "processes": self._processes,
        }
        part = self.data / "owner.part"
        part.write_text(json.dumps(owner))
        part.replace(self.data / "owner.json")

    def spawn(self, name: str, command: Sequence[str], *, env: Mapping[str, str] | None = None) -> Child:
        """Start a process in a session of its own, with its output in `<data>/<name>.log`."""
        log = self.data / f"{name}.log"
        with log.open("ab") as output, _held_back():
            process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
            began = start_time(process.pid)
            if began is not None:
                self._processes.append((process.pid, began))
            self._record()
        return Child(name, process, log)

    def on_close(self, closer: Callable[[], None]) -> None:
        """Have something stopped when the run closes; the last registered goes first."""
        self._closers.append(closer)

    def close(self) -> None:
        """Stop everything, unmount, remove cgroups, delete both folders. Goes on after a failure, then raises it."""
        if self._closed:
            return
        self._closed = True
        failure: BaseException | None = None
        with _uninterrupted():
            for closer in reversed(self._closers):
                try:
                    closer()
                except (OSError, LabError, subprocess.SubprocessError) as error:
                    failure = failure or error
            _end_processes(self._processes)  # one may have started without reaching the object that stops it
            _erase(self.home, self.data)
        if failure:
            raise failure


def processes_of(run_id: str, sockets: Path, programs: Path) -> list[int]:
    """Shims and other processes whose program is the lab's own and whose command line or environment names the run."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            program = os.readlink(entry / "exe")
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        names_run = f"{sockets}/".encode() in command or f"/runs/{run_id}/".encode() in command
        if names_run and program.startswith(f"{programs}/"):
            found.append(int(entry.name))
    return found


def _children_of(pids: set[int]) -> set[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in pids | found} - found - pids
        grown = bool(more)
        found |= more
    return found


def kill_leftovers(run_id: str, sockets: Path, programs: Path) -> None:
    """Kill the shims of a run and the containers below them, and wait until they are gone."""
    shims = set(processes_of(run_id, sockets, programs))
    targets = [(pid, start_time(pid)) for pid in shims | _children_of(shims)]
    for pid, began in targets:
        if began is not None and start_time(pid) == began:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: all(began is None or start_time(pid) != began for pid, began in targets), 10, "end of containers"
    )


def _erase(home: LabHome, data: Path) -> None:
    absent = (_owner(data) or {}).get("absent", [])
    run_id = data.name
    sockets = SOCKETS / run_id
    kill_leftovers(run_id, sockets, home.path("programs"))
    for folder in (sockets, data):
        unmount_below(folder)
    remove_cgroup(f"hyperbox-lab-{run_id}")
    remove_tree(sockets)
    remove_tree(data)
    for folder in (*absent, str(SOCKETS)):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def _owner(data: Path) -> dict[str, Any] | None:
    try:
        loaded: dict[str, Any] = json.loads((data / "owner.json").read_text())
    except (OSError, ValueError):
        return None
    return loaded


def _is_alive(pid: int, began: int | None) -> bool:
    return began is not None and start_time(pid) == began


def _end_processes(recorded: list[tuple[int, int]]) -> None:
    """End processes by id and start time: SIGTERM to the last started first, then SIGKILL."""
    processes = [(pid, began) for pid, began in recorded if _is_alive(pid, began)]
    for pid, _ in reversed(processes):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    with contextlib.suppress(LabError):
        wait_until(lambda: not any(_is_alive(*one) for one in processes), _STOP_SECONDS, "end of processes")
    for pid, began in processes:
        if _is_alive(pid, began):
            os.kill(pid, signal.SIGKILL)


def sweep(home: LabHome) -> list[str]:
    """End runs whose owner is gone; returns their ids. Runs in use are left alone."""
    swept = []
    folder = home.path("runs", "x").parent
    for data in sorted(folder.iterdir()):
        owner = _owner(data)
        if owner is None and time.time() - data.stat().st_mtime < 10:
            continue  # just being made by somebody
        if owner and _is_alive(*owner["owner"]):
            continue
        say(f"clearing up after run {data.name}, whose owner is gone")
        _end_processes([(pid, began) for pid, began in (owner or {}).get("processes", [])])
        _erase(home, data)
        swept.append(data.name)
    return swept


def live_runs(home: LabHome) -> list[str]:
    """Ids of runs whose owner lives."""
    folder = home.path("runs", "x").parent
    owners = {data.name: _owner(data) for data in folder.iterdir()}
    return [run_id for run_id, owner in owners.items() if owner and _is_alive(*owner["owner"])]


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into `KeyboardInterrupt`, so that they clear up as Ctrl-C does. Main thread only."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
