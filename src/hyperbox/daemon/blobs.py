"""`images.keep_blobs`: the compressed layers of the engine's pulls, handed to its content store as they come.

While a layer streams from the registry into the store, its bytes also go to containerd, under a lease. Before
containerd hears that the layer is here, its blob is there, too, and the manifest, which containerd has fetched before,
refers to it: then the lease has served. A blob whose layer was here already is fetched for this alone. Nothing of that
makes a pull fail; what went wrong is an event.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import structlog

from hyperbox.api.errors import HyperBoxError
from hyperbox.api.errors.engines import BlobRefused
from hyperbox.api.events import BLOB_NOT_KEPT
from hyperbox.engines.content import SOURCE_LABEL, UNCOMPRESSED_LABEL, ContentStore
from hyperbox.images import Reference, RegistryClient, media, parse_reference
from hyperbox.images.manifest import Descriptor
from hyperbox.images.pull_blobs import BlobCopy, CopyMaker
from hyperbox.snapshotter import LayerRequest

log = structlog.get_logger("hyperbox.blobs")

_DEPTH: Final = 8
"""Pieces (of at most 1 MiB) that wait for containerd, for each layer."""
_LONGEST: Final = 600.0
"""Seconds to wait for a copy that somebody else makes."""
_REMEMBERED: Final = 3600.0
"""Seconds after which a copy that the engine never asked for is forgotten; its lease ends by itself then."""


class _Abandoned(Exception):
    """The source of a copy has failed."""


class _Copy:
    """One blob on its way into the content store, on a thread of its own. A `BlobCopy`."""

    def __init__(self, content: ContentStore, namespace: str, descriptor: Descriptor, labels: dict[str, str]) -> None:
        self.began = time.monotonic()
        self.done = threading.Event()
        self.complete = False
        self.error: HyperBoxError | None = None
        self.lease = ""
        self._content = content
        self._namespace = namespace
        self._descriptor = descriptor
        self._labels = labels
        self._pieces: queue.Queue[bytes] = queue.Queue(_DEPTH)
        self._abandoned = False
        threading.Thread(target=self._run, name=f"keep {descriptor.digest}"[:40], daemon=True).start()

    @property
    def failed(self) -> bool:
        """Whether nothing comes of it."""
        return self._abandoned or (self.done.is_set() and not self.complete)

    def write(self, piece: bytes) -> None:
        """Take the next bytes; waits while containerd is slow, and not at all once it has refused."""
        while not self.done.is_set():
            with contextlib.suppress(queue.Full):
                self._pieces.put(piece, timeout=0.5)
                return

    def finish(self) -> None:
        """Have it committed."""
        self.write(b"")

    def abandon(self) -> None:
        """Have what is written deleted."""
        self._abandoned = True
        with contextlib.suppress(queue.Full):  # then the thread does not wait for anything
            self._pieces.put_nowait(b"")

    def _stream(self) -> Iterator[bytes]:
        while piece := self._pieces.get():
            if self._abandoned:
                break
            yield piece
        if self._abandoned:
            raise _Abandoned

    def _run(self) -> None:
        digest = self._descriptor.digest
        try:
            self.lease = self._content.lease(self._namespace)
            size = max(0, self._descriptor.size)
            self._content.write(
                self._namespace, digest, self._stream(), size=size, labels=self._labels, lease=self.lease
            )
            self.complete = True
        except _Abandoned:
            log.debug("copy abandoned", blob=digest)
        except HyperBoxError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - told to whoever waits, like any refusal
            self.error = BlobRefused(engine="containerd", digest=digest, reason=f"{type(error).__name__}: {error}")
        finally:
            if self.lease and not self.complete:
                with contextlib.suppress(HyperBoxError):
                    self._content.release(self._namespace, self.lease)
            self.done.set()


class BlobKeeper:
    """Sees to it that the engine has the blobs of what it pulls through HyperBox. Thread-safe."""

    def __init__(self, content: ContentStore, client: RegistryClient, tell: Callable[..., None]) -> None:
        """`tell` takes an event and its fields, as an observer does."""
        self._content = content
        self._client = client
        self._tell = tell
        self._lock = threading.Lock()
        self._copies: dict[tuple[str, str], _Copy] = {}
        self._seen: dict[tuple[str, str], tuple[int, float]] = {}
        self._closing = threading.Event()

    def maker(self, namespace: str) -> CopyMaker:
        """Return what copies the blobs of a pull while they are fetched."""

        def make(reference: Reference, descriptor: Descriptor, diff_id: str) -> BlobCopy | None:
            try:
                if self._content.labels(namespace, descriptor.digest) is not None:
                    return None
            except HyperBoxError:  # `keep` will say so
                return None
            return self._begin(namespace, reference, descriptor, diff_id)

        return make

    def keep(self, request: LayerRequest, diff_id: str | None) -> None:
        """Return once the blob of a layer is in the content store, and those below it; never raises.

        `diff_id` is what the layer's may be.
        """
        diff_id = _checked_diff_id(request, diff_id)
        for descriptor in self._wanted(request):
            this = descriptor.digest == request.layer
            try:
                self._one(request, descriptor, diff_id if this else None)
            except HyperBoxError as error:
                self._report(request, descriptor.digest, error)

    def close(self) -> None:
        """Let go of everything that is on its way."""
        self._closing.set()
        with self._lock:
            copies = tuple(self._copies.values())
        for copy in copies:
            copy.abandon()

    def _wanted(self, request: LayerRequest) -> list[Descriptor]:
        """The layer itself, and before it those below that nobody has looked after lately.

        containerd does not ask for layers of which it has snapshots; their blobs are missing when they came before
        the setting was switched on.
        """
        index, key = len(request.below), (request.namespace, request.manifest)
        now = time.monotonic()
        with self._lock:
            self._seen = {name: seen for name, seen in self._seen.items() if now - seen[1] < _LONGEST}
            looked_after = self._seen.get(key, (0, 0.0))[0]
            self._seen[key] = (max(looked_after, index + 1), now)
        lower: list[Descriptor] = []
        if looked_after < index:
            try:
                layers = self._content.layers(request.namespace, request.manifest)[looked_after:index]
            except HyperBoxError as error:
                self._report(request, request.layer, error)
                return []
            lower = [Descriptor(layer.media_type, layer.digest, layer.size) for layer in layers]
        own = Descriptor("", request.layer, -1)
        return [layer for layer in lower if not media.is_foreign(layer.media_type)] + [own]

    def _one(self, request: LayerRequest, descriptor: Descriptor, diff_id: str | None) -> None:
        namespace, digest = request.namespace, descriptor.digest
        reference = parse_reference(request.image)
        with self._lock:
            copy = self._copies.get((namespace, digest))
        if copy is None or (copy.done.is_set() and copy.error is None):
            if self._content.labels(namespace, digest) is None:
                copy = self._fetch(namespace, reference, descriptor, diff_id)
            elif copy is None:
                self._content.add_source(namespace, digest, reference.host, reference.path)
                return
        if copy is None or not copy.done.wait(_LONGEST):
            raise BlobRefused(engine="containerd", digest=digest, reason=f"not done after {_LONGEST:g} s")
        if not copy.complete:
            self._forget(namespace, digest, copy)
            raise copy.error or BlobRefused(engine="containerd", digest=digest, reason="the transfer was given up")
        self._content.add_source(namespace, digest, reference.host, reference.path)
        # A manifest that does not refer to it (yet) leaves the blob to the lease, which ends by itself.
        if self._content.refers(namespace, request.manifest, digest):
            self._forget(namespace, digest, copy)
            self._content.release(namespace, copy.lease)

    def _fetch(self, namespace: str, reference: Reference, descriptor: Descriptor, diff_id: str | None) -> _Copy | None:
        """Fetch a blob for the content store alone, unless somebody does so already; return the copy."""
        copy = self._begin(namespace, reference, descriptor, diff_id)
        if copy is None:
            with self._lock:
                return self._copies.get((namespace, descriptor.digest))
        try:
            with self._client.open_blob(reference, descriptor, stop=self._closing) as stream:
                for piece in stream:
                    copy.write(piece)
                    if copy.done.is_set():
                        break
        except BaseException:
            copy.abandon()
            raise
        copy.finish()
        return copy

    def _begin(self, namespace: str, reference: Reference, descriptor: Descriptor, diff_id: str | None) -> _Copy | None:
        """Begin a copy; None when there is one already, or none may begin any more."""
        labels = {f"{SOURCE_LABEL}{reference.host}": reference.path}
        if diff_id:
            labels[UNCOMPRESSED_LABEL] = diff_id
        key, now = (namespace, descriptor.digest), time.monotonic()
        with self._lock:
            known = self._copies.get(key)
            if self._closing.is_set() or (known is not None and not known.failed and not known.complete):
                return None
            self._copies = {name: copy for name, copy in self._copies.items() if now - copy.began < _REMEMBERED}
            copy = self._copies[key] = _Copy(self._content, namespace, descriptor, labels)
            return copy

    def _forget(self, namespace: str, digest: str, copy: _Copy) -> None:
        with self._lock:
            if self._copies.get((namespace, digest)) is copy:
                del self._copies[namespace, digest]

    def _report(self, request: LayerRequest, digest: str, error: HyperBoxError) -> None:
        self._tell(BLOB_NOT_KEPT, image=request.image, layer=digest, code=error.code, reason=error.message)


def _checked_diff_id(request: LayerRequest, candidate: str | None) -> str | None:
    """Return the diffID of the wanted layer: only what its chain ID is made of can be it."""
    if not request.below:
        return request.target
    chain = hashlib.sha256(f"{request.below[0].chain_id} {candidate}".encode()).hexdigest()
    return candidate if f"sha256:{chain}" == request.target else None
