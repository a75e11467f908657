"""Measured values, their targets, and how they are shown."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

Unit = Literal["s", "ms", "µs", "bytes", "1/s", "ratio"]


@dataclass(frozen=True)
class Target:
    """What a value, or its ratio to the engine alone, has to be. `of` says which of the two."""

    limit: float
    of: Literal["ratio", "value"] = "ratio"
    direction: Literal["at most", "at least"] = "at most"

    def met(self, value: float) -> bool:
        """Whether a value is within the target."""
        return value <= self.limit if self.direction == "at most" else value >= self.limit


@dataclass(frozen=True)
class Measure:
    """One thing that was measured, on HyperBox and, unless only HyperBox has it, on the engine alone.

    The samples of both are in the order in which they were taken, one of each in turn.
    """

    name: str
    unit: Unit
    hyperbox: tuple[float, ...]
    vanilla: tuple[float, ...] = ()
    target: Target | None = None
    note: str = ""

    @property
    def ratios(self) -> tuple[float, ...]:
        """HyperBox over the engine alone for samples that were taken one after the other; what disturbs one of a pair
        mostly disturbs both."""
        if len(self.vanilla) != len(self.hyperbox) or not all(self.vanilla):
            return ()
        return tuple(mine / base for mine, base in zip(self.hyperbox, self.vanilla, strict=True))

    @property
    def ratio(self) -> float | None:
        """The median of the ratios; None for what only HyperBox has."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def verdict(self) -> str:
        """`met`, `not met`, or nothing where there is no target."""
        if self.target is None:
            return ""
        value = self.ratio if self.target.of == "ratio" else statistics.median(self.hyperbox)
        if value is None:
            return ""
        return "met" if self.target.met(value) else "not met"

    def as_dict(self) -> dict[str, Any]:
        """Everything of it for a results file."""
        return {
            "name": self.name,
            "unit": self.unit,
            "vanilla": _summary(self.vanilla),
            "hyperbox": _summary(self.hyperbox),
            "ratio": _summary(self.ratios),
            "target": asdict(self.target) if self.target else None,
            "verdict": self.verdict or None,
            "note": self.note,
        }


@dataclass
class Report:
    """All results of one run, with the circumstances they were measured in."""

    title: str
    circumstances: dict[str, Any] = field(default_factory=dict)
    measures: list[Measure] = field(default_factory=list)

    def add(self, *measures: Measure) -> None:
        """Append results."""
        self.measures += measures

    def as_dict(self) -> dict[str, Any]:
        """Everything of it for a results file."""
        return {
            "title": self.title,
            "circumstances": self.circumstances,
            "measures": [measure.as_dict() for measure in self.measures],
        }

    def print(self) -> None:
        """Print one table on standard output."""
        targets = any(measure.target for measure in self.measures)
        table = Table(title=self.title, box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
        table.add_column("", overflow="fold")
        for name in ("engine alone", "with HyperBox", "ratio", *(("target", "") if targets else ())):
            table.add_column(name, justify="right", no_wrap=True)
        for measure in self.measures:
            cells = [
                measure.name,
                _shown(measure.vanilla, measure.unit),
                _shown(measure.hyperbox, measure.unit),
                _shown(measure.ratios, "ratio"),
            ]
            if targets:
                cells += [_target(measure), measure.verdict]
            table.add_row(*cells)
        console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 132, highlight=False)
        console.print(table)


def _summary(samples: Sequence[float]) -> dict[str, Any] | None:
    if not samples:
        return None
    found: dict[str, Any] = {"median": statistics.median(samples), "min": min(samples), "max": max(samples)}
    if len(samples) > 3:
        low, _, high = statistics.quantiles(samples, n=4)
        found |= {"quartiles": [low, high]}
    return {**found, "samples": list(samples)}


def _shown(samples: Sequence[float], unit: Unit) -> str:
    """Median, and in brackets half of what lies between the quartiles (or the extremes of few samples)."""
    if not samples:
        return ""
    text = amount(statistics.median(samples), unit)
    if len(samples) == 1 or unit == "bytes" or (unit == "ratio" and len(samples) < 4):
        return text
    if len(samples) > 3:
        low, _, high = statistics.quantiles(samples, n=4)
    else:
        low, high = min(samples), max(samples)
    return f"{text} ±{amount((high - low) / 2, unit).split()[0]}"


def amount(value: float, unit: Unit) -> str:
    """A value with its unit, three digits: `12.3 s`, `184 MB`."""
    if unit == "bytes":
        return f"{value / 1e6:.3g} MB" if value < 1e9 else f"{value / 1e9:.3g} GB"
    if unit == "ratio":
        return f"{value:.2f}"
    return f"{value:.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"


def _target(measure: Measure) -> str:
    target = measure.target
    if target is None:
        return ""
    sign = "≤" if target.direction == "at most" else "≥"
    return f"{sign} {target.limit:g} ×" if target.of == "ratio" else f"{sign} {amount(target.limit, measure.unit)}"
