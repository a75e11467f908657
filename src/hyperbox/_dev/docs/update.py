"""Rewriting of pages whose blocks printed something else than they promised (`--update-examples`)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from hyperbox._dev.docs.fences import Fence, parse_page

PENDING: Final[dict[Path, dict[int, str]]] = {}
"""New bodies of blocks, by page and by the block's number among the page's fences."""


def write_pending() -> None:
    """Write what is pending. Blocks are found by their number: others may have rewritten the page in the meantime."""
    for page, bodies in PENDING.items():
        text = page.read_text(encoding="utf-8")
        fences = parse_page(page, text)
        page.write_text(rewrite(text, [(fences[number], body) for number, body in bodies.items()]), encoding="utf-8")
    PENDING.clear()


def rewrite(text: str, bodies: Iterable[tuple[Fence, str]]) -> str:
    """Put new bodies into a page's text; the fences are those of this text."""
    lines = text.splitlines()
    for fence, body in sorted(bodies, key=lambda pair: pair[0].line, reverse=True):
        renewed = [f"{fence.indent}{line}".rstrip() for line in body.splitlines()]
        lines[fence.line : fence.line + len(fence.body.splitlines())] = renewed
    return "".join(f"{line}\n" for line in lines)
