"""The typed client of the daemon's control socket.

from hyperbox import Client
from hyperbox.api import operations

print(Client().call(operations.STATUS).layers)
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import urllib.parse
from pathlib import Path
from typing import TypeVar

from hyperbox.api.environment import SOCKET
from hyperbox.api.errors.base import HyperBoxError, catalogue
from hyperbox.api.errors.daemon import DaemonUnreachable, UnexpectedFailure
from hyperbox.api.messages import Message
from hyperbox.api.operations import Operation

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the unix socket instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """Calls operations of a running `hyperboxd`. Holds no connection between calls; safe to share between threads."""

    def __init__(self, socket_path: str | os.PathLike[str] | None = None, *, timeout: float | None = 600.0) -> None:
        """Name the daemon's socket; `HYPERBOX_SOCKET` or the default place otherwise. `timeout` is in seconds."""
        self.socket_path = Path(socket_path or os.environ.get(SOCKET.name) or SOCKET.default)
        self.timeout = timeout

    def call(self, operation: Operation[Request, Response], request: Request | None = None) -> Response:
        """Perform one operation.

        Raises:
            DaemonUnreachable: Nothing answers on the socket.
            HyperBoxError: The error that the daemon answered with, as the class that was raised there.
        """
        request = request if request is not None else operation.request()
        path, body = operation.path, None
        if operation.method == "GET":
            query = request.model_dump(mode="json", exclude_defaults=True)
            path += "?" + urllib.parse.urlencode(query) if query else ""
        else:
            body = request.model_dump_json().encode()
        status, payload = self._exchange(operation.method, path, body)
        if status != http.HTTPStatus.OK:
            raise _problem(status, payload)
        return operation.response.model_validate_json(payload)

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        connection = _UnixConnection(str(self.socket_path), self.timeout)
        try:
            connection.request(method, path, body, {"content-type": "application/json"} if body else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
            raise DaemonUnreachable(socket=self.socket_path, reason=reason) from None
        finally:
            connection.close()


def _problem(status: int, payload: bytes) -> HyperBoxError:
    try:
        body = json.loads(payload)
        return catalogue()[body["code"]](**body["values"])
    except (ValueError, KeyError, TypeError):
        return UnexpectedFailure(reason=f"HTTP status {status}: {payload[:200].decode(errors='replace')}")
