"""The snapshotter's gRPC server on a unix socket."""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import grpc

from hyperbox.snapshotter.remote import WAITING
from hyperbox.snapshotter.rpc import handler
from hyperbox.snapshotter.service import Snapshotter

_THREADS: Final = WAITING + 32
"""Prepare may wait in `WAITING` threads at once, and other calls must not feel it. Threads are made when needed."""

_MESSAGE: Final = 16 << 20
"""Bytes of one message, as in containerd's own client."""


class SnapshotterServer:
    """Serves a `Snapshotter` at a socket path; `stop` is bounded and may be called twice."""

    def __init__(self, snapshotter: Snapshotter, path: Path, *, mode: int = 0o660) -> None:
        self._path = path
        self._mode = mode
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="snapshots")
        self._server = grpc.server(
            self._pool,
            handlers=[handler(snapshotter)],
            options=[
                ("grpc.max_receive_message_length", _MESSAGE),
                ("grpc.max_send_message_length", _MESSAGE),
                ("grpc.so_reuseport", 0),
            ],
        )
        self._stopped: threading.Event | None = None

    def start(self) -> None:
        """Listen. A socket that a process before this one left is replaced; `OSError` where the path cannot be used."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        # The socket must never be open to others, not even for a moment: the umask is the process's, so the folder
        # decides. It is made closed where it does not exist.
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._server.add_insecure_port(f"unix:{self._path}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self._path}: {error}") from error
        os.chmod(self._path, self._mode)
        self._server.start()

    def stop(self, grace: float = 5.0) -> None:
        """Take no more calls, let those that run end for `grace` seconds, then cancel them; remove the socket."""
        if self._stopped is None:
            self._stopped = self._server.stop(grace)
        self._stopped.wait(grace + 1.0)
        self._pool.shutdown(wait=False, cancel_futures=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
