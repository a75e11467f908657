"""When to try a request again, and after how long. Decides only; no clock and no socket in here."""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hyperbox.images.registry.settings import RegistrySettings

RETRIED: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that pass by themselves. 501 and 505 never do."""
LIMITED: Final = frozenset({429, 503})
"""Statuses whose Retry-After counts."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter: the pause is evenly spread between nothing and the bound.

    Full jitter spreads a crowd of nodes that failed in the same moment; equal pauses would bring them back together.
    """

    attempts: int
    first: float
    limit: float
    retry_after_limit: float

    @classmethod
    def of(cls, settings: RegistrySettings) -> Backoff:
        """Take the numbers from the settings."""
        return cls(
            settings.attempts,
            settings.backoff_seconds,
            settings.backoff_limit_seconds,
            settings.retry_after_limit_seconds,
        )

    def pause(self, failures: int, chance: float, retry_after: float | None = None) -> float | None:
        """Return seconds to wait after the given number of failures, None to give up.

        `chance` is a random number in [0, 1). A `retry_after` within the limit is obeyed and a little jitter added.
        """
        if failures >= self.attempts:
            return None
        bound: float = min(self.limit, self.first * 2.0 ** (failures - 1))
        if retry_after is None:
            return bound * chance
        if retry_after > self.retry_after_limit:
            return None
        return retry_after + self.first * chance


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that a `Retry-After` header asks for (`now` is wall time), None when it says nothing."""
    value = (headers.get("Retry-After") or "").strip()
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return max(0.0, moment.timestamp() - now)
