"""Images that were pulled ahead of the engine: kept until it asks for them, for a day at most."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from hyperbox.store import Catalogue, ImageRow

KEPT: Final = 86400.0
"""Seconds for which an image that was pulled ahead waits for the engine."""


def pin(catalogue: Catalogue, reference: str, platform: str, manifest_digest: str) -> None:
    """Keep an image's layers although no snapshot uses them yet."""
    catalogue.images.upsert(reference, platform=platform, manifest_digest=manifest_digest, pinned=True)


def release(catalogue: Catalogue, *, kept: float = KEPT) -> None:
    """Leave to garbage collection what the engine has taken over, or not asked for within `kept` seconds."""
    chains = {row.key.rpartition("/")[2] for row in catalogue.snapshots.list() if row.kind == "committed"}
    for image in outdated(catalogue.images.list(), chains, now_ns=time.time_ns(), kept=kept):
        catalogue.images.upsert(
            image.reference,
            platform=image.platform,
            manifest_digest=image.manifest_digest,
            pinned=False,
            now=image.last_used,
        )


def outdated(images: Iterable[ImageRow], chains: Collection[str], *, now_ns: int, kept: float) -> Iterator[ImageRow]:
    """Yield the pinned images that need their pin no more; `chains` are the chain IDs that snapshots have."""
    for image in images:
        taken = all(layer.chain_id in chains for layer in image.layers)
        if image.pinned and (taken or now_ns - image.last_used >= kept * 1e9):
            yield image
