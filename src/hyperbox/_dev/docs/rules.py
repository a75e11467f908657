"""Rules that every page keeps: which fences there may be, which sections a kind of page has, what it may name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from hyperbox._dev.docs.checkers import BY_LANGUAGE, BY_OPTION
from hyperbox._dev.docs.fences import Fence

EXECUTED: Final = frozenset({"console", "python"})
PLAIN: Final = frozenset({"text", "mermaid"})
"""Languages of fences that nothing runs: illustrations and diagrams."""

PLAYBOOK_SECTIONS: Final = (
    "When to use it",
    "What you need",
    "Steps",
    "How to see that it worked",
    "How to undo it",
    "What can go wrong",
)
ALERT_SECTIONS: Final = ("Meaning", "Impact", "Diagnosis", "Mitigation", "Validation")
"""Sections of a playbook whose front matter says `alert: <name>`."""

_SECTION: Final = re.compile(r"^## (.+?)(?: \{[^}]*\})?$", re.MULTILINE)
_ERROR_CODE: Final = re.compile(r"\bHB-(?!EXAMPLE-)[A-Z]+-\d+\b")
_VARIABLE: Final = re.compile(r"\bHYPERBOX_[A-Z0-9_]*[A-Z0-9]\b(?!<)")
_COMMAND: Final = re.compile(r"(?:`|\$ )(?:sudo )?hyperbox((?: [a-z][a-z-]*)+)")


def fence_faults(fence: Fence) -> list[str]:
    """Say what is wrong with a fence; an empty list when nothing is."""
    if fence.language in EXECUTED | PLAIN:
        return []
    if fence.includes:
        return []
    check = fence.options.get("check")
    if check is not None and check not in BY_OPTION:
        return [f"{fence}: no check is called {check!r}"]
    checker = BY_OPTION[check] if check else BY_LANGUAGE.get(fence.language)
    if checker is None:
        words = f"a {fence.language} fence" if fence.language else "a fence without language"
        return [f"{fence}: {words} is not run: use console or python, text for an illustration, or include an example"]
    fault = checker(fence.body)
    return [f"{fence}: {fault}"] if fault else []


def missing_sections(text: str) -> list[str]:
    """Name the sections that a playbook lacks or has out of order."""
    front = text.partition("\n---\n")[0] if text.startswith("---\n") else ""
    wanted = ALERT_SECTIONS if re.search(r"^alert:", front, re.MULTILINE) else PLAYBOOK_SECTIONS
    found = [section for section in _SECTION.findall(text) if section in wanted]
    return [] if found == list(wanted) else [section for section in wanted if section not in found] or ["their order"]


def unknown_names(
    texts: Mapping[Path, str], *, codes: Iterable[str], variables: Iterable[str], commands: Iterable[tuple[str, ...]]
) -> list[str]:
    """Find error codes, environment variables and commands that pages name and nothing declares."""
    known_codes, known_variables, known_commands = set(codes), set(variables), set(commands)
    groups = {path[:-1] for path in known_commands}
    faults = []
    for page, text in texts.items():
        found = [(m, m[0] in known_codes) for m in _ERROR_CODE.finditer(text)]
        found += [(m, m[0] in known_variables) for m in _VARIABLE.finditer(text)]
        found += [(m, _is_command(m[1].split(), known_commands, groups)) for m in _COMMAND.finditer(text)]
        faults += [
            f"{page}:{text.count(chr(10), 0, m.start()) + 1}: {m[0].strip('`$ ')}" for m, known in found if not known
        ]
    return faults


def _is_command(words: list[str], known: set[tuple[str, ...]], groups: set[tuple[str, ...]]) -> bool:
    """Say whether words begin with a command, or are a group's name alone."""
    path = ("hyperbox", *words)
    return path in groups or any(path[:length] in known for length in range(2, len(path) + 1))
