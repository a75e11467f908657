"""Layer blobs on their way into the store: a few at a time, each once however many ask for it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from hyperbox.api.errors import ExitCode, HyperBoxError
from hyperbox.api.errors.registry import PullCancelled
from hyperbox.images.ingest import LayerContent, ingest_layer
from hyperbox.images.limits import LayerLimits
from hyperbox.images.manifest import Descriptor
from hyperbox.images.reference import Reference
from hyperbox.images.registry import BlobStream, Clock, RegistryClient
from hyperbox.store import Lease, Store

_TRIES: Final = 2
"""Wrong bytes of a mirror are fetched once more, from elsewhere; wrong bytes of the origin are final."""


class BlobCopy(Protocol):
    """A second place for the bytes of a blob. For one thread; never raises, whatever becomes of the copy."""

    def write(self, piece: bytes) -> None:
        """Take the next bytes; may wait a little."""

    def finish(self) -> None:
        """Hear that these were all, and right."""

    def abandon(self) -> None:
        """Hear that nothing more comes, or that something was wrong."""


CopyMaker = Callable[[Reference, Descriptor, str], BlobCopy | None]
"""Makes the copy of a blob with this diffID; None where none is wanted. Never raises."""


class Flight:
    """One blob on its way. Its objects are protected from garbage collection until everybody has released it."""

    def __init__(self, key: str, reference: Reference, descriptor: Descriptor, diff_id: str, lease: Lease) -> None:
        self.key = key
        self.reference = reference
        self.descriptor = descriptor
        self.diff_id = diff_id
        self.lease = lease
        self.users = 0
        self.bytes_fetched = 0
        """Bytes that came over the network, those of failed tries included."""
        self.seconds = 0.0
        """From the first byte's request until everything was unpacked."""
        self.host = ""
        """The endpoint that served it."""
        self.listeners: list[Callable[[int], None]] = []
        self.copies: CopyMaker | None = None
        self.future: concurrent.futures.Future[LayerContent]

    def progress(self, count: int) -> None:
        """Tell everybody how many bytes have come."""
        for listener in tuple(self.listeners):
            listener(count)


class BlobFetcher:
    """Fetches and unpacks blobs on a bounded number of threads; callers queue in the order in which they come."""

    def __init__(
        self, store: Store, client: RegistryClient, *, workers: int, limits: LayerLimits, clock: Clock
    ) -> None:
        self._store = store
        self._client = client
        self._limits = limits
        self._clock = clock
        self._pool = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="pull")
        self._lock = threading.Lock()
        self._flights: dict[str, Flight] = {}
        self._streams: set[BlobStream] = set()
        self._closing = False

    def acquire(
        self,
        reference: Reference,
        descriptor: Descriptor,
        diff_id: str,
        listener: Callable[[int], None] | None = None,
        copies: CopyMaker | None = None,
    ) -> Flight:
        """Join the flight of a blob, or start it. Every `acquire` needs a `release`. Raises `PullCancelled`.

        `copies` counts for whoever starts it.
        """
        key = f"{descriptor.digest} {diff_id}"
        with self._lock:
            if self._closing:
                raise PullCancelled(what=descriptor.digest)
            flight = self._flights.get(key)
            if flight is None:
                lease = self._store.objects.lease(f"pull {descriptor.digest}")
                flight = self._flights[key] = Flight(key, reference, descriptor, diff_id, lease)
                flight.copies = copies
                flight.future = self._pool.submit(self._fetch, flight)
            flight.users += 1
            if listener is not None:
                flight.listeners.append(listener)
            return flight

    def release(self, flight: Flight) -> None:
        """Give the flight back: its layer is in the catalogue, or nobody wants it any more."""
        with self._lock:
            flight.users -= 1
            if flight.users:
                return
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]
        # The lease must outlive the thread that puts objects under it.
        flight.future.add_done_callback(lambda _: flight.lease.release())

    def close(self) -> None:
        """Stop all transfers. Returns at once; the threads end as soon as their current piece is dealt with."""
        with self._lock:
            self._closing = True
            streams = tuple(self._streams)
        self._pool.shutdown(wait=False, cancel_futures=True)
        for stream in streams:
            stream.abort()

    def join(self) -> None:
        """Wait until the threads have ended."""
        self._pool.shutdown(wait=True)

    def _fetch(self, flight: Flight) -> LayerContent:
        started = self._clock.monotonic()
        tries = 0
        while True:
            tries += 1
            stream = self._client.open_blob(flight.reference, flight.descriptor, verify=False, stop=threading.Event())
            try:
                return self._ingest(flight, stream)
            except HyperBoxError as error:
                endpoint = stream.endpoint
                if error.exit_code is not ExitCode.CORRUPT or endpoint is None:
                    raise
                self._client.distrust(endpoint.base, flight.descriptor.digest)
                if endpoint.origin or tries >= _TRIES:
                    raise
            finally:
                flight.bytes_fetched += stream.bytes_read
                flight.host = stream.endpoint.host if stream.endpoint is not None else ""
                flight.seconds = self._clock.monotonic() - started
                with self._lock:
                    self._streams.discard(stream)

    def _ingest(self, flight: Flight, stream: BlobStream) -> LayerContent:
        with self._lock:
            if self._closing:
                raise PullCancelled(what=flight.descriptor.digest)
            self._streams.add(stream)
        with stream, _copied(stream, flight) as source:
            # The ingest hashes the blob while it unpacks; the stream leaves the digest to it.
            return ingest_layer(
                source,
                flight.lease,
                expected_blob_digest=flight.descriptor.digest,
                expected_diff_id=flight.diff_id,
                limits=self._limits,
                progress=flight.progress,
            )


@contextlib.contextmanager
def _copied(stream: BlobStream, flight: Flight) -> Iterator[Iterable[bytes]]:
    """Have the pieces of a stream go to the flight's copy as well, if it has one."""
    copy = flight.copies(flight.reference, flight.descriptor, flight.diff_id) if flight.copies else None
    if copy is None:
        yield stream
        return

    def pieces() -> Iterator[bytes]:
        for piece in stream:
            copy.write(piece)
            yield piece

    try:
        yield pieces()
    except BaseException:
        copy.abandon()
        raise
    copy.finish()
