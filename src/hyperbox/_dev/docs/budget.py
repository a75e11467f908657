"""The committed budget of blocks that the project's own machines cannot run.

`skips.toml` names the capabilities that no machine of the project has, each with the reason, and for each page how many
of its blocks need one of them. The numbers are exact, so a block that stops being run shows in a diff.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from hyperbox._dev.docs.fences import Fence


@dataclass(frozen=True, slots=True)
class Budget:
    """Which capabilities are nowhere to be had, and how many blocks of each page that costs."""

    unavailable: Mapping[str, str] = field(default_factory=dict)
    pages: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the TOML text of a budget file."""
        data = tomllib.loads(text)
        return cls(dict(data.get("unavailable", {})), {page: int(n) for page, n in data.get("pages", {}).items()})

    def allows(self, needs: Iterable[str]) -> bool:
        """Say whether a block with these needs may be skipped on the project's own machines."""
        return any(need in self.unavailable for need in needs)

    def differences(self, fences: Iterable[Fence], docs: Path) -> list[str]:
        """Compare the budget with the pages; one sentence for each page whose number is not right."""
        found = Counter(fence.page.relative_to(docs).as_posix() for fence in fences if self.allows(fence.needs))
        return [
            f"{page}: {found[page]} blocks cannot be run, the budget says {self.pages.get(page, 0)}"
            for page in sorted({*found, *self.pages})
            if found[page] != self.pages.get(page, 0)
        ]
