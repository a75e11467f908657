"""How far away the registry is."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hyperbox._dev.lab import Registry, Run, SlowProxy, step

_FORM = re.compile(r"(\d+(?:\.\d+)?)ms,(\d+(?:\.\d+)?)mbit", re.IGNORECASE)


@dataclass(frozen=True)
class Network:
    """Round trip in seconds and bits per second of the way to the registry; both 0 for none at all."""

    round_trip: float = 0.02
    bits_per_second: float = 200e6

    @classmethod
    def parse(cls, text: str) -> Network:
        """Read `20ms,200mbit` or `none`. Raises `ValueError`."""
        if text == "none":
            return cls(0, 0)
        found = _FORM.fullmatch(text)
        if found is None or not float(found.group(2)):
            raise ValueError(f"{text!r} is not a network: write `20ms,200mbit`, or `none`")
        return cls(float(found.group(1)) / 1000, float(found.group(2)) * 1e6)

    def __str__(self) -> str:
        if not self.bits_per_second:
            return "none"
        return f"{self.round_trip * 1000:g}ms,{self.bits_per_second / 1e6:g}mbit"

    def place(self, run: Run, registry: Registry) -> SlowProxy | None:
        """Put the distance before a registry; None where there is none."""
        if not self.bits_per_second:
            return None
        with step(f"putting the registry {self} away"):
            return SlowProxy(run, registry, round_trip=self.round_trip, bits_per_second=self.bits_per_second)


DEFAULT = Network()
"""A registry in the same region: 20 ms and 200 Mbit/s."""
