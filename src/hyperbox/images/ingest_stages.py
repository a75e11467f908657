"""Threads of one ingest and the bounded hand-over between them.

Decompression and hashing release the GIL, so stages really run side by side; a hand-over holds a few MiB, so a slow
stage slows the network instead of filling the memory.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Self

DEPTH: Final = 8
"""Pieces (of at most 1 MiB) that wait in one hand-over."""


class Stopped(Exception):
    """The receiving side wants no more."""


class Channel:
    """Pieces of bytes from one thread to one other, in order, with an end and maybe an error behind it."""

    __slots__ = ("_changed", "_ended", "_error", "_pieces", "_stopped")

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._stopped = False
        self._error: BaseException | None = None

    def put(self, piece: bytes) -> None:
        """Hand over a piece; waits while too many wait. Raises `Stopped` when nobody wants it."""
        with self._changed:
            while len(self._pieces) >= DEPTH and not self._stopped:
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

    def get(self) -> bytes:
        """The next piece, `b""` at the end."""
        with self._changed:
            while not self._pieces:
                if self._error is not None:
                    raise self._error
                if self._ended or self._stopped:
                    return b""
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

    def __init__(self, name: str, channels: Iterable[Channel]) -> None:
        self._name = name
        self._channels = list(channels)
        self._threads: list[threading.Thread] = []

    def start(self, role: str, work: Callable[[], None], *outputs: Channel) -> None:
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
