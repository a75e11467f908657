"""Metrics and events: the declarations of the api room, made to count and to be kept."""

from __future__ import annotations

from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from hyperbox.api import events as e
from hyperbox.api import metrics as m
from hyperbox.api.errors.base import HyperBoxError
from hyperbox.images import PullProgress
from hyperbox.store import Catalogue

log = structlog.get_logger("hyperbox")


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


class Watcher:
    """What the snapshotter and the puller tell, turned into metrics, events and log lines."""

    def __init__(self, events: Events, metrics: Metrics) -> None:
        self._events = events
        self._metrics = metrics

    def event(self, event: e.Event, **fields: Any) -> None:
        """Record an event and count what it stands for."""
        if event is e.LAYER_DECLINED:
            self._metrics.count(m.LAYERS_DECLINED, code=str(fields["code"]))
        elif event is e.LAYER_COMPACTED:
            self._metrics.count(m.COMPACTIONS, outcome="done")
        elif event is e.COMPACTION_FAILED:
            self._metrics.count(m.COMPACTIONS, outcome="failed")
        self._record(event, fields)

    def call(self, method: str, status: str, seconds: float) -> None:
        """Count a call of the engine."""
        self._metrics.count(m.SNAPSHOT_CALLS, method=method, status=status)
        self._metrics.observe(m.SNAPSHOT_SECONDS, seconds, method=method)
        log.debug("call", method=method, status=status, seconds=round(seconds, 4))

    def fault(self, where: str, error: BaseException) -> None:
        """Log what nobody else is told of."""
        log.warning("fault", where=where, error=f"{type(error).__name__}: {error}")

    def progress(self, progress: PullProgress) -> None:
        """Record a layer that HyperBox fetched itself; other news of a pull are not ours."""
        row = progress.row
        if progress.state != "fetched" or row is None:
            return
        self._metrics.count(m.LAYERS_PROVIDED)
        self._metrics.count(m.BYTES_FETCHED, row.bytes_fetched)
        self._metrics.count(m.BYTES_DEDUPED, row.bytes_deduped)
        self._metrics.observe(m.LAYER_SECONDS, row.seconds)
        fields = {"layer": row.layer_id, "bytes": row.bytes_fetched, "seconds": round(row.seconds, 3)}
        self._record(e.LAYER_PROVIDED, {"image": progress.image, **fields})

    def _record(self, event: e.Event, fields: dict[str, Any]) -> None:
        try:
            self._events.record(event, **fields)
        except HyperBoxError as error:  # a full disk must not turn a call that worked into one that failed
            self.fault(f"recording {event.name}", error)
