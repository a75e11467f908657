"""Directories in EROFS: entries sorted bytewise over all blocks, each block with its own entries and names."""

from __future__ import annotations

from dataclasses import dataclass

from hyperbox.images.erofs import _format as fmt

Entry = tuple[bytes, int]
"""A name and the number of its inode in the writer's list."""


@dataclass(slots=True)
class Directory:
    """The blocks of one directory before inode numbers are known."""

    blocks: list[list[Entry]]
    size: int
    """Bytes of the directory: full blocks and what the last block really uses."""

    @property
    def tail(self) -> int:
        """Bytes used in the last block (1 to 4096)."""
        return self.size - (len(self.blocks) - 1) * fmt.BLOCK


def split(children: list[Entry], itself: int, parent: int) -> Directory:
    """Distribute sorted `children`, `.` and `..` over blocks, greedily."""
    entries = sorted([*children, (b".", itself), (b"..", parent)])
    block: list[Entry] = []
    blocks = [block]
    used = 0
    header = fmt.DIRENT.size
    for entry in entries:
        need = header + len(entry[0])
        if used + need > fmt.BLOCK:
            block = []
            blocks.append(block)
            used = 0
        block.append(entry)
        used += need
    return Directory(blocks, (len(blocks) - 1) * fmt.BLOCK + used)


def encode(block: list[Entry], nids: list[int], types: list[int]) -> bytes:
    """Return the bytes of one block, not padded."""
    pack = fmt.DIRENT.pack
    offset = len(block) * fmt.DIRENT.size
    parts = []
    for name, number in block:
        parts.append(pack(nids[number], offset, types[number], 0))
        offset += len(name)
    parts.extend([name for name, _ in block])
    return b"".join(parts)
