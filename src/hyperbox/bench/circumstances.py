"""What a result depends on: machine, kernel, engine, images, network."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hyperbox import __version__
from hyperbox._dev.lab import SlowProxy
from hyperbox._dev.lab.images import LabImage
from hyperbox.bench.systems import System


def circumstances(system: System, images: Iterable[LabImage], distance: SlowProxy | None) -> dict[str, Any]:
    """Everything that somebody needs to compare a result with one of his own."""
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "hyperbox": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "load_average_before": os.getloadavg()[0],
        "file_system": _file_system(system.engine.root),
        "engine": _versions(system),
        "network": None
        if distance is None
        else {"round_trip_seconds": distance.round_trip, "bits_per_second": distance.bits_per_second},
        "images": {
            image.key: {"manifest": image.manifest, "compressed_bytes": image.compressed_size} for image in images
        },
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _file_system(folder: Path) -> str:
    command = ["stat", "-f", "-c", "%T", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _versions(system: System) -> dict[str, str]:
    found = {}
    for program in ("dockerd", "containerd", "runc"):
        tools = system.engine.tools
        command = [tools.program(program), "--version"]
        done = subprocess.run(command, env=tools.environment(), capture_output=True, text=True, check=True)
        found[program] = done.stdout.splitlines()[0]
    return found
