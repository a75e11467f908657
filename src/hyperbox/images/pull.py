"""Pulling images into the store: the layers of an image at once, each blob once, failures kept to their layer."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Self, TypeVar

from hyperbox.api.errors import HyperBoxError
from hyperbox.api.errors.registry import LayerHeldOff, LayerNotOfImage, PullCancelled, PullTimedOut
from hyperbox.images.limits import LayerLimits
from hyperbox.images.platform import Platform
from hyperbox.images.pull_blobs import BlobFetcher, CopyMaker
from hyperbox.images.pull_job import JobThread, PullJob, PullLayer, PullProgress, find_layer
from hyperbox.images.reference import Reference, parse_reference
from hyperbox.images.registry import Clock, RegistryClient, ResolvedImage, SystemClock
from hyperbox.images.stack import Lookup
from hyperbox.store import ImageLayer, ImageRow, LayerRecord, Store

__all__ = ["ImagePuller", "PullProgress", "PulledImage"]

_LIMITS: Final = LayerLimits()
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class PulledImage:
    """An image whose layers are all in the store."""

    image: ResolvedImage
    layers: tuple[LayerRecord, ...]
    """Lowest first."""


class _Flight:
    """One image on its way: resolved once, its job shared by everybody who waits for one of its layers."""

    def __init__(self, key: tuple[str, str], chain_id: str | None, copies: CopyMaker | None) -> None:
        self.key = key
        self.copies = copies
        self.chain_id = chain_id
        """The layer that began it, None for the whole image."""
        self.job: concurrent.futures.Future[PullJob] = concurrent.futures.Future()
        self.done = threading.Event()


class ImagePuller:
    """Brings images and single layers into a store. Thread-safe; close it before the store and the client.

    Progress callbacks come from several threads and must return soon.
    """

    def __init__(
        self,
        store: Store,
        client: RegistryClient,
        *,
        workers: int = 4,
        limits: LayerLimits = _LIMITS,
        hold_off_seconds: float = 5.0,
        platform: Platform | None = None,
        progress: Callable[[PullProgress], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`workers` layers are fetched and unpacked at a time; a failed one is not tried for `hold_off_seconds`."""
        self._store = store
        self._client = client
        self._clock = clock or SystemClock()
        self._blobs = BlobFetcher(store, client, workers=workers, limits=limits, clock=self._clock)
        self._hold_off = hold_off_seconds
        self._platform = platform or Platform.host()
        self._progress = progress
        self._lock = threading.Lock()
        self._flights: list[_Flight] = []
        self._threads: set[threading.Thread] = set()
        self._failures: dict[str, tuple[float, str]] = {}
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ensure(
        self,
        image: str,
        manifest_digest: str,
        layer_digest: str,
        chain_id: str,
        *,
        timeout: float | None = None,
        below: Lookup | None = None,
        copies: CopyMaker | None = None,
    ) -> LayerRecord:
        """Return one layer of an image once it is in the store, fetching it and all layers above it if need be.

        Layers below the first that is asked for are only used where they are here: the engine has them. `below`
        looks paths up in what the engine has under this layer, for layers that leave folders' attributes to it.
        `copies` gets the blobs as well while they are fetched for this call; those that come for others are not copied.

        Raises `PullTimedOut` (the fetch goes on), `LayerHeldOff`, `LayerNotOfImage`, `LowerLayersMissing`,
        `LayerForeign`, `PullCancelled`, `BadReference`, and what made resolving, fetching or unpacking fail.
        """
        record = find_layer(self._store, chain_id)
        if record is not None:
            return record
        reference = parse_reference(image).with_digest(manifest_digest)
        self._check_held_off(chain_id, layer_digest)
        self._check_held_off(manifest_digest, layer_digest)
        deadline = None if timeout is None else self._clock.monotonic() + timeout
        flight, launched = self._join(reference, chain_id, below, copies)
        job = self._wait(flight.job, deadline, timeout, layer_digest)
        layer = next((layer for layer in job.layers if layer.chain_id == chain_id), None)
        if layer is None:
            raise LayerNotOfImage(image=image, layer=layer_digest, chain_id=chain_id)
        if not launched and layer.state in ("engine", "failed"):
            # The pull under way has left this layer out, or failed with it some time ago: that needs one of its own.
            self._check_held_off(chain_id, layer_digest)
            flight = self._launch(reference, chain_id, below, copies=copies)
            job = self._wait(flight.job, deadline, timeout, layer_digest)
            layer = job.layers[layer.index]
        return self._wait(layer.future, deadline, timeout, layer_digest)

    def pull(self, image: str | Reference, *, platform: Platform | None = None) -> PulledImage:
        """Bring a whole image in and return it; on failure the layers that came stay, until GC takes them.

        Raises what resolving raises, and the first failed layer's error.
        """
        reference = parse_reference(image) if isinstance(image, str) else image
        resolved = self._client.resolve(reference, platform or self._platform, stop=self._stop)
        flight = self._launch(reference, None, None, resolved=resolved)
        job = flight.job.result()
        records = [layer.future for layer in job.layers]
        concurrent.futures.wait(records)
        flight.done.wait()
        return PulledImage(resolved, tuple(record.result() for record in records))

    def close(self, timeout: float = 10.0) -> None:
        """Stop all pulls; waits up to `timeout` seconds for their threads. What came whole stays in the store."""
        self._stop.set()
        self._blobs.close()
        with self._lock:
            threads = tuple(self._threads)
        deadline = self._clock.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, deadline - self._clock.monotonic()))
        if not any(thread.is_alive() for thread in threads):
            self._blobs.join()

    # --- flights

    def _join(
        self, reference: Reference, chain_id: str, below: Lookup | None, copies: CopyMaker | None
    ) -> tuple[_Flight, bool]:
        """Return the image's pull that is under way, or a new one; and whether it is new."""
        key = (reference.repository, reference.digest or "")
        with self._lock:
            for flight in self._flights:
                if flight.key == key and not flight.done.is_set():
                    return flight, False
            return self._launch_locked(reference, chain_id, below, copies=copies), True

    def _launch(
        self,
        reference: Reference,
        chain_id: str | None,
        below: Lookup | None,
        *,
        resolved: ResolvedImage | None = None,
        copies: CopyMaker | None = None,
    ) -> _Flight:
        with self._lock:
            return self._launch_locked(reference, chain_id, below, resolved=resolved, copies=copies)

    def _launch_locked(
        self,
        reference: Reference,
        chain_id: str | None,
        below: Lookup | None,
        *,
        resolved: ResolvedImage | None = None,
        copies: CopyMaker | None = None,
    ) -> _Flight:
        if self._stop.is_set():
            raise PullCancelled(what=reference)
        digest = reference.digest or (resolved.manifest_digest if resolved else "")
        flight = _Flight((reference.repository, digest), chain_id, copies)
        thread = JobThread(str(reference), lambda: self._fly(flight, reference, below, resolved))
        self._flights.append(flight)
        self._threads.add(thread)
        thread.start()
        return flight

    def _fly(self, flight: _Flight, reference: Reference, below: Lookup | None, resolved: ResolvedImage | None) -> None:
        try:
            self._work(flight, reference, below, resolved)
        finally:
            with self._lock:
                self._flights.remove(flight)
                self._threads.discard(threading.current_thread())
            flight.done.set()

    def _work(
        self, flight: _Flight, reference: Reference, below: Lookup | None, resolved: ResolvedImage | None
    ) -> None:
        job: PullJob | None = None
        try:
            image = resolved or self._client.resolve(reference, self._platform, stop=self._stop)
            first = _position(image, flight.chain_id)
            job = PullJob(
                self._store,
                self._blobs,
                image,
                first=first,
                below=below,
                progress=self._progress,
                failed=self._failed,
                copies=flight.copies,
            )
            job.start()
            self._record(job)
        except Exception as error:  # noqa: BLE001  # handed to everybody who waits for the image
            self._hold(reference.digest or str(reference), error)
            if job is not None:
                job.abandon(error)
            flight.job.set_exception(error)
            return
        flight.job.set_result(job)
        try:
            job.run()
            self._record(job)
        except Exception as error:  # noqa: BLE001  # the store failed: the layers that are still open hear of it
            job.abandon(error)

    def _failed(self, layer: PullLayer, error: BaseException) -> None:
        if not isinstance(error, PullCancelled):
            self._hold(layer.chain_id, error)

    def _record(self, job: PullJob) -> None:
        image = job.image
        name, platform = _name(image.reference), str(image.config.platform)
        images = self._store.catalogue.images
        rows = job.rows()
        known = images.get(name, platform)
        if known is not None and known.manifest_digest == image.manifest_digest:
            rows = tuple(_kept(known, index, row) for index, row in enumerate(rows))
        images.upsert(name, platform=platform, manifest_digest=image.manifest_digest, layers=rows)

    # --- waiting and holding off

    def _wait(
        self, future: concurrent.futures.Future[_Result], deadline: float | None, timeout: float | None, layer: str
    ) -> _Result:
        remaining = None if deadline is None else max(0.0, deadline - self._clock.monotonic())
        if not concurrent.futures.wait([future], timeout=remaining).done:
            raise PullTimedOut(layer=layer, seconds=f"{timeout:g}")
        return future.result()

    def _check_held_off(self, key: str, layer: str) -> None:
        with self._lock:
            until, reason = self._failures.get(key, (0.0, ""))
        seconds = until - self._clock.monotonic()
        if seconds > 0:
            raise LayerHeldOff(layer=layer, seconds=f"{seconds:.1f}", reason=reason)

    def _hold(self, key: str, error: BaseException) -> None:
        now = self._clock.monotonic()
        reason = error.message if isinstance(error, HyperBoxError) else f"{type(error).__name__}: {error}"
        with self._lock:
            self._failures = {name: held for name, held in self._failures.items() if held[0] > now}
            self._failures[key] = (now + self._hold_off, reason)


def _position(image: ResolvedImage, chain_id: str | None) -> int:
    """Return the index of a layer in its image; 0 for a chain ID that is not the image's (the caller hears of that)."""
    chain = image.config.chain_ids
    return chain.index(chain_id) if chain_id in chain else 0


def _name(reference: Reference) -> str:
    """Return the name that the catalogue knows an image by: the tag where there is one, else the digest."""
    return str(replace(reference, digest=None) if reference.tag else reference)


def _kept(known: ImageRow, index: int, row: ImageLayer) -> ImageLayer:
    """Return what is worth keeping: how a layer came here says more than that it was here the next time."""
    if row.state != "present" or index >= len(known.layers):
        return row
    before = known.layers[index]
    return before if before.layer_id == row.layer_id and before.state == "fetched" else row
