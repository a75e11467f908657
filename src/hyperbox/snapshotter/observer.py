"""How the snapshotter tells the daemon what happens, without knowing logs, metrics or the event table."""

from __future__ import annotations

from typing import Any, Protocol

from hyperbox.api.events import Event


class Observer(Protocol):
    """Told of events and calls; must be thread-safe and must not raise."""

    def event(self, event: Event, **fields: Any) -> None:
        """Something declared in `hyperbox.api.events` happened."""

    def call(self, method: str, status: str, seconds: float) -> None:
        """A call of the engine ended with this gRPC status name."""

    def fault(self, where: str, error: BaseException) -> None:
        """Something went wrong that nobody else is told of."""


class Silent:
    """An observer that keeps everything to itself."""

    def event(self, event: Event, **fields: Any) -> None:
        """Ignore."""

    def call(self, method: str, status: str, seconds: float) -> None:
        """Ignore."""

    def fault(self, where: str, error: BaseException) -> None:
        """Ignore."""
