"""Several layers as one: what a path means in the merged view, without mounting it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hyperbox.images.tree import Inode, Kind

Lookup = Callable[[bytes], Inode | None]
"""What one layer (or a merged stack of them) has at a relative path, None for nothing."""


def merged_lookup(layers: Sequence[Lookup]) -> Lookup:
    """Return the look-up of a stack of layers, given bottom first.

    Whiteouts hide what is below them; so do opaque folders, and anything that is not a folder, for the paths inside.
    """

    def lookup(path: bytes) -> Inode | None:
        for layer in reversed(layers):
            found = layer(path)
            if found is not None:
                return None if found.kind is Kind.WHITEOUT else found
            if _hides(layer, path):
                return None
        return None

    return lookup


def _hides(layer: Lookup, path: bytes) -> bool:
    """Tell whether a layer hides everything below it at `path`, at which it has nothing itself."""
    end = path.find(b"/")
    while end != -1:
        ancestor = layer(path[:end])
        if ancestor is None:
            return False  # a layer has each parent of what it has, so nothing can come further down
        if ancestor.kind is not Kind.DIRECTORY or ancestor.opaque:
            return True
        end = path.find(b"/", end + 1)
    return False
