"""Time and chance as the registry client sees them, so that tests need neither."""

from __future__ import annotations

import random
import threading
import time
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock that can pause."""

    def monotonic(self) -> float:
        """Return seconds since some fixed point."""
        ...

    def wall(self) -> float:
        """Return seconds since the epoch (only to read `Retry-After` dates)."""
        ...

    def pause(self, seconds: float, stop: threading.Event) -> None:
        """Wait `seconds`, shorter when `stop` is set."""
        ...

    def chance(self) -> float:
        """Return a number from 0 (included) to 1 (excluded)."""
        ...


class SystemClock:
    """The machine's own clock and random numbers."""

    def monotonic(self) -> float:
        """Return `time.monotonic()`."""
        return time.monotonic()

    def wall(self) -> float:
        """Return `time.time()`."""
        return time.time()

    def pause(self, seconds: float, stop: threading.Event) -> None:
        """Wait on the event, so that a stop ends the pause at once."""
        stop.wait(seconds)

    def chance(self) -> float:
        """Return `random.random()`: jitter needs no better randomness."""
        return random.random()  # noqa: S311  # spreads load, keeps no secret
