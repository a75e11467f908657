"""The registry client: references to manifests, configurations and blob streams."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Self, TypeVar

import urllib3

from hyperbox.api.errors import HyperBoxError
from hyperbox.api.errors.registry import (
    BlobNotFound,
    DigestMismatch,
    ManifestNotFound,
    ManifestTooLarge,
    ManifestUnsupported,
    PlatformNotFound,
    PullCancelled,
    SizeMismatch,
)
from hyperbox.images import media
from hyperbox.images.manifest import (
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    check_layers,
    digest_of,
    parse_config,
    parse_document,
)
from hyperbox.images.platform import Platform, rank
from hyperbox.images.reference import Reference, is_digest, parse_reference
from hyperbox.images.registry.blob import BlobStream
from hyperbox.images.registry.clock import Clock, SystemClock
from hyperbox.images.registry.hosts import Endpoint
from hyperbox.images.registry.session import Missing, Session
from hyperbox.images.registry.settings import RegistrySettings

_Result = TypeVar("_Result")
_DEEPEST_INDEX: Final = 4
_MOST_DISTRUSTED: Final = 10_000


@dataclass(frozen=True, slots=True)
class FetchedDocument:
    """A manifest or index as it came, checked against its digest."""

    digest: str
    data: bytes
    document: Manifest | Index
    host: str
    """The endpoint that served it."""


@dataclass(frozen=True, slots=True)
class ResolvedImage:
    """One image for one platform, ready to be pulled."""

    reference: Reference
    """As asked for."""
    manifest_digest: str
    manifest: Manifest
    config: ImageConfig
    manifest_data: bytes
    index_digest: str | None = None
    """Digest of the index that the manifest was chosen from."""
    host: str = ""
    """The endpoint that served the manifest."""


class RegistryClient:
    """Reads images from registries. Thread-safe; close it when done.

    Every method that talks to a registry raises `RegistryUnreachable`, `RegistryBusy`, `RegistryDenied`,
    `RegistryTlsFailed`, `RegistryAnswerWrong`, `CredentialHelperFailed`, `RegistrySettingsWrong`, or `PullCancelled`
    once `stop` is set.
    """

    def __init__(self, settings: RegistrySettings | None = None, *, clock: Clock | None = None) -> None:
        self.settings = settings or RegistrySettings()
        self._session = Session(self.settings, clock or SystemClock())
        self._closed = threading.Event()
        self._distrusted: dict[str, set[str]] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End waiting requests and close idle connections."""
        self._closed.set()
        self._session.close()

    def resolve(
        self, reference: Reference | str, platform: Platform | None = None, *, stop: threading.Event | None = None
    ) -> ResolvedImage:
        """Return the image that a reference means on `platform` (default: this machine).

        Raises `ManifestNotFound`, `PlatformNotFound`, `ManifestMalformed`, `ManifestUnsupported`, `DigestMismatch`,
        `SizeMismatch`, `BadReference` and what the class names.
        """
        ref = parse_reference(reference) if isinstance(reference, str) else reference
        wanted = platform or Platform.host()
        found = self.manifest(ref, stop=stop)
        if isinstance(found.document, Manifest):
            # An image without an index is run as it is, as the engines do: emulation is the user's business.
            config = self.config(ref, found.document, stop=stop)
            return ResolvedImage(ref, found.digest, found.document, config, found.data, None, found.host)
        for entry in self._entries(ref, found.document, wanted, stop, _DEEPEST_INDEX):
            fetched = self.manifest(ref, entry.digest, size=entry.size, stop=stop)
            if not isinstance(fetched.document, Manifest):
                continue
            if entry.platform is None and fetched.document.config.media_type not in media.CONFIGS:
                continue
            config = self.config(ref, fetched.document, stop=stop)
            if entry.platform is None and rank(wanted, config.platform) is None:
                continue
            return ResolvedImage(
                ref, fetched.digest, fetched.document, config, fetched.data, found.digest, fetched.host
            )
        platforms = [str(entry.platform) for entry in found.document.manifests if entry.platform is not None]
        available = ", ".join(dict.fromkeys(platforms)) or "none that is named"
        raise PlatformNotFound(reference=ref, platform=wanted, available=available)

    def manifest(
        self,
        reference: Reference,
        digest: str | None = None,
        *,
        size: int | None = None,
        stop: threading.Event | None = None,
    ) -> FetchedDocument:
        """Return the manifest or index that the reference, or `digest` in its repository, names; digest checked.

        Raises `ManifestNotFound`, `ManifestMalformed`, `ManifestUnsupported`, `ManifestTooLarge`, `DigestMismatch`,
        `SizeMismatch` and what the class names.
        """
        target = digest or reference.target
        what = f"{reference.repository}{'@' if is_digest(target) else ':'}{target}"
        headers = {"Accept": ", ".join(media.ACCEPTED)}
        halt = stop or self._closed

        def fetch(endpoint: Endpoint) -> FetchedDocument:
            path = f"{reference.path}/manifests/{target}"
            data, got = self._session.document(endpoint, path, _scope(reference), headers, what=what, stop=halt)
            stated = target if is_digest(target) else got.get("Docker-Content-Digest", "")
            actual = digest_of(data, stated) if is_digest(stated) else digest_of(data)
            if is_digest(stated) and actual != stated:
                raise DigestMismatch(host=endpoint.host, expected=stated, actual=actual)
            if size is not None and len(data) != size:
                raise SizeMismatch(host=endpoint.host, digest=actual, expected=size, actual=len(data))
            document = parse_document(data, what=what, content_type=got.get("Content-Type", ""))
            return FetchedDocument(actual, data, document, endpoint.host)

        missing = ManifestNotFound(reference=what, host=reference.host)
        return self._try_each(self._session.ordered(reference.host), fetch, missing)

    def config(self, reference: Reference, manifest: Manifest, *, stop: threading.Event | None = None) -> ImageConfig:
        """Return the image configuration of a manifest, digest checked, with one diffID for each layer.

        Raises `ManifestUnsupported` for what is not an image, `ManifestMalformed`, `BlobNotFound`, `DigestMismatch`,
        `SizeMismatch`, `ManifestTooLarge` and what the class names.
        """
        what = f"configuration {manifest.config.digest} of {reference.repository}"
        if manifest.config.media_type not in media.CONFIGS:
            raise ManifestUnsupported(what=what, media_type=manifest.config.media_type or "none")
        config = parse_config(self.blob(reference, manifest.config, what=what, stop=stop), what=what)
        check_layers(manifest, config, what=what)
        return config

    def blob(
        self, reference: Reference, descriptor: Descriptor, *, what: str = "", stop: threading.Event | None = None
    ) -> bytes:
        """Return a small blob whole, digest checked. Raises `ManifestTooLarge` above the limit for documents."""
        if descriptor.size > self.settings.document_limit:
            raise ManifestTooLarge(what=what or descriptor.digest, limit=self.settings.document_limit)
        try:
            return self._blob_once(reference, descriptor, stop)
        except (DigestMismatch, SizeMismatch):
            # Whoever gave the wrong bytes is asked last now; the second try is for the endpoint after it.
            return self._blob_once(reference, descriptor, stop)

    def _blob_once(self, reference: Reference, descriptor: Descriptor, stop: threading.Event | None) -> bytes:
        with self.open_blob(reference, descriptor, stop=stop) as stream:
            return stream.read()

    def open_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        offset: int = 0,
        *,
        verify: bool = True,
        stop: threading.Event | None = None,
    ) -> BlobStream:
        """Return a stream of a blob from `offset` on. Nothing is sent before the first read.

        `verify=False` leaves the digest to the caller; an offset other than 0 does so always.
        """
        return BlobStream(
            _BlobSource(self, reference),
            descriptor,
            offset=offset,
            verify=verify,
            chunk_bytes=self.settings.chunk_bytes,
            # Always an event of its own: ending one stream must not end others.
            stop=stop or _linked(self._closed),
        )

    def distrust(self, base: str, digest: str) -> None:
        """Ask the endpoint with this base URL for this digest only when there is no other."""
        with self._lock:
            if len(self._distrusted) >= _MOST_DISTRUSTED:
                self._distrusted.clear()
            self._distrusted.setdefault(digest, set()).add(base)

    def _entries(
        self, ref: Reference, index: Index, wanted: Platform, stop: threading.Event | None, depth: int
    ) -> Iterator[Descriptor]:
        for entry in index.ranked(wanted):
            if entry.media_type in media.INDEXES:
                if depth > 1:
                    inner = self.manifest(ref, entry.digest, size=entry.size, stop=stop).document
                    if isinstance(inner, Index):
                        yield from self._entries(ref, inner, wanted, stop, depth - 1)
            elif not entry.artifact_type:
                yield entry

    def _try_each(
        self, endpoints: list[Endpoint], action: Callable[[Endpoint], _Result], missing: HyperBoxError
    ) -> _Result:
        """Run `action` at one endpoint after the other; raise the origin's error when none can."""
        failure: HyperBoxError = missing
        for endpoint in endpoints:
            try:
                return action(endpoint)
            except Missing:
                error: HyperBoxError = missing
            except PullCancelled:
                raise
            except HyperBoxError as raised:
                error = raised
            if endpoint.origin or failure is missing:
                failure = error
        raise failure

    def _start_blob(
        self, reference: Reference, descriptor: Descriptor, offset: int, avoid: frozenset[str], stop: threading.Event
    ) -> tuple[urllib3.BaseHTTPResponse, Endpoint]:
        headers = {"Range": f"bytes={offset}-"} if offset else {}

        def fetch(endpoint: Endpoint) -> tuple[urllib3.BaseHTTPResponse, Endpoint]:
            path = f"{reference.path}/blobs/{descriptor.digest}"
            # An endpoint that answered a range with nonsense is asked for the whole blob.
            sent = {} if endpoint.base in avoid else headers
            what = descriptor.digest
            response = self._session.open(endpoint, path, _scope(reference), sent, what=what, stop=stop)
            return response, endpoint

        with self._lock:
            bad = avoid | self._distrusted.get(descriptor.digest, set())
        endpoints = sorted(self._session.ordered(reference.host), key=lambda endpoint: endpoint.base in bad)
        return self._try_each(endpoints, fetch, BlobNotFound(host=reference.host, digest=descriptor.digest))

    def _pause_after(self, failures: int, stop: threading.Event) -> bool:
        return self._session.pause_after(failures, stop)


class _BlobSource:
    """One repository as a `BlobSource`."""

    def __init__(self, client: RegistryClient, reference: Reference) -> None:
        self._client = client
        self._reference = reference

    def start(
        self, descriptor: Descriptor, offset: int, avoid: frozenset[str], stop: threading.Event
    ) -> tuple[urllib3.BaseHTTPResponse, Endpoint]:
        return self._client._start_blob(self._reference, descriptor, offset, avoid, stop)

    def pause_after(self, failures: int, stop: threading.Event) -> bool:
        return self._client._pause_after(failures, stop)

    def distrust(self, endpoint: Endpoint, digest: str) -> None:
        self._client.distrust(endpoint.base, digest)


def _linked(closed: threading.Event) -> threading.Event:
    """Return a fresh event, set already when the client is closed."""
    event = threading.Event()
    if closed.is_set():
        event.set()
    return event


def _scope(reference: Reference) -> str:
    return f"repository:{reference.path}:pull"
