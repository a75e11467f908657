"""The metrics and events pages."""

from __future__ import annotations

from hyperbox._dev.reference.markdown import anchor, code, facts, heading, page, table
from hyperbox.api.events import EVENTS, Event
from hyperbox.api.metrics import METRICS, Metric


def metrics_page() -> str:
    """Render every metric."""
    return page(
        "Metrics",
        "The daemon serves these in the Prometheus text format at `/metrics` of the control socket. A counter starts "
        "at 0 with the daemon.",
        table(
            ("Metric", "Kind", "Meaning"),
            ((f"[{code(m.name)}](#{anchor(m.name)})", m.kind, m.description) for m in METRICS),
        ),
        *(_metric(m) for m in METRICS),
    )


def _metric(metric: Metric) -> str:
    return "\n\n".join(
        (
            heading(2, metric.name, anchor(metric.name)),
            metric.description,
            facts(
                (
                    ("Kind", metric.kind),
                    ("Unit", metric.unit),
                    ("Labels", ", ".join(code(label) for label in metric.labels)),
                    ("Buckets", ", ".join(f"{bound:g}" for bound in metric.buckets)),
                    ("Since", metric.since),
                )
            ),
        )
    )


def events_page() -> str:
    """Render every event."""
    return page(
        "Events",
        "What happened that somebody may want to know later: kept in the catalogue, shown by `hyperbox events`, logged "
        "with the same name and fields.",
        table(
            ("Event", "Severity", "Meaning"),
            ((f"[{code(e.name)}](#{anchor(e.name)})", e.severity, e.description) for e in EVENTS),
        ),
        *(_event(e) for e in EVENTS),
    )


def _event(event: Event) -> str:
    return "\n\n".join(
        (
            heading(2, event.name, anchor(event.name)),
            event.description,
            facts((("Severity", event.severity), ("Since", event.since))),
            table(("Field", "Meaning"), ((code(name), meaning) for name, meaning in event.fields)),
        )
    )
