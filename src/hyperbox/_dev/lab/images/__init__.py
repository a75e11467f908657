"""The lab's images: recipes, building, and readiness probes."""

from .build import Images, LabImage
from .layer_tar import Layer
from .probes import Started, ask, run_until_ready
from .recipes import ALL_IMAGES, CI_IMAGES, DEMO_IMAGES, RECIPES, Probe, Recipe, resolve

__all__ = [
    "ALL_IMAGES",
    "CI_IMAGES",
    "DEMO_IMAGES",
    "RECIPES",
    "Images",
    "LabImage",
    "Layer",
    "Probe",
    "Recipe",
    "Started",
    "ask",
    "resolve",
    "run_until_ready",
]
