"""Rewriting of pages whose blocks printed something else than they promised (`--update-examples`)."""

from __future__ import annotations

from collections.abc import Iterable

from hyperbox._dev.docs.fences import Fence


def rewrite(text: str, bodies: Iterable[tuple[Fence, str]]) -> str:
    """Put new bodies into a page's text; the fences are those of this text."""
    lines = text.splitlines()
    for fence, body in sorted(bodies, key=lambda pair: pair[0].line, reverse=True):
        renewed = [f"{fence.indent}{line}".rstrip() for line in body.splitlines()]
        lines[fence.line : fence.line + len(fence.body.splitlines())] = renewed
    return "".join(f"{line}\n" for line in lines)
