"""Layers: for each an EROFS image with the metadata, the list of the objects that it names, and a catalogue row."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from hyperbox.api.errors.store import LayerDamaged, LayerIncomplete, LayerNotFound, StoreUnusable
from hyperbox.store.catalogue import Catalogue
from hyperbox.store.leases import Lease
from hyperbox.store.objects import ObjectStore, hash_file
from hyperbox.store.rows import LayerRecord
from hyperbox.store.sidecar import decode_objects, encode_objects
from hyperbox.store.writes import StagedFile, sync_directory, translate

_CHUNK: Final = 1 << 20


class LayerStore:
    """The layers of one state folder. Files first, row last: a row always has its files, over any crash."""

    def __init__(self, state: Path, objects: ObjectStore, catalogue: Catalogue) -> None:
        self.root: Final = state / "layers"
        self._quarantine: Final = state / "quarantine"
        self._objects: Final = objects
        self._catalogue: Final = catalogue
        self._ingest: Final = os.fspath(objects.ingest)
        # Naming files and adding or deleting their row happen under it, so a sweep never meets half of either.
        self.lock: Final = threading.RLock()
        try:
            self.root.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StoreUnusable(state=state, reason=error.strerror or error) from error

    # --- adding

    def add(
        self,
        erofs: bytes | Path,
        objects: Mapping[bytes, int],
        *,
        entries: int,
        size: int,
        source: str,
        diff_id: str | None = None,
        chain_id: str | None = None,
        blob_digest: str | None = None,
        media_type: str | None = None,
        reference: str | None = None,
        now: int | None = None,
    ) -> LayerRecord:
        """Add a layer durably and return its row; one that is here already gains what it did not know of itself.

        `objects` maps each digest that the image names to its size in bytes; all must be in the store (checked),
        under a lease that is released after this returns. Give `diff_id` only when the image does not depend on
        the layers below (no implicit parents were filled in), else `chain_id` alone.

        When this returns, image, list and row survive power loss; the objects' bytes do with the next checkpoint,
        and until then the durability check finds what was lost. Raises `LayerIncomplete`, `StoreFull`,
        `StoreWriteFailed`; nothing has then been added.
        """
        self._require(objects)
        listing = encode_objects(objects)
        image, layer_id, length = self._stage_image(erofs)
        sidecar = None
        try:
            sidecar = StagedFile(self._ingest)
            sidecar.write(listing)
            sidecar.finish(durable=True)
            now = time.time_ns() if now is None else now
            record = LayerRecord(
                id=0,
                layer_id=layer_id,
                diff_id=diff_id,
                blob_digest=blob_digest,
                media_type=media_type,
                source=source,
                reference=reference,
                entries=entries,
                size=size,
                metadata_bytes=length,
                objects=len(objects),
                objects_bytes=sum(objects.values()),
                objects_digest=hashlib.sha256(listing).hexdigest(),
                created=now,
                last_used=now,
            )
            with self.lock:
                return self._place(image, sidecar, record, chain_id)
        finally:
            image.abort()
            if sidecar is not None:
                sidecar.abort()

    def _require(self, objects: Mapping[bytes, int]) -> None:
        missing = [digest for digest in objects if not self._objects.has(digest)]
        if missing:
            raise LayerIncomplete(count=len(missing), digest=missing[0].hex())

    def _stage_image(self, erofs: bytes | Path) -> tuple[StagedFile, str, int]:
        staged = StagedFile(self._ingest)
        digest = hashlib.sha256()
        try:
            if isinstance(erofs, Path):
                with open(erofs, "rb", buffering=0) as file:
                    while block := file.read(_CHUNK):
                        digest.update(block)
                        staged.write(block)
            else:
                digest.update(erofs)
                staged.write(erofs)
            length = staged.size
            staged.finish(durable=True)
        except BaseException:
            staged.abort()
            raise
        return staged, digest.hexdigest(), length

    def _place(self, image: StagedFile, sidecar: StagedFile, record: LayerRecord, chain_id: str | None) -> LayerRecord:
        # A present image may be mounted: its inode stays, unless its length shows that it is not what it was.
        target = self.image_path(record.layer_id)
        known = self._catalogue.layers.get(record.layer_id)
        sidecar.publish(os.fspath(self.objects_path(record.layer_id)))
        if not (known and target.exists() and target.stat().st_size == record.metadata_bytes):
            image.publish(os.fspath(target))
        sync_directory(self.root)
        return self._catalogue.layers.upsert(record, chain_id=chain_id)

    # --- finding

    def image_path(self, layer_id: str) -> Path:
        """Where the EROFS image of a layer id is or would be."""
        return self.root / f"{layer_id}.erofs"

    def objects_path(self, layer_id: str) -> Path:
        """Where the object list of a layer id is or would be."""
        return self.root / f"{layer_id}.objects"

    def path(self, record: LayerRecord) -> Path:
        """The EROFS image of a layer."""
        return self.image_path(record.layer_id)

    def get(self, layer_id: str) -> LayerRecord:
        """The layer of an id. Raises `LayerNotFound`."""
        record = self._catalogue.layers.get(layer_id)
        if record is None:
            raise LayerNotFound(layer=layer_id)
        return record

    def find(self, layer_id: str) -> LayerRecord | None:
        """The layer of an id, None when it is not here."""
        return self._catalogue.layers.get(layer_id)

    def by_id(self, number: int) -> LayerRecord | None:
        """The layer of a row number, None when it is not here."""
        return self._catalogue.layers.get_id(number)

    def by_diff_id(self, diff_id: str) -> LayerRecord | None:
        """A layer that was added under this diff ID, None when there is none."""
        return self._catalogue.layers.by_name("diff", diff_id)

    def by_chain_id(self, chain_id: str) -> LayerRecord | None:
        """The layer that was added as the top of this chain, None when there is none."""
        return self._catalogue.layers.by_name("chain", chain_id)

    def list(self) -> list[LayerRecord]:
        """All layers in the order in which they came."""
        return self._catalogue.layers.list()

    def is_here(self, record: LayerRecord) -> bool:
        """Whether a layer's files are in place: a damaged one that a snapshot needs keeps its row without them."""
        try:
            complete = self.image_path(record.layer_id).stat().st_size == record.metadata_bytes
            return complete and self.objects_path(record.layer_id).exists()
        except FileNotFoundError:
            return False

    def hold(self, lease: Lease, layer_id: str) -> LayerRecord | None:
        """Protect a layer with a lease, then look: what is found stays for as long as the lease lives."""
        with self.lock:
            lease.held_layers.add(layer_id)
            return self.find(layer_id)

    def touch(self, layer_id: str) -> None:
        """Note that the layer was used now, which begins its grace time before GC anew."""
        self._catalogue.layers.touch(layer_id)

    def objects_of(self, layer_id: str) -> dict[bytes, int]:
        """The objects that a layer names, with their sizes. Raises `LayerDamaged` when the list is not readable."""
        try:
            return decode_objects(self.objects_path(layer_id).read_bytes())
        except (OSError, ValueError) as error:
            raise LayerDamaged(layer=layer_id, reason=f"object list: {error}") from error

    # --- checking and leaving

    def check(self, record: LayerRecord) -> dict[Path, str]:
        """Hash both files of a layer; the damaged ones with what is wrong with them, empty when all is well."""
        damaged: dict[Path, str] = {}
        for path, digest in (
            (self.image_path(record.layer_id), record.layer_id),
            (self.objects_path(record.layer_id), record.objects_digest),
        ):
            try:
                if hash_file(path).hex() != digest:
                    damaged[path] = f"{path.name} does not match its digest"
            except OSError as error:
                damaged[path] = f"{path.name}: {error.strerror or error}"
        return damaged

    def quarantine(self, layer_id: str, damaged: Iterable[Path]) -> None:
        """Move damaged files of a layer aside, and forget it unless a snapshot has it.

        Adding the layer again (a new pull gives the same bytes) puts the files back.
        """
        with self.lock:
            for path in damaged:
                with contextlib.suppress(FileNotFoundError):
                    os.rename(path, self._quarantine / f"{path.name}.{time.time_ns()}")
            self._catalogue.layers.delete(layer_id)

    def remove(self, layer_id: str) -> int | None:
        """Delete a layer that no snapshot has; returns the bytes of its files, None when it stays.

        The row goes first: a crash in between leaves files without a row, which the next collection deletes. An
        EROFS image that is mounted from the file goes on working until it is unmounted.
        """
        with self.lock:
            if self._objects.layer_is_held(layer_id) or not self._catalogue.layers.delete(layer_id):
                return None
            return self._unlink(self.image_path(layer_id)) + self._unlink(self.objects_path(layer_id))

    def _unlink(self, path: Path) -> int:
        try:
            allocated = path.stat().st_blocks * 512
            path.unlink()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise translate(error, path) from error
        return allocated

    def orphans(self) -> tuple[Path, ...]:
        """Files in `layers/` that belong to no row; stable only while holding `lock`."""
        known = {record.layer_id for record in self.list()}
        return tuple(path for path in sorted(self.root.iterdir()) if path.name.partition(".")[0] not in known)

    def drop_orphans(self, *, older_than_ns: int, dry_run: bool) -> int:
        """Delete files without a row that changed before `older_than_ns`; returns their bytes."""
        freed = 0
        with self.lock:
            for path in self.orphans():
                info = path.stat()
                if info.st_ctime_ns < older_than_ns:
                    freed += info.st_blocks * 512 if dry_run else self._unlink(path)
        return freed
