"""The on-disk format of EROFS, as far as HyperBox writes and reads it: numbers, structs, hashes. Pure functions.

All integers are little-endian; offsets and sizes are bytes; blocks are 4096 bytes.
"""

from __future__ import annotations

import functools
import stat
import struct
from typing import Final

from hyperbox.images.tree import Kind

BLOCK: Final = 4096
SLOT: Final = 32
"""Inodes start at multiples of this; an inode's number (nid) is its distance from the metadata area in slots."""

SUPERBLOCK_OFFSET: Final = 1024
SUPERBLOCK: Final = struct.Struct("<IIIBBHQqIIII16s16sIHHHBBIQB23x")
"""magic, checksum, compat, block bits, ext slots, root nid, inodes, epoch, epoch ns, blocks, metadata block, xattr
block, uuid, volume name, incompat, compression, extra devices, device slot, directory block bits, prefix count,
prefix start, packed nid, reserved filter byte."""
MAGIC: Final = 0xE0F5E1E2
COMPAT_CHECKSUM: Final = 0x1
COMPAT_MTIME: Final = 0x2
COMPAT_XATTR_FILTER: Final = 0x4
INCOMPAT_CHUNKED_FILE: Final = 0x4
ROOT_NID_MAX: Final = 0xFFFF

COMPACT: Final = struct.Struct("<HHHHIIIIHHI")
"""format, xattr count, mode, nlink, size, reserved, union, inode number, uid, gid, reserved."""
EXTENDED: Final = struct.Struct("<HHHHQIIIIqII16x")
"""format, xattr count, mode, reserved, size, union, inode number, uid, gid, mtime seconds, mtime ns, nlink."""
FORMAT_EXTENDED: Final = 1
LAYOUT_PLAIN: Final = 0
LAYOUT_INLINE: Final = 2
LAYOUT_CHUNKS: Final = 4

CHUNK_BITS_MASK: Final = 0x1F
CHUNK_HOLE: Final = b"\xff\xff\xff\xff"
"""Block address of a chunk that has no data here."""

DIRENT: Final = struct.Struct("<QHBB")
"""nid, offset of the name in the block, file type, reserved."""

XATTR_BODY: Final = struct.Struct("<IB7x")
"""name filter, number of shared attributes. Their ids (u32) follow, then the inline entries."""
XATTR_ENTRY: Final = struct.Struct("<BBH")
"""length of the name without prefix, prefix index, length of the value. Name and value follow, padded to 4 bytes."""
XATTR_BODY_MAX: Final = XATTR_BODY.size + 4 * (0xFFFF - 1)
XATTR_SHARED_MAX: Final = 0xFF
XATTR_VALUE_MAX: Final = 0xFFFF
XATTR_FILTER_ALL: Final = 0xFFFFFFFF
_XATTR_FILTER_SEED: Final = 0x25BBE08F

OVERLAY: Final = b"trusted.overlay."
METACOPY: Final = b"trusted.overlay.metacopy"
REDIRECT: Final = b"trusted.overlay.redirect"
OPAQUE: Final = b"trusted.overlay.opaque"

NOBODY: Final = 0xFFFFFFFF
"""An owner that is none: to the kernel the number stands for "leave it"."""

NAME_MAX: Final = 255
PATH_MAX: Final = 4095

KIND_MODES: Final = (
    0,
    stat.S_IFREG,
    stat.S_IFDIR,
    stat.S_IFLNK,
    stat.S_IFCHR,
    stat.S_IFBLK,
    stat.S_IFIFO,
    stat.S_IFSOCK,
    stat.S_IFCHR,
)
"""File type bits by `Kind`."""
MODE_KINDS: Final = {KIND_MODES[kind]: kind for kind in Kind if kind is not Kind.WHITEOUT}
KIND_DIRENT_TYPES: Final = (0, 1, 2, 7, 3, 4, 5, 6, 3)
"""File type in directory entries by `Kind`."""

_ACLS: Final = {b"system.posix_acl_access": 2, b"system.posix_acl_default": 3}
_PREFIXES: Final = {b"user": 1, b"trusted": 4, b"security": 6}
_PREFIX_NAMES: Final = {1: b"user.", 4: b"trusted.", 6: b"security."}
_ACL_NAMES: Final = {index: name for name, index in _ACLS.items()}


def split_xattr_name(name: bytes) -> tuple[int, bytes] | None:
    """Return prefix index and rest of a full attribute name; None for a namespace that EROFS does not know."""
    acl = _ACLS.get(name)
    if acl is not None:
        return acl, b""
    prefix, dot, rest = name.partition(b".")
    index = _PREFIXES.get(prefix)
    if index is None or not dot or not rest:
        return None
    return index, rest


def join_xattr_name(index: int, rest: bytes) -> bytes | None:
    """Undo `split_xattr_name`; None where the pair is no attribute name."""
    if index in _ACL_NAMES:
        return None if rest else _ACL_NAMES[index]
    prefix = _PREFIX_NAMES.get(index)
    return None if prefix is None or not rest else prefix + rest


@functools.lru_cache(maxsize=4096)
def xattr_filter_bit(name: bytes) -> int:
    """Return the bit (as a mask) that is *cleared* in the name filter of an inode which has attribute `name`.

    Kernels from 6.6 on answer "no such attribute" from the filter alone, which is most of what overlayfs asks for.
    """
    split = split_xattr_name(name)
    assert split is not None
    index, rest = split
    return 1 << (xxh32(rest, _XATTR_FILTER_SEED + index) & 31)


def encode_device(major: int, minor: int) -> int | None:
    """Return the kernel's 32-bit `new_encode_dev` form; None beyond its 12 and 20 bits."""
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
        return None
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def decode_device(value: int) -> tuple[int, int]:
    """Undo `encode_device`."""
    return (value >> 8) & 0xFFF, (value & 0xFF) | ((value >> 12) & 0xFFF00)


def chunk_bits(size: int) -> int:
    """Return log2(chunk size / block size) for a file of `size` bytes: one chunk where it goes (up to 8 TiB)."""
    blocks = -(-size // BLOCK)
    return min((blocks - 1).bit_length(), CHUNK_BITS_MASK) if blocks else 0


def chunk_count(size: int, bits: int) -> int:
    """Return the number of chunks of a file of `size` bytes."""
    return -(-size // (BLOCK << bits))


@functools.cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        crc = value
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


def crc32c(data: bytes) -> int:
    """CRC-32C as EROFS keeps it: started with all ones and not inverted at the end."""
    table = _crc_table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc


_P1: Final = 2654435761
_P2: Final = 2246822519
_P3: Final = 3266489917
_P4: Final = 668265263
_P5: Final = 374761393
_M: Final = 0xFFFFFFFF


def _rotate(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & _M


def xxh32(data: bytes, seed: int) -> int:
    """xxHash, 32 bits, of short data (attribute names)."""
    length, position = len(data), 0
    if length >= 16:
        lanes = [seed + _P1 + _P2, seed + _P2, seed, seed - _P1]
        while position + 16 <= length:
            for lane, word in enumerate(struct.unpack_from("<4I", data, position)):
                lanes[lane] = _rotate((lanes[lane] + word * _P2) & _M, 13) * _P1 & _M
            position += 16
        result = sum(_rotate(lane, turn) for lane, turn in zip(lanes, (1, 7, 12, 18), strict=True))
    else:
        result = seed + _P5
    result = (result + length) & _M
    while position + 4 <= length:
        (word,) = struct.unpack_from("<I", data, position)
        result = _rotate((result + word * _P3) & _M, 17) * _P4 & _M
        position += 4
    for byte in data[position:]:
        result = _rotate((result + byte * _P5) & _M, 11) * _P1 & _M
    result = ((result ^ (result >> 15)) * _P2) & _M
    result = ((result ^ (result >> 13)) * _P3) & _M
    return result ^ (result >> 16)
