"""Console blocks: commands with what they print and their exit status, as a reader sees them.

`$ ` starts a command, `> ` continues it, `? 3` states an exit status other than 0; the lines between are the output.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from hyperbox._dev.docs.fences import Fence, PageError
from hyperbox._dev.docs.matching import ANY_LINES, difference, matches, updated

COMMAND: Final = "$ "
CONTINUATION: Final = "> "
STATUS: Final = "? "


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a block and what the page promises of it; `line` is its line in the page."""

    line: int
    command: str
    output: tuple[str, ...] = ()
    status: int = 0


@dataclass(slots=True)
class _Open:
    line: int
    command: list[str]
    output: list[str] = field(default_factory=list)
    status: int | None = None

    def close(self) -> Step:
        while self.output and not self.output[-1].strip():
            self.output.pop()
        return Step(self.line, "\n".join(self.command), tuple(self.output), self.status or 0)


def parse_steps(fence: Fence) -> list[Step]:
    """Read the commands of a console fence.

    Raises:
        PageError: The block does not begin with a command, or a status is not a number or not the last line.
    """
    return [step.close() for step in _steps(fence)]


def _steps(fence: Fence) -> Iterator[_Open]:
    current: _Open | None = None
    for line, text in enumerate(fence.body.splitlines(), fence.line + 1):
        if text.startswith(COMMAND):
            if current is not None:
                yield current
            current = _Open(line, [text.removeprefix(COMMAND)])
        elif current is None:
            raise PageError(f"{fence.page}:{line}: a console block begins with a command ('$ …')")
        elif current.status is not None and text.strip():
            raise PageError(f"{fence.page}:{line}: output after the exit status")
        elif text.startswith(CONTINUATION) and not current.output:
            current.command.append(text.removeprefix(CONTINUATION))
        elif text.startswith(STATUS):
            current.status = _status(text.removeprefix(STATUS), f"{fence.page}:{line}")
        else:
            current.output.append(text)
    if current is None:
        raise PageError(f"{fence}: the console block has no command")
    yield current


def _status(text: str, where: str) -> int:
    if not text.strip().isdigit():
        raise PageError(f"{where}: an exit status is a number, not {text.strip()!r}")
    return int(text)


def complaint(step: Step, printed: list[str], status: int) -> str | None:
    """Say what differs between promise and outcome, readable as it is, or None when nothing does."""
    same = matches(step.output, printed)
    if same and status == step.status:
        return None
    parts = [f"$ {step.command}"]
    if status != step.status:
        parts.append(f"exit status {status}, the page says {step.status}")
    if not same:
        parts.append("- the page, + printed:")
        parts.append(difference(step.output, printed))
    if printed and (same or ANY_LINES in step.output):  # a difference beside `...` may not show what it swallowed
        parts.append("it printed:\n" + "\n".join(f"  {line}" for line in printed))
    return "\n".join(parts)


def render(steps: list[Step]) -> str:
    """Give the body of the block that these steps are."""
    lines: list[str] = []
    for step in steps:
        first, *more = step.command.split("\n")
        lines += [COMMAND + first, *(CONTINUATION + line for line in more), *step.output]
        if step.status:
            lines.append(f"{STATUS}{step.status}")
    return "".join(f"{line}\n" for line in lines)


def update(step: Step, printed: list[str], status: int) -> Step:
    """Give the step that the outcome would keep, with the wildcards that still hold."""
    return replace(step, output=tuple(updated(step.output, printed)), status=status)
