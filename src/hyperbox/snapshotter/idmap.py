"""What the labels for ID-mapped snapshots say. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hyperbox.api.errors.snapshotter import IdMappingInvalid
from hyperbox.linux import IdMap, parse_id_maps
from hyperbox.snapshotter.model import LABEL_GID_MAPPING, LABEL_UID_MAPPING

_SAME: Final = (IdMap(0, 0, 0xFFFFFFFF),)
"""Without a label for users or for groups, those stay as they are."""


@dataclass(frozen=True, slots=True)
class IdMapping:
    """How owners in the layers become owners in the container."""

    uids: Sequence[IdMap]
    gids: Sequence[IdMap]

    @property
    def root(self) -> tuple[int, int]:
        """User and group that 0:0 becomes."""
        return _outside(self.uids), _outside(self.gids)


def id_mapping(labels: Mapping[str, str]) -> IdMapping | None:
    """Return the mapping that the labels ask for, or None. Raises `IdMappingInvalid`."""
    if not labels.get(LABEL_UID_MAPPING) and not labels.get(LABEL_GID_MAPPING):
        return None
    mapping = IdMapping(_parse(labels.get(LABEL_UID_MAPPING)), _parse(labels.get(LABEL_GID_MAPPING)))
    if -1 in mapping.root:
        shown = f"{labels.get(LABEL_UID_MAPPING)} {labels.get(LABEL_GID_MAPPING)}"
        raise IdMappingInvalid(mapping=shown, reason="ID 0 is not mapped")
    return mapping


def _parse(text: str | None) -> Sequence[IdMap]:
    if not text:
        return _SAME
    try:
        return parse_id_maps(text)
    except ValueError as error:
        raise IdMappingInvalid(mapping=text, reason=error) from error


def _outside(maps: Sequence[IdMap]) -> int:
    for entry in maps:
        if entry.inside == 0:
            return entry.outside
    return -1
