"""Background tasks with names and an owner: one that fails is logged and turns the daemon degraded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import structlog

from hyperbox.api.errors.daemon import ShutdownOverdue
from hyperbox.api.messages import TaskState

log = structlog.get_logger("hyperbox.tasks")
OnFailure = Callable[[str, str], None]


@dataclass
class _Task:
    name: str
    thread: threading.Thread
    wake: threading.Event = field(default_factory=threading.Event)
    state: Literal["running", "idle", "failed", "stopped"] = "idle"
    detail: str = ""


class Supervisor:
    """Owns the daemon's periodic tasks, each on a thread of its own."""

    def __init__(self, on_failure: OnFailure) -> None:
        """`on_failure(task, reason)` is called on the failing task's thread."""
        self._tasks: dict[str, _Task] = {}
        self._stopping = threading.Event()
        self._on_failure = on_failure

    def every(self, name: str, seconds: float, work: Callable[[], object]) -> None:
        """Run `work` each `seconds` and whenever `wake(name)` is called. A failure is kept until the next success."""
        task = _Task(name, threading.Thread(target=self._loop, args=(name, seconds, work), name=name, daemon=True))
        self._tasks[name] = task
        task.thread.start()

    def wake(self, name: str) -> None:
        """Let a task run now."""
        self._tasks[name].wake.set()

    def _loop(self, name: str, seconds: float, work: Callable[[], object]) -> None:
        task = self._tasks[name]
        while True:
            task.wake.wait(seconds)
            task.wake.clear()
            if self._stopping.is_set():
                task.state = "stopped"
                return
            self._run(task, work)

    def _run(self, task: _Task, work: Callable[[], object]) -> None:
        task.state = "running"
        try:
            work()
        except Exception as error:  # whatever it is, the daemon lives on, degraded
            failed_before = task.detail != ""
            task.state, task.detail = "failed", f"{type(error).__name__}: {error}"
            log.exception("task failed", task=task.name)
            if not failed_before:
                self._on_failure(task.name, task.detail)
        else:
            task.state, task.detail = "idle", ""

    def states(self) -> list[TaskState]:
        """State of every task, by name."""
        return [TaskState(name=t.name, state=t.state, detail=t.detail) for _, t in sorted(self._tasks.items())]

    def stop(self, seconds: float) -> None:
        """End all tasks and wait for them, at most `seconds` altogether.

        Raises:
            ShutdownOverdue: One of them did not end; its thread goes with the process.
        """
        self._stopping.set()
        deadline = time.monotonic() + seconds
        for task in self._tasks.values():
            task.wake.set()
        for task in self._tasks.values():
            task.thread.join(max(0.0, deadline - time.monotonic()))
            if task.thread.is_alive():
                raise ShutdownOverdue(task=task.name, seconds=round(seconds))
