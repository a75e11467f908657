"""The snapshotter's gRPC server on a unix socket: an event loop on a thread of its own, calls on a pool of threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from grpclib.config import Configuration
from grpclib.protocol import H2Protocol
from grpclib.server import Server

from hyperbox.snapshotter.remote import WAITING
from hyperbox.snapshotter.rpc import Service
from hyperbox.snapshotter.service import Snapshotter

_THREADS: Final = WAITING + 32
"""Prepare may wait in `WAITING` threads at once, and other calls must not feel it. Threads are made when needed."""

_TICK: Final = 0.02
"""Seconds between looks at the calls that a stop still waits for."""


class _Gathering(asyncio.Transport):
    """A transport that sends what one turn of the loop has to say in one piece.

    grpclib writes an answer's headers, message and trailers one by one, and each would wake the caller.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []

    def write(self, data: Any) -> None:
        """Keep the data until the end of the turn."""
        if not self._parts:
            self._loop.call_soon(self._send)
        self._parts.append(bytes(data))

    def _send(self) -> None:
        if self._parts and not self._transport.is_closing():
            self._transport.write(b"".join(self._parts))
        self._parts.clear()

    def close(self) -> None:
        """Send what is left, and close."""
        self._send()
        self._transport.close()

    def is_closing(self) -> bool:
        """Tell whether it is closed, or about to be."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what the transport knows of itself."""
        return self._transport.get_extra_info(name, default)


class _Protocol(H2Protocol):
    """grpclib's protocol on a gathering transport."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(_Gathering(transport))


class _Server(Server):
    """grpclib's server, which forgets its connections: they are remembered here, to be closed at the end."""

    def __init__(self, service: Service, config: Configuration) -> None:
        super().__init__([service], config=config)
        self._protocols: weakref.WeakSet[H2Protocol] = weakref.WeakSet()

    def _protocol_factory(self) -> H2Protocol:
        made = super()._protocol_factory()
        protocol = _Protocol(made.handler, made.config, made.h2_config)
        self._protocols.add(protocol)
        return protocol

    def hang_up(self) -> None:
        """Close all connections."""
        for protocol in list(self._protocols):
            protocol.processor.close("the daemon stops")


class SnapshotterServer:
    """Serves a `Snapshotter` at a socket path; `stop` is bounded and may be called twice."""

    def __init__(self, snapshotter: Snapshotter, path: Path, *, mode: int = 0o660) -> None:
        self._path = path
        self._mode = mode
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="snapshots")
        self._service = Service(snapshotter, self._pool)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="snapshotter", daemon=True)
        self._server: _Server | None = None
        self._stopped = False

    def start(self) -> None:
        """Listen. A socket that a process before this one left is replaced; `OSError` where the path cannot be used."""
        # The socket must never be open to others, not even for a moment: the umask is the process's, so the folder
        # decides. It is made closed where it does not exist.
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        os.chmod(self._path, self._mode)

    async def _listen(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        # Windows of 4 MiB: a List of thousands of snapshots goes out without waiting for the caller.
        config = Configuration(http2_connection_window_size=4 << 20, http2_stream_window_size=4 << 20)
        self._server = _Server(self._service, config)
        await self._server.start(path=str(self._path))

    def stop(self, grace: float = 5.0) -> None:
        """Take no more calls, let those that run end for `grace` seconds, then cancel them; remove the socket."""
        if self._stopped or not self._thread.is_alive():
            return
        self._stopped = True
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        ending = asyncio.run_coroutine_threadsafe(self._end(grace), self._loop)
        with contextlib.suppress(TimeoutError):
            ending.result(grace + 2.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(1.0)
        if not self._thread.is_alive():
            self._loop.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _end(self, grace: float) -> None:
        deadline = self._loop.time() + grace
        while self._service.running and self._loop.time() < deadline:
            await asyncio.sleep(_TICK)
        assert self._server is not None
        self._server.close()
        await asyncio.wait_for(self._server.wait_closed(), 1.0)
        self._server.hang_up()
        await asyncio.sleep(0)  # transports close at the loop's next turn
