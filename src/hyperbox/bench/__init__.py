"""Measurements of HyperBox beside the same engine without it, on the lab's images, as ratios in one run.

`hyperbox bench run` and `python -m hyperbox.bench` measure the whole set; the demo uses the same parts on two images.
"""

from .footprint import cached_bytes, disk_bytes, drop_caches
from .results import Measure, Report, Target
from .sessions import lab_run
from .systems import HYPERBOX, VANILLA, Pulled, System

__all__ = [
    "HYPERBOX",
    "VANILLA",
    "Measure",
    "Pulled",
    "Report",
    "System",
    "Target",
    "cached_bytes",
    "disk_bytes",
    "drop_caches",
    "lab_run",
]
