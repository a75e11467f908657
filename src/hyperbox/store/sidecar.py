"""The object list of a layer (`<layer id>.objects`): sorted records of a raw sha256 (32 bytes) and a u64 LE size."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Final

RECORD: Final = struct.Struct("<32sQ")
"""One record: digest, size in bytes."""


def encode_objects(objects: Mapping[bytes, int]) -> bytes:
    """The list as bytes; equal mappings give equal bytes."""
    return b"".join([RECORD.pack(digest, objects[digest]) for digest in sorted(objects)])


def decode_objects(data: bytes) -> dict[bytes, int]:
    """The list as a mapping. Raises `ValueError` when it is cut short or not sorted."""
    if len(data) % RECORD.size:
        raise ValueError(f"{len(data)} bytes are not a whole number of records")
    objects = dict(RECORD.iter_unpack(data))
    keys = list(objects)
    if len(keys) * RECORD.size != len(data) or keys != sorted(keys):
        raise ValueError("the records are not sorted")
    return objects


def iter_digests(data: bytes) -> Iterator[bytes]:
    """Just the digests, without checks."""
    return (data[at : at + 32] for at in range(0, len(data), RECORD.size))
