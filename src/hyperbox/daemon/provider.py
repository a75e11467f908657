"""Between the snapshotter and the puller: layers for the engine's pulls, and objects that a repair puts back."""

from __future__ import annotations

from collections.abc import Collection, Set

import structlog

from hyperbox.api.errors import HyperBoxError
from hyperbox.api.errors.store import LayerDamaged
from hyperbox.daemon.blobs import BlobKeeper
from hyperbox.images import ImagePuller, RegistryClient, erofs, parse_reference
from hyperbox.images.folder_lookup import folder_lookup
from hyperbox.images.ingest import ingest_layer
from hyperbox.images.platform import Platform
from hyperbox.images.stack import Lookup, merged_lookup
from hyperbox.images.tree import Inode
from hyperbox.snapshotter import BelowLayer, LayerRequest
from hyperbox.store import ImageRow, LayerRecord, Store

log = structlog.get_logger("hyperbox.provider")


class Provider:
    """The snapshotter's `LayerProvider`."""

    def __init__(self, store: Store, puller: ImagePuller, timeout: float, keeper: BlobKeeper | None = None) -> None:
        """`timeout` is the longest wait for one layer, in seconds; `keeper` hands its blob to the engine as well."""
        self._keeper = keeper
        self._store = store
        self._puller = puller
        self._timeout = timeout

    def ensure(self, request: LayerRequest) -> LayerRecord:
        """Return the layer once it is in; see `LayerProvider`."""
        return self._puller.ensure(
            request.image,
            request.manifest,
            request.layer,
            request.target,
            timeout=self._timeout,
            below=self._below(request.below),
            copies=self._keeper.maker(request.namespace) if self._keeper else None,
        )

    def here(self, request: LayerRequest) -> None:
        """Have the layer's blob kept; see `LayerProvider`."""
        if self._keeper:
            record = self._store.layers.by_chain_id(request.target)
            self._keeper.keep(request, record.diff_id if record else None)

    def _below(self, layers: tuple[BelowLayer, ...]) -> Lookup | None:
        """Return what the engine has under a layer, for folders that leave their attributes to it."""
        if not layers:
            return None

        merged: Lookup | None = None

        def lookup(path: bytes) -> Inode | None:
            nonlocal merged
            if merged is None:  # opened when asked, which is seldom: almost every layer names all its folders
                merged = merged_lookup([self._one(layer) for layer in reversed(layers)])
            return merged(path)

        return lookup

    def _one(self, layer: BelowLayer) -> Lookup:
        if layer.layer is not None:
            return erofs.Reader(self._store.layers.image_path(layer.layer)).lookup
        return folder_lookup(self._store.state / "snapshots" / str(layer.snapshot) / "fs")


class Repair:
    """Fetches layers again whose objects are damaged or missing."""

    def __init__(self, store: Store, client: RegistryClient, puller: ImagePuller) -> None:
        self._store = store
        self._client = client
        self._puller = puller

    def __call__(self, digests: Collection[bytes]) -> set[bytes]:
        """Put objects back from the blobs that they came in; return those that are here now.

        Layers that came from no registry (compacted ones) cannot be fetched again; their objects come back only if a
        pulled layer has them, too.
        """
        wanted = set(digests)
        blobs = {
            record.blob_digest
            for record in self._store.layers.list()
            if record.blob_digest and wanted & self._named(record.layer_id)
        }
        for image in self._store.catalogue.images.list():
            needed = blobs & {layer.digest for layer in image.layers}
            if needed and wanted:
                self._fetch(image, needed)
                blobs -= needed
                wanted = {digest for digest in wanted if not self._store.objects.has(digest)}
        return set(digests) - wanted

    def layers(self, layer_ids: Collection[str]) -> set[str]:
        """Fetch whole layers again whose own files were damaged; return those that are here now."""
        for image in self._store.catalogue.images.list():
            if any(layer.layer_id in layer_ids and not self._is_here(layer.layer_id or "") for layer in image.layers):
                try:
                    self._puller.pull(parse_reference(image.reference).with_digest(image.manifest_digest))
                except HyperBoxError as error:
                    log.warning("repair failed", image=image.reference, code=error.code, reason=error.message)
        return {layer_id for layer_id in layer_ids if self._is_here(layer_id)}

    def _is_here(self, layer_id: str) -> bool:
        record = self._store.layers.find(layer_id)
        return record is not None and self._store.layers.is_here(record)

    def _named(self, layer_id: str) -> Set[bytes]:
        try:
            return self._store.layers.objects_of(layer_id).keys()
        except LayerDamaged:  # to be fetched as a whole
            return frozenset()

    def _fetch(self, image: ImageRow, blobs: set[str]) -> None:
        try:
            reference = parse_reference(image.reference).with_digest(image.manifest_digest)
            manifest = self._client.resolve(reference, Platform.host()).manifest
            for blob in manifest.layers:
                if blob.digest in blobs:
                    with (
                        self._store.objects.lease(f"repair {blob.digest}") as lease,
                        self._client.open_blob(reference, blob, verify=False) as stream,
                    ):
                        ingest_layer(stream, lease, expected_blob_digest=blob.digest)
        except HyperBoxError as error:
            log.warning("repair failed", image=image.reference, code=error.code, reason=error.message)


def missing_objects(store: Store) -> set[bytes]:
    """Return the objects that layers name and that the start found missing."""
    return {digest for missing in store.recovered.incomplete_layers.values() for digest in missing}
