"""Layers that HyperBox brings in itself: the remote snapshotter contract of containerd.

containerd calls Prepare for each layer in turn, bottom first, with labels that say which. When the layer is in the
store, a committed snapshot with the same labels and parent is made and Prepare answers ALREADY_EXISTS: containerd then
neither fetches nor unpacks it. Anything else is an ordinary Prepare, and the engine does the work; why, is kept.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from hyperbox.api.errors.base import HyperBoxError
from hyperbox.api.errors.snapshotter import LayerNotProvided, SnapshotterStopping
from hyperbox.api.events import LAYER_DECLINED
from hyperbox.snapshotter.model import LABEL_TARGET, Snapshot
from hyperbox.snapshotter.observer import Observer
from hyperbox.store import LayerRecord

LABEL_IMAGE: Final = "containerd.io/snapshot/cri.image-ref"
LABEL_MANIFEST: Final = "containerd.io/snapshot/cri.manifest-digest"
LABEL_LAYER: Final = "containerd.io/snapshot/cri.layer-digest"
LABEL_LAYERS: Final = "containerd.io/snapshot/cri.image-layers"

WAITING: Final = 64
"""Prepares that may wait at the same time; more are left to the engine at once."""

_TICK: Final = 0.5
"""Seconds between looks at whether the caller is still there."""


@dataclass(frozen=True, slots=True)
class BelowLayer:
    """One layer under the wanted one, as it is on this node."""

    chain_id: str
    """Empty where the engine did not say."""
    layer: str | None
    """Layer id in the store; None for a folder that the engine unpacked."""
    snapshot: int
    """Its folder is `snapshots/<snapshot>/fs` where `layer` is None."""


@dataclass(frozen=True, slots=True)
class LayerRequest:
    """One layer as containerd asks for it."""

    target: str
    """Chain ID."""
    image: str
    """Reference that is being pulled."""
    manifest: str
    """Digest of the image's manifest for this platform."""
    layer: str
    """Digest of the layer's blob."""
    layers: tuple[str, ...]
    """Digests of this layer and those above it, cut off by the label's length limit."""
    below: tuple[BelowLayer, ...]
    """What is under it, nearest first."""
    namespace: str = ""
    """containerd's namespace that asks; the first part of the snapshot's key."""


class LayerProvider(Protocol):
    """Brings layers into the store."""

    def ensure(self, request: LayerRequest) -> LayerRecord:
        """Return the layer once it is in the store, from now on safe from GC for long enough to make a snapshot of it.

        The first call for an image starts the fetch of all its layers. Called from several threads, also for the same
        layer. Raises `HyperBoxError` with the reason why the engine has to do it.
        """

    def here(self, request: LayerRequest) -> None:
        """Hear that a layer which the engine asks for has its snapshot; the answer waits until this returns."""


def layer_request(key: str, target: str, labels: Mapping[str, str], chain: Sequence[Snapshot]) -> LayerRequest | None:
    """Read the key and labels of a Prepare; None when they do not name an image's layer."""
    image, manifest, layer = (labels.get(name, "") for name in (LABEL_IMAGE, LABEL_MANIFEST, LABEL_LAYER))
    if not (image and manifest and layer):
        return None
    layers = tuple(part for part in labels.get(LABEL_LAYERS, "").split(",") if part)
    below = tuple(BelowLayer(s.labels.get(LABEL_TARGET, ""), s.layer, s.id) for s in chain)
    return LayerRequest(target, image, manifest, layer, layers, below, key.partition("/")[0])


class RemoteLayers:
    """Waits for a provider on behalf of callers: with a limit, a time-out, and one flight for each layer."""

    def __init__(self, provider: LayerProvider, timeout: float) -> None:
        self._provider = provider
        self._timeout = timeout
        self._pool = concurrent.futures.ThreadPoolExecutor(WAITING, thread_name_prefix="layer")
        self._places = threading.BoundedSemaphore(WAITING)
        self._lock = threading.Lock()
        self._flights: dict[tuple[str, str, tuple[BelowLayer, ...]], concurrent.futures.Future[LayerRecord]] = {}
        self._stopping = threading.Event()

    def fetch(
        self,
        request: LayerRequest,
        wanted: Callable[[], bool],
        observer: Observer,
        adopt: Callable[[str], None],
    ) -> dict[str, str] | None:
        """Get a layer in and hand it to `adopt`; return None, or code and reason why the engine has to do it."""
        try:
            if not self._places.acquire(blocking=False):
                raise LayerNotProvided(layer=request.layer, reason=f"{WAITING} layers are waited for already")
            try:
                adopt(self._wait(request, wanted).layer_id)
            finally:
                self._places.release()
        except SnapshotterStopping:
            raise
        except HyperBoxError as error:
            code, reason = error.code, error.message
        except Exception as error:  # noqa: BLE001 - whatever a provider does, the engine's own way must stay open
            observer.fault(f"providing layer {request.layer}", error)
            code, reason = LayerNotProvided.code, f"{type(error).__name__}: {error}"
        else:
            return None
        if not wanted():
            raise LayerNotProvided(layer=request.layer, reason=reason)  # nobody is there to make a snapshot for
        observer.event(LAYER_DECLINED, image=request.image, chain_id=request.target, code=code, reason=reason)
        return {"code": code, "reason": reason, "image": request.image, "layer": request.layer}

    def here(self, request: LayerRequest, observer: Observer) -> None:
        """Tell the provider that a layer has its snapshot now, for each namespace that asks for it."""
        if not self._places.acquire(blocking=False):
            return
        try:
            self._provider.here(request)
        except Exception as error:  # noqa: BLE001 - the layer is here, whatever the provider makes of it
            observer.fault(f"hearing of layer {request.layer}", error)
        finally:
            self._places.release()

    def _wait(self, request: LayerRequest, wanted: Callable[[], bool]) -> LayerRecord:
        flight = self._flight(request)
        deadline = time.monotonic() + self._timeout
        while not concurrent.futures.wait([flight], timeout=_TICK).done:
            if self._stopping.is_set():
                raise SnapshotterStopping
            if not wanted():
                raise LayerNotProvided(layer=request.layer, reason="the engine gave up waiting")
            if time.monotonic() > deadline:
                raise LayerNotProvided(layer=request.layer, reason=f"not in after {self._timeout:g} s")
        if flight.cancelled():
            raise SnapshotterStopping
        return flight.result()

    def _flight(self, request: LayerRequest) -> concurrent.futures.Future[LayerRecord]:
        key = (request.target, request.manifest, request.below)
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                return flight
            if self._stopping.is_set():
                raise SnapshotterStopping
            flight = self._flights[key] = self._pool.submit(self._provider.ensure, request)
        flight.add_done_callback(lambda _: self._landed(key))  # runs here and now when it is done already
        return flight

    def _landed(self, key: tuple[str, str, tuple[BelowLayer, ...]]) -> None:
        with self._lock:
            self._flights.pop(key, None)

    def close(self) -> None:
        """Let all waiting callers go; fetches that run end by themselves."""
        self._stopping.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
