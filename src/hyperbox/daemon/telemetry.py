"""Metrics and events: the declarations of the api room, made to count and to be kept."""

from __future__ import annotations

import os
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from hyperbox.api import events as e
from hyperbox.api import metrics as m
from hyperbox.store import Catalogue

log = structlog.get_logger("hyperbox")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Memory of this process, as the kernel counts it (bytes)."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE


class Metrics:
    """All declared metrics on a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._made: dict[str, Any] = {}
        for metric in m.METRICS:
            common: dict[str, Any] = {"labelnames": metric.labels, "registry": self.registry}
            if metric.kind == "counter":
                self._made[metric.name] = Counter(metric.name, metric.description, **common)
            elif metric.kind == "gauge":
                self._made[metric.name] = Gauge(metric.name, metric.description, **common)
            else:
                self._made[metric.name] = Histogram(metric.name, metric.description, buckets=metric.buckets, **common)

    def count(self, metric: m.Metric, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        self._at(metric, labels).inc(amount)

    def observe(self, metric: m.Metric, value: float, **labels: str) -> None:
        """Add one observation to a histogram."""
        self._at(metric, labels).observe(value)

    def set(self, metric: m.Metric, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._at(metric, labels).set(value)

    def _at(self, metric: m.Metric, labels: dict[str, str]) -> Any:
        made = self._made[metric.name]
        return made.labels(**labels) if labels else made

    def text(self) -> bytes:
        """All metrics in Prometheus' text form."""
        return generate_latest(self.registry)


class Events:
    """Records declared events in the catalogue and in the log."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def record(self, event: e.Event, **fields: Any) -> None:
        """Record one event. Its fields must be those that are declared."""
        if fields.keys() != {name for name, _ in event.fields}:
            raise TypeError(f"{event.name} has the fields {[n for n, _ in event.fields]}, not {list(fields)}")
        data = {name: value if isinstance(value, int | float | bool) else str(value) for name, value in fields.items()}
        getattr(log, event.severity)(event.name, **data)
        self._catalogue.events.add(event.name, data)
