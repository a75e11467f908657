"""Threads of one ingest and the bounded hand-over between them.

Decompression and hashing release the GIL, so stages really run side by side; a hand-over holds a few MiB, so a slow
stage slows the network instead of filling the memory.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

DEPTH: Final = 4
"""Pieces (of at most 1 MiB) that wait in one hand-over."""

_PUT_DEPTH: Final = 2
_PUT_BATCH: Final = 64
_PUT_BYTES: Final = 1 << 20

T = TypeVar("T", bound="bytes | list[Any]")


class Stopped(Exception):
    """The receiving side wants no more."""


class Channel(Generic[T]):
    """Pieces from one thread to one other, in order, with an end and maybe an error behind it.

    `nothing` is what the receiver gets at the end; `depth` pieces wait at most.
    """

    __slots__ = ("_changed", "_depth", "_ended", "_error", "_nothing", "_pieces", "_stopped")

    def __init__(self, nothing: T, depth: int = DEPTH) -> None:
        self._pieces: deque[T] = deque()
        self._nothing = nothing
        self._depth = depth
        self._changed = threading.Condition()
        self._ended = False
        self._stopped = False
        self._error: BaseException | None = None

    def put(self, piece: T) -> None:
        """Hand over a piece; waits while too many wait. Raises `Stopped` when nobody wants it."""
        with self._changed:
            while len(self._pieces) >= self._depth and not self._stopped:
                self._changed.wait()
            if self._stopped:
                raise Stopped
            self._pieces.append(piece)
            self._changed.notify()

    def end(self, error: BaseException | None = None) -> None:
        """Say that no more comes; `error` is raised at the receiver after what was handed over before."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify()

    def get(self) -> T:
        """The next piece, `nothing` at the end."""
        with self._changed:
            while not self._pieces:
                if self._error is not None:
                    raise self._error
                if self._ended or self._stopped:
                    return self._nothing
                self._changed.wait()
            self._changed.notify()
            return self._pieces.popleft()

    def stop(self) -> None:
        """Refuse everything from now on: the sender's next `put` raises."""
        with self._changed:
            self._stopped = True
            self._pieces.clear()
            self._changed.notify_all()


class Stages:
    """The threads of one piece of work. Leaving the `with` stops their channels and waits until all have ended."""

    def __init__(self, name: str, channels: Iterable[Channel[Any]]) -> None:
        self._name = name
        self._channels = list(channels)
        self._threads: list[threading.Thread] = []

    def start(self, role: str, work: Callable[[], None], *outputs: Channel[Any]) -> None:
        """Run `work` in a thread of its own; its end, or its error, is passed on to its outputs."""

        def run() -> None:
            failure: BaseException | None = None
            try:
                work()
            except Stopped:
                pass
            except BaseException as error:  # noqa: BLE001 (raised again where the channel is read)
                failure = error
            for output in outputs:
                output.end(failure)

        thread = threading.Thread(target=run, name=f"{self._name}-{role}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def wait(self) -> None:
        """Wait until every stage has ended."""
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for channel in self._channels:
            channel.stop()
        self.wait()


class PutStage:
    """Stores small objects on a thread of its own: creating a file takes the kernel longer than reading its entry."""

    def __init__(self, put: Callable[[bytes | memoryview, bytes], object]) -> None:
        self.channel: Channel[list[tuple[bytes | memoryview, bytes]]] = Channel([], _PUT_DEPTH)
        self._put = put
        self._batch: list[tuple[bytes | memoryview, bytes]] = []
        self._waiting = 0
        self._error: BaseException | None = None

    def run(self) -> None:
        """The thread's work: until `finish`, or until something could not be stored."""
        try:
            while batch := self.channel.get():
                for data, digest in batch:
                    self._put(data, digest)
        except BaseException as error:
            self._error = error
            self.channel.stop()
            raise

    def put(self, data: memoryview, digest: bytes) -> None:
        """Have an object stored soon. Raises what went wrong with earlier ones."""
        # A view keeps the whole piece of the archive alive that it lies in; for a small file that is dear.
        self._batch.append((bytes(data) if len(data) < _PUT_BYTES >> 2 else data, digest))
        self._waiting += len(data)
        if len(self._batch) >= _PUT_BATCH or self._waiting >= _PUT_BYTES:
            self._send()

    def _send(self) -> None:
        batch, self._batch, self._waiting = self._batch, [], 0
        try:
            self.channel.put(batch)
        except Stopped:
            self.check()
            raise

    def finish(self) -> None:
        """Say that nothing more comes; when the thread has ended, call `check`."""
        if self._batch:
            self._send()
        self.channel.end()

    def check(self) -> None:
        """Raise what went wrong."""
        if self._error is not None:
            raise self._error
