"""A registry on loopback that implements the pull side of the distribution specification, and fails on demand.

It is a real HTTP(S) server: what a test sees is what a client sees on a bad day. Faults are told beforehand and are
used up in order, each by the first request that it fits.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import re
import socket
import ssl
import struct
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_GZIP_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass
class Fault:
    """What goes wrong with the next request whose path matches `path`."""

    path: str
    """Regular expression, searched."""
    agent: str = ""
    """Regular expression, searched in the client's User-Agent."""
    status: int = 0
    """Answer with this status and nothing else."""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    """Close the connection after this many bytes of the body."""
    reset: bool = False
    """Close it with RST instead of FIN."""
    stall_after: int | None = None
    """Send this many bytes of the body, then nothing until the simulator closes or the client goes."""
    corrupt: bool = False
    """Flip the bits of the last byte."""
    claim_length: int | None = None
    """Say this Content-Length (the body is cut or zero-filled to it)."""
    ignore_range: bool = False
    wrong_range: bool = False
    """Answer 206 with a Content-Range that begins one byte late."""
    redirect: str = ""
    """Answer 307 to this URL, with the request's path added when it ends with a slash."""
    chunked: bytes | None = None
    """Send the body chunked, without a length, and this many bytes more."""
    before: Callable[[], None] | None = None
    """Called before the answer."""
    times: int = 1


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    """With query."""
    headers: Mapping[str, str]


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class RegistrySimulator:
    """One registry. Use it as a context manager; `host` is its `127.0.0.1:port`."""

    def __init__(self, *, tls: tuple[str, str] | None = None, client_ca: str | None = None) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.auth = "none"
        """`none`, `basic` or `bearer`."""
        self.users: dict[str, str] = {}
        self.refresh_tokens: set[str] = set()
        self.anonymous = False
        """Whether the token service gives tokens to anybody."""
        self.token_life: int | None = 300
        self.tokens: dict[str, str] = {}
        """Valid tokens and the scope each is good for; clear it to make all of them expire."""
        self.realm = ""
        self.connections = 0
        self.closing = threading.Event()
        self._count = 0
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler, self, tls, client_ca)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="registry-simulator", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> RegistrySimulator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"{'https' if self._server.tls else 'http'}://{self.host}"

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.drop_connections()
        self._server.server_close()
        self._thread.join(5)

    # --- content

    def add_blob(self, data: bytes) -> dict[str, Any]:
        self.blobs[digest(data)] = data
        return {"digest": digest(data), "size": len(data)}

    def add_manifest(self, repository: str, tag: str | None, document: Any, media_type: str = OCI_MANIFEST) -> str:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        for name in (digest(data), tag):
            if name is not None:
                self.manifests[repository, name] = (media_type, data)
        return digest(data)

    def add_image(
        self,
        repository: str,
        tag: str | None,
        layers: list[tuple[bytes, str]],
        *,
        layer_type: str = OCI_GZIP_LAYER,
        architecture: str = "amd64",
    ) -> dict[str, Any]:
        """Add an image of (blob, diffID) layers; return its manifest's descriptor."""
        config = {
            "architecture": architecture,
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, **self.add_blob(json.dumps(config).encode())},
            "layers": [{"mediaType": layer_type, **self.add_blob(blob)} for blob, _ in layers],
        }
        data = json.dumps(manifest).encode()
        self.add_manifest(repository, tag, data)
        return {"mediaType": OCI_MANIFEST, "digest": digest(data), "size": len(data)}

    def fail(self, path: str, **fault: Any) -> None:
        """Let the next request whose path matches go wrong (see `Fault`)."""
        self.faults.append(Fault(path, **fault))

    # --- looking back

    def paths(self, pattern: str = "") -> list[str]:
        return [request.path for request in self.requests if re.search(pattern, request.path)]

    # --- for the handler

    def take_fault(self, path: str, agent: str = "") -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if re.search(fault.path, path) and re.search(fault.agent, agent):
                    fault.times -= 1
                    if fault.times <= 0:
                        self.faults.remove(fault)
                    return fault
        return None

    def new_token(self, scope: str) -> str:
        with self._lock:
            self._count += 1
            token = f"token-{self._count}"
            self.tokens[token] = scope
        return token


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        address: tuple[str, int],
        handler: type[_Handler],
        simulator: RegistrySimulator,
        tls: tuple[str, str] | None,
        client_ca: str | None,
    ) -> None:
        self.simulator = simulator
        self.tls: ssl.SSLContext | None = None
        self._open: set[socket.socket] = set()
        super().__init__(address, handler)
        if tls is not None:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(*tls)
            if client_ca is not None:
                self.tls.load_verify_locations(client_ca)
                self.tls.verify_mode = ssl.CERT_REQUIRED

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.simulator.connections += 1
        self._open.add(request)
        try:
            if self.tls is not None:
                request = self.tls.wrap_socket(request, server_side=True)
                self._open.add(request)
            elif request.recv(1, socket.MSG_PEEK) == b"\x16":
                # A TLS greeting: engines go over to plain HTTP when they read an answer in it.
                request.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
                return
            super().finish_request(request, client_address)
            if self.tls is not None:
                request.close()
        finally:
            self._open.discard(request)

    def drop_connections(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that goes away in the middle is what many tests are about.
        return


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.simulator = self.server.simulator

    def log_message(self, *args: Any) -> None:
        return

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.simulator.requests.append(Request(self.command, self.path, dict(self.headers.items())))
        fault = self.simulator.take_fault(self.path, self.headers.get("User-Agent", "")) or Fault("")
        if fault.before is not None:
            fault.before()
        path = urllib.parse.urlsplit(self.path).path
        if fault.redirect:
            target = fault.redirect + self.path.lstrip("/") if fault.redirect.endswith("/") else fault.redirect
            self._answer(307, {"Location": target}, b"")
        elif fault.status:
            self._answer(fault.status, fault.headers, b'{"errors":[]}')
        elif path == "/token":
            self._token(body)
        elif not self._allowed(path):
            self._challenge(path)
        else:
            self._content(path, fault)

    # --- authentication

    def _scope(self, path: str) -> str:
        match = re.match(r"/v2/(.+)/(?:blobs|manifests|tags)/", path)
        return f"repository:{match[1]}:pull" if match else ""

    def _allowed(self, path: str) -> bool:
        simulator = self.simulator
        header = self.headers.get("Authorization", "")
        if simulator.auth == "basic":
            return self._basic_user() is not None
        if simulator.auth == "bearer":
            return simulator.tokens.get(header.removeprefix("Bearer ")) == self._scope(path)
        return True

    def _basic_user(self) -> str | None:
        header = self.headers.get("Authorization", "")
        if not header.startswith("Basic "):
            return None
        user, _, password = base64.b64decode(header[6:]).decode().partition(":")
        return user if self.simulator.users.get(user) == password else None

    def _challenge(self, path: str) -> None:
        realm = self.simulator.realm or f"{self.simulator.url}/token"
        challenge = 'Basic realm="simulator"'
        if self.simulator.auth == "bearer":
            challenge = f'Bearer realm="{realm}",service="simulator",scope="{self._scope(path)}"'
        self._answer(401, {"WWW-Authenticate": challenge}, b'{"errors":[{"code":"UNAUTHORIZED"}]}')

    def _token(self, body: bytes) -> None:
        simulator = self.simulator
        if self.command == "POST":
            fields = dict(urllib.parse.parse_qsl(body.decode()))
            allowed = (
                fields.get("grant_type") == "refresh_token" and fields["refresh_token"] in simulator.refresh_tokens
            )
        else:
            fields = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
            allowed = simulator.anonymous if "Authorization" not in self.headers else self._basic_user() is not None
        if not allowed:
            self._answer(401, {}, b"{}")
            return
        answer: dict[str, Any] = {"token": simulator.new_token(fields.get("scope", ""))}
        if simulator.token_life is not None:
            answer["expires_in"] = simulator.token_life
        self._answer(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    # --- content

    def _content(self, path: str, fault: Fault) -> None:
        if path in ("/v2", "/v2/"):
            self._answer(200, {}, b"{}")
        elif match := re.fullmatch(r"/v2/(.+)/manifests/([^/]+)", path):
            found = self.simulator.manifests.get((match[1], match[2]))
            if found is None:
                self._answer(404, {}, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
            else:
                headers = {"Content-Type": found[0], "Docker-Content-Digest": digest(found[1])}
                self._body(found[1], headers, fault)
        elif match := re.fullmatch(r"/v2/(.+)/blobs/([^/]+)", path):
            data = self.simulator.blobs.get(match[2])
            if data is None:
                self._answer(404, {}, b'{"errors":[{"code":"BLOB_UNKNOWN"}]}')
            else:
                self._body(data, {"Content-Type": "application/octet-stream"}, fault)
        else:
            self._answer(404, {}, b"{}")

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self, data: bytes, headers: dict[str, str], fault: Fault) -> None:
        if fault.corrupt:
            data = data[:-1] + bytes([data[-1] ^ 0xFF])
        status = 200
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and not fault.ignore_range:
            start = int(asked[1]) + fault.wrong_range
            status, headers["Content-Range"] = 206, f"bytes {start}-{len(data) - 1}/{len(data)}"
            data = data[start:]
        if fault.claim_length is not None:
            data = data[: fault.claim_length].ljust(fault.claim_length, b"\0")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if fault.chunked is None:
            self.send_header("Content-Length", str(len(data)))
        else:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command != "HEAD":
            self._send(data, fault)

    def _send(self, data: bytes, fault: Fault) -> None:
        if fault.chunked is not None:
            for piece in (data, fault.chunked):
                if piece:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        elif fault.cut_after is not None:
            self.wfile.write(data[: fault.cut_after])
            if fault.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
        elif fault.stall_after is not None:
            self.wfile.write(data[: fault.stall_after])
            self.wfile.flush()
            # Ends when the client gives up (a read returns nothing) or the simulator closes its connections.
            with contextlib.suppress(OSError):
                self.connection.recv(1)
            self.close_connection = True
        else:
            self.wfile.write(data)


@contextlib.contextmanager
def simulators(count: int) -> Iterator[list[RegistrySimulator]]:
    """Several registries at once."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(RegistrySimulator()) for _ in range(count)]
