"""A blob as a stream that survives broken connections, and that ends well only when every byte was right."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from typing import Final, Protocol, Self

import urllib3
from urllib3.exceptions import HTTPError

from hyperbox.api.errors.registry import (
    DigestMismatch,
    PullCancelled,
    RegistryAnswerWrong,
    RegistryUnreachable,
    SizeMismatch,
)
from hyperbox.images.manifest import Descriptor
from hyperbox.images.registry.hosts import Endpoint
from hyperbox.images.registry.transport import describe

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)", re.ASCII)
_ENOUGH: Final = 64 << 10
"""Pieces below this many bytes are joined: what comes after costs more per piece than a copy does."""


class BlobSource(Protocol):
    """What a stream needs from the client."""

    def start(
        self, descriptor: Descriptor, offset: int, avoid: frozenset[str], stop: threading.Event
    ) -> tuple[urllib3.BaseHTTPResponse, Endpoint]:
        """Return an answer that begins at `offset` or at 0 (its status says which), and who gave it.

        `avoid` holds the bases of endpoints that gave wrong bytes; they are asked only when there is no other.
        """
        ...

    def pause_after(self, failures: int, stop: threading.Event) -> bool:
        """Wait before the next try; False to give up."""
        ...

    def distrust(self, endpoint: Endpoint, digest: str) -> None:
        """Remember that this endpoint's bytes for the digest were wrong."""
        ...


class BlobStream(Iterator[bytes]):
    """The bytes of one blob from an offset on, in pieces.

    A broken or silent connection is resumed with a Range request, at another endpoint when there is one; a server that
    ignores the range is read again from the start and the known part dropped. With `verify` the digest is checked at
    the end: the iteration then ends with `StopIteration` only when size and digest are right. One thread reads;
    `abort` may be called from any.

    Raises while reading: `SizeMismatch`, `DigestMismatch`, `RegistryUnreachable`, `PullCancelled`, and what
    opening raises.
    """

    def __init__(
        self,
        source: BlobSource,
        descriptor: Descriptor,
        *,
        offset: int = 0,
        verify: bool = True,
        chunk_bytes: int = 256 << 10,
        stop: threading.Event | None = None,
    ) -> None:
        # Of a blob of unknown size, the first answer's Content-Length is believed; its digest is checked anyway.
        self._size = descriptor.size if descriptor.size >= 0 else None
        if offset < 0 or (self._size is not None and offset > self._size):
            raise ValueError(f"offset {offset} is outside the blob of {descriptor.size} bytes")
        self.descriptor = descriptor
        self.offset = offset
        self.position = offset
        """Where in the blob the next byte comes from."""
        self.resumes = 0
        """How often the transfer was taken up again after a break."""
        self.endpoint: Endpoint | None = None
        """Who serves it now, or served it last."""
        self._source = source
        self._chunk = chunk_bytes
        self._stop = stop or threading.Event()
        self._hash = hashlib.new(descriptor.digest.partition(":")[0]) if verify and offset == 0 else None
        self._response: urllib3.BaseHTTPResponse | None = None
        self._avoid: frozenset[str] = frozenset()
        self._liars: set[str] = set()
        self._failures = 0
        self._opened = False
        self._ended = False
        self._kept = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def bytes_read(self) -> int:
        """Bytes handed out so far."""
        return self.position - self.offset

    def __next__(self) -> bytes:
        if self._kept:
            data, self._kept = self._kept, b""
            return data
        return self._fetch()

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, fewer only at the end; everything for -1. For readers that want a file."""
        parts: list[bytes] = []
        wanted = size if size >= 0 else 1 << 62
        while wanted:
            data = next(self, b"")
            if not data:
                break
            if len(data) > wanted:
                data, self._kept = data[:wanted], data[wanted:]
            parts.append(data)
            wanted -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def abort(self) -> None:
        """End the stream from another thread: a read that waits for the network ends with `PullCancelled`."""
        self._stop.set()
        response = self._response
        if response is not None:
            try:
                response.shutdown()
            except (ValueError, OSError, RuntimeError):
                return  # it has ended by itself meanwhile

    def close(self) -> None:
        """Give the connection back, or close it when the blob was not read to its end."""
        self._ended = True
        self._kept = b""
        response, self._response = self._response, None
        if response is not None:
            response.close()
            response.release_conn()

    def _fetch(self) -> bytes:
        while not self._ended:
            if self._stop.is_set():
                raise PullCancelled(what=self.descriptor.digest)
            if self.position == self._size:
                self._finish()
                break
            if self._response is None:
                self._open()
                continue
            data = self._receive(self._response, self._wanted())
            if data:
                self.position += len(data)
                self._failures = 0
                if self._hash is not None:
                    self._hash.update(data)
                return data
        raise StopIteration

    def _wanted(self) -> int:
        return self._chunk if self._size is None else min(self._chunk, self._size - self.position)

    def _receive(self, response: urllib3.BaseHTTPResponse, wanted: int) -> bytes:
        """Return at least one byte, or nothing after dealing with a broken connection."""
        parts: list[bytes] = []
        total = 0
        reason = "the answer ended early"
        enough = min(_ENOUGH, wanted)
        try:
            while total < enough:
                part = response.read1(wanted - total, decode_content=False)
                if not part:
                    if self._size is None:
                        self._size = self.position + total  # a body without length ends where it ends
                    break
                parts.append(part)
                total += len(part)
        except (HTTPError, OSError) as error:
            reason = describe(error)
        if total < enough:
            self._drop()
            if not parts and self.position != self._size:
                self._broken(reason)
            # What came before the break counts; the next call opens again from there.
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _drop(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.close()

    def _broken(self, reason: str) -> None:
        if self._stop.is_set():
            raise PullCancelled(what=self.descriptor.digest)
        self._failures += 1
        if not self._source.pause_after(self._failures, self._stop):
            host = self.endpoint.host if self.endpoint else "?"
            raise RegistryUnreachable(host=host, reason=f"{reason} at byte {self.position} of {self.descriptor.digest}")

    def _open(self) -> None:
        response, self.endpoint = self._source.start(self.descriptor, self.position, self._avoid, self._stop)
        self._response = response
        if self._opened:
            self.resumes += 1
        self._opened = True
        start = self._start_of(response)
        if start is None:
            self._avoid |= {self.endpoint.base}
            self._drop()
            self._failures += 1
            if not self._source.pause_after(self._failures, self._stop):
                raise RegistryAnswerWrong(host=self.endpoint.host, reason="its Content-Range is not what was asked for")
            return
        if self._length_fits(response, start) and start < self.position:
            self._skip(response, self.position - start)

    def _start_of(self, response: urllib3.BaseHTTPResponse) -> int | None:
        """Return where in the blob the answer begins; None when it begins at a place that nobody asked for."""
        if response.status == 200:
            return 0
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        if match is None or int(match[1]) != self.position or match[3] not in ("*", str(self._size)):
            return None
        return self.position

    def _length_fits(self, response: urllib3.BaseHTTPResponse, start: int) -> bool:
        """Tell whether the answer's length is right; when not, the next try asks another endpoint first."""
        stated = response.headers.get("Content-Length", "")
        if not (stated.isascii() and stated.isdigit()):
            return True
        if self._size is None:
            self._size = start + int(stated)
        if start + int(stated) == self._size:
            return True
        assert self.endpoint is not None
        self._drop()
        error = self._wrong_size(start + int(stated))
        if self.endpoint.base in self._liars:
            raise error
        self._liars.add(self.endpoint.base)
        return False

    def _skip(self, response: urllib3.BaseHTTPResponse, count: int) -> None:
        try:
            while count:
                data = response.read1(min(self._chunk, count), decode_content=False)
                if not data:
                    break
                count -= len(data)
                if self._stop.is_set():
                    raise PullCancelled(what=self.descriptor.digest)
        except (HTTPError, OSError) as error:
            self._drop()
            self._broken(describe(error))
            return
        if count:
            self._drop()
            self._broken("the answer ended early")

    def _finish(self) -> None:
        response = self._response
        if response is not None and "Content-Length" not in response.headers:
            self._refuse_more(response)
        self.close()
        if self._hash is None:
            return
        actual = f"{self._hash.name}:{self._hash.hexdigest()}"
        if actual != self.descriptor.digest:
            host = self.endpoint.host if self.endpoint else "?"
            if self.endpoint is not None:
                self._source.distrust(self.endpoint, self.descriptor.digest)
            raise DigestMismatch(host=host, expected=self.descriptor.digest, actual=actual)

    def _refuse_more(self, response: urllib3.BaseHTTPResponse) -> None:
        try:
            more = response.read1(1, decode_content=False)
        except (HTTPError, OSError):
            return  # all bytes are here; how the connection ends does not matter
        if more:
            self._drop()
            raise self._wrong_size(f"more than {self._size}")

    def _wrong_size(self, actual: int | str) -> SizeMismatch:
        host = self.endpoint.host if self.endpoint else "?"
        if self.endpoint is not None:
            self._source.distrust(self.endpoint, self.descriptor.digest)
        return SizeMismatch(host=host, digest=self.descriptor.digest, expected=self._size, actual=actual)
