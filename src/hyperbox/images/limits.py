"""What one layer may cost while it is unpacked: the guard against bombs and endless archives.

The defaults leave room for any honest layer. A layer that goes over them is refused with `LayerTooLarge`, and the
engine gets to unpack it the vanilla way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NAME_BYTES: Final = 255
"""Longest name of one directory entry (NAME_MAX; EROFS and every Linux file system hold no longer one)."""
PATH_BYTES: Final = 4095
"""Longest path and symlink target (PATH_MAX less its NUL)."""
XATTR_NAME_BYTES: Final = 255
"""Longest name of an extended attribute (XATTR_NAME_MAX)."""
XATTR_VALUE_BYTES: Final = 65536
"""Longest value of an extended attribute (XATTR_SIZE_MAX)."""


@dataclass(frozen=True, slots=True)
class LayerLimits:
    """Upper bounds for one layer; sizes in bytes."""

    unpacked: int = 256 << 30
    """Bytes of the uncompressed archive, and (counted apart) of its files with the holes of sparse ones."""
    ratio: int = 200
    """How many times its compressed size a layer may unpack to, once it is over `ratio_floor`."""
    ratio_floor: int = 2 << 30
    """Unpacked bytes up to which the ratio does not matter: a file of zeros is a fine thing in a small layer."""
    entries: int = 4_000_000
    """Entries of the archive, whiteouts and repeated names included."""
    header: int = 1 << 20
    """Bytes of one extended header (PAX, GNU long name, sparse map); they are held in memory."""
    metadata: int = 1 << 30
    """Bytes of names, links, xattrs and inline contents together; they stay in memory until the layer is built."""
