"""One background thread for what can wait: compaction, and folders that are no longer needed.

The thread starts with the first job and runs at low priority. Jobs have keys; one that waits already is not added
again. `close` lets the running job end, at most for a bounded time, and drops the rest: every job can be done again
after the next start.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Final

from hyperbox.snapshotter.observer import Observer

_NICE: Final = 10
_PATIENCE: Final = 10.0
"""Seconds that `close` waits for the running job."""

Job = Callable[[], None]


class Worker:
    """A queue of keyed jobs with one thread."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._condition = threading.Condition()
        self._jobs: dict[str, tuple[float, Job]] = {}
        self._running: str | None = None
        self._thread: threading.Thread | None = None
        self.stopping: Final = threading.Event()
        """Long jobs look at it."""

    def submit(self, key: str, job: Job, *, delay: float = 0.0) -> None:
        """Run `job` after `delay` seconds, unless one with this key waits already for no longer than that."""
        due = time.monotonic() + delay
        with self._condition:
            if self.stopping.is_set() or (key in self._jobs and self._jobs[key][0] <= due):
                return
            self._jobs[key] = (due, job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="snapshot-worker", daemon=True)
                self._thread.start()
            self._condition.notify_all()

    def pending(self) -> int:
        """Return how many jobs wait or run."""
        with self._condition:
            return len(self._jobs) + (self._running is not None)

    def drain(self, timeout: float) -> bool:
        """Wait until nothing is due or running; whether it came to that in time."""
        with self._condition:
            return self._condition.wait_for(lambda: self._running is None and not self._due(), timeout)

    def _due(self) -> bool:
        now = time.monotonic()
        return any(due <= now for due, _ in self._jobs.values())

    def _next(self) -> Job | None:
        with self._condition:
            self._running = None
            self._condition.notify_all()
            while not self.stopping.is_set():
                now = time.monotonic()
                first = min(self._jobs.items(), key=lambda item: item[1][0], default=None)
                if first is not None and first[1][0] <= now:
                    self._running = first[0]
                    return self._jobs.pop(first[0])[1]
                self._condition.wait(None if first is None else first[1][0] - now)
            return None

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while (job := self._next()) is not None:
            try:
                job()
            except Exception as error:  # noqa: BLE001 - a failed job must not end the thread; the observer is told
                self._observer.fault("background work of the snapshotter", error)

    def close(self) -> None:
        """Stop; a second call does nothing."""
        with self._condition:
            self.stopping.set()
            self._jobs.clear()
            self._condition.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_PATIENCE)
