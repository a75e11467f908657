"""The pull of one image: all layers are fetched at once, and become layers of the store from the bottom up."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from hyperbox.api.errors.base import HyperBoxError
from hyperbox.api.errors.registry import LayerForeign, LowerLayersMissing, PullCancelled
from hyperbox.images import erofs, media
from hyperbox.images.ingest import LayerContent, resolve_implicit
from hyperbox.images.manifest import Descriptor
from hyperbox.images.pull_blobs import BlobFetcher, CopyMaker, Flight
from hyperbox.images.registry import ResolvedImage
from hyperbox.images.stack import Lookup, merged_lookup
from hyperbox.images.tree import Tree
from hyperbox.store import ImageLayer, LayerRecord, Store

SOURCE: Final = "pull"
"""What the catalogue says made these layers."""


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a layer has come."""

    image: str
    layer: str
    """Digest of the blob."""
    state: str
    """`present`, `engine` (left to the engine), `waiting`, `fetching`, `fetched` or `failed`."""
    received: int = 0
    """Compressed bytes so far."""
    size: int = 0
    """Compressed bytes in all."""
    row: ImageLayer | None = None
    """What the catalogue keeps of it, once it is `fetched` or `failed`."""


@dataclass(slots=True, eq=False)
class PullLayer:
    """One layer of the image that is being pulled."""

    index: int
    descriptor: Descriptor
    diff_id: str
    chain_id: str
    state: str = "waiting"
    future: concurrent.futures.Future[LayerRecord] = field(default_factory=concurrent.futures.Future)
    flight: Flight | None = None
    row: ImageLayer | None = None
    """What the catalogue keeps of it."""


class PullJob:
    """Brings the layers of one resolved image into the store. `run` does the work, on whatever thread calls it."""

    def __init__(
        self,
        store: Store,
        blobs: BlobFetcher,
        image: ResolvedImage,
        *,
        first: int = 0,
        below: Lookup | None = None,
        progress: Callable[[PullProgress], None] | None = None,
        failed: Callable[[PullLayer, BaseException], None] | None = None,
        copies: CopyMaker | None = None,
    ) -> None:
        """Plan the pull of the layers from `first` on; `below` knows what the engine has under them.

        `copies` takes the blobs as well, as they come. `failed` is told of a layer's failure before those who wait for
        the layer are.
        """
        self.image = image
        self._store = store
        self._blobs = blobs
        self._first = first
        self._below = below
        self._progress = progress
        self._failed = failed
        self._copies = copies
        self._lookups: dict[int, Lookup] = {}
        self._readers = contextlib.ExitStack()
        self.layers = [
            PullLayer(index, descriptor, diff_id, chain_id)
            for index, (descriptor, diff_id, chain_id) in enumerate(
                zip(image.manifest.layers, image.config.diff_ids, image.config.chain_ids, strict=True)
            )
        ]

    def start(self) -> None:
        """See what is here and start to fetch everything else. Raises `PullCancelled`."""
        missing = []
        for layer in self.layers:
            record = find_layer(self._store, layer.chain_id, layer.diff_id)
            if record is not None:
                self._settle(layer, "present", record)
            elif layer.index < self._first:
                lower = LowerLayersMissing(layer=layer.descriptor.digest, lower="a layer that the engine unpacked")
                self._settle(layer, "engine", error=lower)
            elif media.is_foreign(layer.descriptor.media_type):
                foreign = LayerForeign(layer=layer.descriptor.digest, media_type=layer.descriptor.media_type)
                self._settle(layer, "failed", error=foreign)
            else:
                missing.append(layer)
        # Longest first: the image is ready when its last layer is, and a large one that starts last leaves the other
        # threads with nothing to do.
        for layer in sorted(missing, key=lambda layer: -layer.descriptor.size):
            self._tell(layer, 0)
            layer.flight = self._blobs.acquire(
                self.image.reference, layer.descriptor, layer.diff_id, self._listener(layer), self._copies
            )

    def run(self) -> None:
        """Finish the layers in chain order; each future gets its record or its error. Never raises for a layer."""
        try:
            for layer in self.layers:
                if layer.flight is not None:
                    self._finish(layer, layer.flight)
        finally:
            self._readers.close()
            self._lookups.clear()

    def abandon(self, error: BaseException) -> None:
        """Settle what is open with an error and give all flights back."""
        for layer in self.layers:
            if not layer.future.done():
                self._settle(layer, "failed", error=error)
            if layer.flight is not None:
                self._blobs.release(layer.flight)
                layer.flight = None

    def rows(self) -> tuple[ImageLayer, ...]:
        """What the catalogue should know of each layer now."""
        return tuple(layer.row or _row(layer, reason="") for layer in self.layers)

    def _finish(self, layer: PullLayer, flight: Flight) -> None:
        try:
            content = flight.future.result()
            record = self._build(layer, content)
            self._settle(layer, "fetched", record, flight=flight, content=content)
        except concurrent.futures.CancelledError:
            self._settle(layer, "failed", error=PullCancelled(what=layer.descriptor.digest), flight=flight)
        except Exception as error:  # noqa: BLE001  # one layer's failure, whatever it is, is that layer's alone
            self._settle(layer, "failed", error=error, flight=flight)
        finally:
            layer.flight = None
            self._blobs.release(flight)

    def _build(self, layer: PullLayer, content: LayerContent) -> LayerRecord:
        tree = _own_copy(content.tree)
        # The root is left out: every layer's is implicit, and an overlay shows the writable layer's root anyway.
        bound = any(inode.implicit for path, inode in tree.items() if path)
        below = self._merged_below(layer) if bound else _nothing
        resolve_implicit(tree, lambda path: below(path) if path else None)
        self._lookups[layer.index] = tree.get
        return self._store.layers.add(
            erofs.build(tree),
            tree.objects(),
            entries=len(tree),
            size=sum({id(inode): inode.size for _, inode in tree.items()}.values()),
            source=SOURCE,
            # A layer that took attributes from below is right on top of this chain only.
            diff_id=None if bound else layer.diff_id,
            chain_id=layer.chain_id,
            blob_digest=layer.descriptor.digest,
            media_type=layer.descriptor.media_type,
            reference=self.image.reference.repository,
        )

    def _merged_below(self, layer: PullLayer) -> Lookup:
        stack = []
        lowest = 0
        if self._below is not None:
            stack.append(self._below)
            lowest = self._first
        stack += [self._lookup(lower, layer) for lower in self.layers[lowest : layer.index]]
        return merged_lookup(stack)

    def _lookup(self, lower: PullLayer, wanted: PullLayer) -> Lookup:
        if lower.index not in self._lookups:
            if lower.future.exception() is not None:
                raise LowerLayersMissing(layer=wanted.descriptor.digest, lower=lower.descriptor.digest)
            image = erofs.Reader(self._store.layers.path(lower.future.result()))
            self._lookups[lower.index] = self._readers.enter_context(image).lookup
        return self._lookups[lower.index]

    def _settle(
        self,
        layer: PullLayer,
        state: str,
        record: LayerRecord | None = None,
        *,
        error: BaseException | None = None,
        flight: Flight | None = None,
        content: LayerContent | None = None,
    ) -> None:
        layer.state = state
        row = _row(layer, reason="" if error is None else _words(error))
        if record is not None:
            row = replace(row, layer_id=record.layer_id, source=record.source)
        if flight is not None:
            deduped = content.known_bytes if content is not None else 0
            row = replace(
                row, bytes_fetched=flight.bytes_fetched, bytes_deduped=deduped, seconds=round(flight.seconds, 3)
            )
        layer.row = row
        self._tell(layer, layer.descriptor.size if record is not None else 0)
        if record is not None:
            layer.future.set_result(record)
            return
        error = error or RuntimeError("settled without a reason")
        if state == "failed" and self._failed is not None:
            self._failed(layer, error)
        layer.future.set_exception(error)

    def _listener(self, layer: PullLayer) -> Callable[[int], None]:
        def received(count: int) -> None:
            layer.state = "fetching"
            self._tell(layer, count)

        return received

    def _tell(self, layer: PullLayer, received: int) -> None:
        if self._progress is not None:
            size = layer.descriptor.size
            image = str(self.image.reference)
            self._progress(PullProgress(image, layer.descriptor.digest, layer.state, received, size, layer.row))


def find_layer(store: Store, chain_id: str, diff_id: str | None = None) -> LayerRecord | None:
    """Return a layer that is right on top of this chain: the chain's own, or one that depends on nothing below.

    One whose files were damaged and moved aside is not here: fetching it again puts them back.
    """
    record = store.layers.by_chain_id(chain_id)
    if record is None and diff_id is not None:
        record = store.layers.by_diff_id(diff_id)
    if record is not None and not store.layers.is_here(record):
        return None
    if record is not None:
        store.layers.touch(record.layer_id)
    return record


def _words(error: BaseException) -> str:
    return f"{error.code}: {error.message}" if isinstance(error, HyperBoxError) else f"{type(error).__name__}: {error}"


def _row(layer: PullLayer, *, reason: str) -> ImageLayer:
    return ImageLayer(
        layer.descriptor.digest, diff_id=layer.diff_id, chain_id=layer.chain_id, state=layer.state, reason=reason
    )


def _nothing(_path: bytes) -> None:
    return None


def _own_copy(tree: Tree) -> Tree:
    """Return a tree whose implicit folders can be resolved without touching others that share the flight."""
    own = Tree()
    own.inodes = {path: replace(inode) if inode.implicit else inode for path, inode in tree.items()}
    return own


class JobThread(threading.Thread):
    """A daemon thread with a name that says which image it works for."""

    def __init__(self, image: str, work: Callable[[], None]) -> None:
        super().__init__(name=f"pull {image}"[:60], target=work, daemon=True)
