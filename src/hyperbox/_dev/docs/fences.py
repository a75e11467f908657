"""Code fences of Markdown pages: found with their line, language and attributes.

A fence's info string is a language and attributes in quotes, the form that the site's Markdown takes:
```` ```console needs="root lab" timeout="120" ````. Front matter of the page may say `needs:` for all its fences.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml

_OPEN: Final = re.compile(r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^`\n]*)$")
_OPTION: Final = re.compile(r"([A-Za-z][\w-]*)(?:=(?:\"([^\"]*)\"|'([^']*)'))?")
_INCLUDE: Final = re.compile(r"^\s*-{1,}8<-{1,}\s+[\"'](?P<target>[^\"']+)[\"']\s*$")
_FRONT: Final = re.compile(r"\A---\n(.*?\n)---\n", re.DOTALL)


class PageError(ValueError):
    """A page that the harness cannot read; the message names file and line."""


@dataclass(frozen=True, slots=True)
class Fence:
    """One fenced block: `line` is that of its opening, counted from 1; `body` is without the page's indentation."""

    page: Path
    line: int
    language: str
    options: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    page_needs: tuple[str, ...] = ()
    indent: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """Capabilities that the block needs: the page's and its own, each once."""
        return tuple(dict.fromkeys((*self.page_needs, *self.options.get("needs", "").replace(",", " ").split())))

    @property
    def includes(self) -> tuple[str, ...]:
        """Files that the block includes by reference, relative to the repository."""
        matches = (_INCLUDE.match(line) for line in self.body.splitlines())
        return tuple(match["target"].partition(":")[0] for match in matches if match)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def parse_page(page: Path, text: str) -> list[Fence]:
    """Find all fences of one page.

    Raises:
        PageError: A fence is not closed, or the front matter is not a table.
    """
    return list(_fences(page, text, front_needs(page, text)))


def front_needs(page: Path, text: str) -> tuple[str, ...]:
    """Read the capabilities that the front matter demands for the whole page."""
    match = _FRONT.match(text)
    if match is None:
        return ()
    data = yaml.safe_load(match[1]) or {}
    if not isinstance(data, dict):
        raise PageError(f"{page}:1: front matter is not a table of keys")
    needs = data.get("needs", ())
    return tuple(needs.split()) if isinstance(needs, str) else tuple(str(need) for need in needs)


def _fences(page: Path, text: str, needs: tuple[str, ...]) -> Iterator[Fence]:
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        match = _OPEN.match(lines[number])
        number += 1
        if match is None:
            continue
        start = number
        closing = re.compile(rf"^[ \t]*{re.escape(match['fence'][0])}{{{len(match['fence'])},}}[ \t]*$")
        while number < len(lines) and not closing.match(lines[number]):
            number += 1
        if number == len(lines):
            raise PageError(f"{page}:{start}: the fence is not closed")
        language, options = parse_info(match["info"])
        body = "".join(f"{_unindent(line, match['indent'])}\n" for line in lines[start:number])
        yield Fence(page, start, language, options, body, needs, match["indent"])
        number += 1


def _unindent(line: str, indent: str) -> str:
    """Take the fence's own indentation off a line that has it; a line with less loses what it has."""
    return line.removeprefix(indent) if line.startswith(indent) else line.lstrip(" \t")


def parse_info(info: str) -> tuple[str, dict[str, str]]:
    """Split an info string into language and attributes; an attribute without value has its own name as value."""
    language, _, rest = info.strip().strip("{}").strip().partition(" ")
    options = {name: double or single or name for name, double, single in _OPTION.findall(rest)}
    return language.lstrip(".").lower(), options


def read_pages(folder: Path) -> dict[Path, list[Fence]]:
    """Parse all pages below a folder, in path order; folders that begin with `_` are not part of the site."""
    pages = sorted(path for path in folder.rglob("*.md") if not any(part.startswith("_") for part in path.parts))
    return {path: parse_page(path, path.read_text(encoding="utf-8")) for path in pages}
