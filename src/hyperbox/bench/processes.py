"""What processes cost: processor time, memory, wake-ups. Read from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICK = 1.0 / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time of processes and of their children that have ended, in seconds (clock ticks of 10 ms)."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return ticks * _TICK


@dataclass(frozen=True)
class Memory:
    """Memory of one process, in bytes."""

    rss: int
    pss: int


def memory(pid: int) -> Memory:
    """Resident and proportional set size."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return Memory(*(int(fields[name].split()[0]) * 1024 for name in ("Rss", "Pss")))


def wake_ups(pid: int) -> int:
    """How often the threads of a process have gone to sleep, and so been woken, since they began."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                total += int(line.split()[1])
    return total
