"""The smallest EROFS image that shows whether this kernel can mount one: a root folder with one inline file.

Only for probing; images of layers are written by `hyperbox.images.erofs`, which this room must not import.
"""

from __future__ import annotations

import struct
from typing import Final

BLOCK: Final = 4096
PROBE_NAME: Final = "file"
PROBE_CONTENT: Final = b"erofs works"

_MAGIC: Final = 0xE0F5E1E2
_SUPERBLOCK_AT: Final = 1024
_ROOT_NID: Final = 40  # slots of 32 bytes: right behind the superblock of 128 bytes + room
_FILE_NID: Final = 44
_FLAT_INLINE: Final = 2 << 1  # compact inode, data right behind it

SUPERBLOCK_FORMAT: Final = "=III BBH QQ IIII 16s16s I HHH BB I Q 24s"
INODE_FORMAT: Final = "=HHHH III I HH I"


def tiny_erofs() -> bytes:
    """One block with superblock, root and file; deterministic."""
    names = [(b".", _ROOT_NID, 2), (b"..", _ROOT_NID, 2), (PROBE_NAME.encode(), _FILE_NID, 1)]
    entries, text = b"", b""
    for name, nid, kind in names:
        entries += struct.pack("=QHBB", nid, 12 * len(names) + len(text), kind, 0)
        text += name
    image = bytearray(BLOCK)
    _put(image, _SUPERBLOCK_AT, _superblock())
    _put(image, _ROOT_NID * 32, _inode(0o40755, 2, entries + text, 1))
    _put(image, _FILE_NID * 32, _inode(0o100644, 1, PROBE_CONTENT, 2))
    return bytes(image)


def _superblock() -> bytes:
    return struct.pack(
        SUPERBLOCK_FORMAT,
        *(_MAGIC, 0, 0),  # no checksum feature
        *(12, 0, _ROOT_NID),
        *(2, 0),  # inodes, time
        *(0, 1, 0, 0),  # nanoseconds, blocks, metadata at block 0, shared xattrs at block 0
        *(b"hyperbox-probe", b""),
        0,
        *(0, 0, 0),
        *(0, 0),
        0,
        0,
        b"",
    )


def _inode(mode: int, links: int, data: bytes, number: int) -> bytes:
    return struct.pack(INODE_FORMAT, _FLAT_INLINE, 0, mode, links, len(data), 0, 0, number, 0, 0, 0) + data


def _put(image: bytearray, offset: int, content: bytes) -> None:
    image[offset : offset + len(content)] = content
