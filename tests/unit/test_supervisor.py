"""Background tasks: they run when woken, fail visibly, recover, and end."""

from __future__ import annotations

import threading

import pytest

from hyperbox.api.errors.daemon import ShutdownOverdue
from hyperbox.daemon.supervisor import Supervisor


def test_a_task_runs_when_woken_and_stops():
    ran = threading.Event()
    supervisor = Supervisor(lambda task, reason: None)
    supervisor.every("work", 3600, ran.set)
    supervisor.wake("work")
    assert ran.wait(10)
    supervisor.stop(10)
    assert [state.state for state in supervisor.states()] == ["stopped"]


def test_a_failure_is_kept_told_once_and_forgotten_after_a_success():
    told: list[tuple[str, str]] = []
    runs: list[int] = []
    enough = threading.Event()

    def work() -> None:
        runs.append(len(runs))
        if len(runs) <= 2:
            raise ValueError("no" if len(runs) == 1 else "still no")
        enough.set()

    supervisor = Supervisor(lambda task, reason: told.append((task, reason)))
    supervisor.every("work", 0.001, work)
    assert enough.wait(10)
    supervisor.stop(10)
    assert told == [("work", "ValueError: no")]
    assert supervisor.states()[0].detail == ""


def test_an_overdue_task_is_named():
    hold = threading.Event()
    begun = threading.Event()

    def work() -> None:
        begun.set()
        hold.wait(30)

    supervisor = Supervisor(lambda task, reason: None)
    supervisor.every("slow", 3600, work)
    supervisor.wake("slow")
    assert begun.wait(10)
    with pytest.raises(ShutdownOverdue, match="slow"):
        supervisor.stop(0.01)
    hold.set()
