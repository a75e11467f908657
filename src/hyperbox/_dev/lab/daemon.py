"""hyperboxd as a process of a run, for engines of the lab to use."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from .home import remove_tree
from .runs import Child, Run, accepts, unmount_below


class Hyperboxd:
    """One hyperboxd with a state and a run folder of its own. Started by the constructor; a context manager.

    `stop` and `kill` leave state and mounts, as they do in real life; `start` begins again on the same state. `close`
    deletes everything, and also happens when the run closes. Close the engines that use it before it: the run does so
    when they were started after it.
    """

    def __init__(
        self, run: Run, name: str = "hyperboxd", *, env: Mapping[str, str] | None = None, state: Path | None = None
    ) -> None:
        self.run = run
        self.name = name
        self.state = state or run.data / name
        self.run_folder = run.sockets / name
        self.snapshotter_socket = self.run_folder / "snapshotter.sock"
        self.api_socket = self.run_folder / "api.sock"
        self._env = {**os.environ, **(env or {})}
        self._child: Child | None = None
        self._closed = False
        run.on_close(self.close)
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Hyperboxd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def snapshotter(self) -> tuple[str, Path]:
        """What `Engine(snapshotter=…)` takes."""
        return "hyperbox", self.snapshotter_socket

    @property
    def pid(self) -> int:
        """The process id; 0 while it does not run."""
        return self._child.pid if self._child and self._child.process.poll() is None else 0

    @property
    def log(self) -> Path:
        """The file with everything it has printed."""
        return self.run.data / f"{self.name}.log"

    def start(self, *options: str) -> None:
        """Start it, with further options, and wait until its snapshotter socket takes connections."""
        folders = ["--state", str(self.state), "--run", str(self.run_folder)]
        command = [sys.executable, "-m", "hyperbox.daemon.main", *folders, *options]
        self._child = self.run.spawn(self.name, command, env=self._env)
        self._child.wait_for(lambda: accepts(self.snapshotter_socket), 60)

    def stop(self, seconds: float = 30) -> int | None:
        """SIGTERM, and wait; returns its exit status, None when it did not run."""
        if not self._child:
            return None
        self._child.stop(seconds)
        status: int | None = self._child.process.returncode
        self._child = None
        return status

    def kill(self) -> None:
        """SIGKILL, and wait."""
        if self._child:
            self._child.process.kill()
            self._child.process.wait()
            self._child = None

    def close(self) -> None:
        """End it, unmount what it left mounted, delete its folders. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self.stop()
        for folder in (self.run_folder, self.state):
            unmount_below(folder)
            remove_tree(folder)
