"""Comparison of what a page promises with what a command printed.

In a promise, a line `...` stands for any number of lines and `[..]` for any text inside a line. Promise and output are
aligned with the fewest differences; that one alignment says whether they match, shows the difference, and carries the
wildcards over when a page is updated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

ANY_LINES: Final = "..."
ANY_TEXT: Final = "[..]"

_MISSING: Final = 2
"""Cost of a promised line that is missing; an unpromised one costs 1. So a changed line shows as changed even where a
`...` nearby could have swallowed its new form together with its neighbours."""


class Aligned(NamedTuple):
    """One line of an alignment: kept, promised but missing (`-`), or printed but not promised (`+`)."""

    mark: Literal[" ", "-", "+"]
    text: str


def line_matches(promised: str, printed: str) -> bool:
    """Say whether one printed line is what one promised line allows; spaces at the end do not count."""
    pattern = ".*".join(re.escape(part) for part in promised.rstrip().split(ANY_TEXT))
    return re.fullmatch(pattern, printed.rstrip()) is not None


def align(promised: Sequence[str], printed: Sequence[str]) -> list[Aligned]:
    """Align two texts by lines with the fewest differences; a kept line is given as it was promised."""
    costs = _costs(promised, printed)
    aligned: list[Aligned] = []
    i = j = 0
    while i < len(promised) or j < len(printed):
        here = costs[i][j]
        if i < len(promised) and promised[i].strip() == ANY_LINES:
            if here == costs[i + 1][j]:
                aligned.append(Aligned(" ", promised[i]))
                i += 1
            else:
                j += 1
        elif i < len(promised) and j < len(printed) and here == costs[i + 1][j + 1] and _same(promised[i], printed[j]):
            aligned.append(Aligned(" ", promised[i]))
            i, j = i + 1, j + 1
        elif i < len(promised) and here == _MISSING + costs[i + 1][j]:
            aligned.append(Aligned("-", promised[i]))
            i += 1
        else:
            aligned.append(Aligned("+", printed[j]))
            j += 1
    return aligned


def _same(promised: str, printed: str) -> bool:
    return promised.strip() != ANY_LINES and line_matches(promised, printed)


def _costs(promised: Sequence[str], printed: Sequence[str]) -> list[list[int]]:
    """Fewest differences between each pair of endings (dynamic programming from the end)."""
    rows, columns = len(promised), len(printed)
    costs = [[0] * (columns + 1) for _ in range(rows + 1)]
    costs[rows] = list(range(columns, -1, -1))
    for i in range(rows - 1, -1, -1):
        any_lines = promised[i].strip() == ANY_LINES
        costs[i][columns] = costs[i + 1][columns] + (0 if any_lines else _MISSING)
        for j in range(columns - 1, -1, -1):
            if any_lines:
                costs[i][j] = min(costs[i + 1][j], costs[i][j + 1])
                continue
            best = min(_MISSING + costs[i + 1][j], 1 + costs[i][j + 1])
            if costs[i + 1][j + 1] < best and line_matches(promised[i], printed[j]):
                best = costs[i + 1][j + 1]
            costs[i][j] = best
    return costs


def matches(promised: Sequence[str], printed: Sequence[str]) -> bool:
    """Say whether the printed lines are what the promised lines allow."""
    return _costs(promised, printed)[0][0] == 0


def difference(promised: Sequence[str], printed: Sequence[str]) -> str:
    """Render the difference for a reader: `-` promised, `+` printed."""
    return "\n".join(f"{mark} {text}".rstrip() for mark, text in align(promised, printed))


def updated(promised: Sequence[str], printed: Sequence[str]) -> list[str]:
    """Give the promise that the output would keep, wildcards that still hold included."""
    return [text for mark, text in align(promised, printed) if mark != "-"]
