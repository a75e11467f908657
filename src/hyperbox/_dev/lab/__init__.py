"""The lab: a private engine, a registry and images, for the demo, the tests, the executed documentation and benchmarks.

It needs a Debian 12 machine, root, and Debian's archive; nothing is installed on the machine. Typical use:

    home = LabHome()
    with Run(home) as run:
        registry = Registry(run)
        engine = Engine(run, "vanilla")
        engine.docker("pull", registry.reference("python-web", "v1"))
"""

from .daemon import Hyperboxd
from .engine import Cri, Engine
from .home import LabError, LabHome, say, step
from .packages import NEXT, RELEASES, STABLE, Release, Toolbox, toolbox
from .registry import Registry, SlowProxy, free_port
from .runs import Run, live_runs, signals_raise, sweep

__all__ = [
    "NEXT",
    "RELEASES",
    "STABLE",
    "Cri",
    "Engine",
    "Hyperboxd",
    "LabError",
    "LabHome",
    "Registry",
    "Release",
    "Run",
    "SlowProxy",
    "Toolbox",
    "free_port",
    "live_runs",
    "say",
    "signals_raise",
    "step",
    "sweep",
    "toolbox",
]
