"""Which bytes belong to one owner alone: a merge over the sorted object lists of all layers, in constant memory."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable, Iterator, Mapping
from operator import itemgetter

from hyperbox.store import LayerStore
from hyperbox.store.sidecar import RECORD


def _records(store: LayerStore, layer_id: str) -> Iterator[tuple[bytes, int, str]]:
    try:
        data = store.objects_path(layer_id).read_bytes()
    except FileNotFoundError:  # damaged and moved aside; `verify` reports it
        return iter(())
    return ((digest, size, layer_id) for digest, size in RECORD.iter_unpack(data))


def unique_bytes(store: LayerStore, owners: Mapping[str, frozenset[Hashable]]) -> dict[Hashable, int]:
    """Return for each owner the bytes of objects that no other owner has; `owners` maps layer ids to their owners.

    An owner is an image, or a layer itself. Layers without an owner are left out.
    """
    unique: dict[Hashable, int] = dict.fromkeys(itertools.chain.from_iterable(owners.values()), 0)
    merged = heapq.merge(*(_records(store, layer_id) for layer_id, who in owners.items() if who))
    for _, group in itertools.groupby(merged, key=itemgetter(0)):
        users: set[Hashable] = set()
        size = 0
        for _, size, layer_id in group:  # noqa: B007 – the size is the same in the whole group
            users |= owners[layer_id]
        if len(users) == 1:
            unique[users.pop()] += size
    return unique
