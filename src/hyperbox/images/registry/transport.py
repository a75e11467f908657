"""Single HTTP exchanges on urllib3: connection pools, TLS, redirects. No retries and no authentication here.

What may pass by itself raises `Broken`; what will not raises a named error.
"""

from __future__ import annotations

import ssl
import threading
import urllib.request
from collections.abc import Mapping
from typing import Final
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, LocationParseError, MaxRetryError, SSLError

from hyperbox.api.errors.registry import RegistryAnswerWrong, RegistrySettingsWrong, RegistryTlsFailed
from hyperbox.images.registry.hosts import Endpoints, is_loopback
from hyperbox.images.registry.settings import USER_AGENT, RegistrySettings, TlsFiles

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS: Final = 5
_SECRET_HEADERS: Final = frozenset({"authorization", "cookie"})


class Broken(Exception):  # a signal to the retry loop, never shown
    """A connection failed or broke; trying again may help."""


class Transport:
    """Sends one request and follows its redirects. Thread-safe; `close` ends idle connections."""

    def __init__(self, settings: RegistrySettings, endpoints: Endpoints) -> None:
        self._settings = settings
        self._endpoints = endpoints
        self._pools: dict[tuple[TlsFiles | None, str], urllib3.PoolManager] = {}
        self._lock = threading.Lock()
        self._timeout = urllib3.Timeout(connect=settings.connect_seconds, read=settings.read_seconds)

    def exchange(
        self, method: str, url: str, headers: Mapping[str, str], tls: TlsFiles, body: bytes | None = None
    ) -> urllib3.BaseHTTPResponse:
        """Send a request and return the answer with its body unread, whatever its status.

        Follows redirects; a header with a secret never goes to another host, port or scheme. Raises `Broken`,
        `RegistryTlsFailed`, `RegistryAnswerWrong`, `PlainHttpRefused`.
        """
        first = urlsplit(url)
        sent = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers}
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._once(method, url, sent, tls, body)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or not location:
                return response
            discard(response)
            url = urljoin(url, location)
            parts = self._redirected(url, first.scheme, first.hostname or "")
            if (parts.scheme, parts.netloc) != (first.scheme, first.netloc):
                # Blob stores refuse requests with a foreign token, and must not see it.
                sent = {key: value for key, value in sent.items() if key.lower() not in _SECRET_HEADERS}
                tls = self._endpoints.tls(parts.netloc)
            if response.status == 303 or (method == "POST" and response.status in (301, 302)):
                method, body = "GET", None
        raise RegistryAnswerWrong(host=first.hostname, reason=f"more than {_MOST_REDIRECTS} redirects")

    def close(self) -> None:
        """Close idle connections. Answers that are still being read end with their reader."""
        with self._lock:
            pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            pool.clear()

    def _redirected(self, url: str, scheme: str, host: str) -> urllib.parse.SplitResult:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RegistryAnswerWrong(host=host, reason=f"it redirects to {url[:200]!r}")
        if scheme == "https":
            self._endpoints.check_plain(url, where=f"a redirect from {host}")
        return parts

    def _once(
        self, method: str, url: str, headers: Mapping[str, str], tls: TlsFiles, body: bytes | None
    ) -> urllib3.BaseHTTPResponse:
        host = urlsplit(url).netloc
        pool = self._pool(tls if url.startswith("https") else None, self._proxy(url))
        try:
            return pool.request(
                method,
                url,
                headers=headers,
                body=body,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=self._timeout,
            )
        except LocationParseError as error:
            raise RegistryAnswerWrong(host=host, reason=error) from None
        except HTTPError as error:
            if (reason := _certificate_trouble(error)) is not None:
                raise RegistryTlsFailed(host=host, reason=reason) from None
            raise Broken(describe(error)) from error

    def _proxy(self, url: str) -> str:
        parts = urlsplit(url)
        if not self._settings.proxies_from_environment or is_loopback(parts.netloc):
            return ""
        if urllib.request.proxy_bypass(parts.netloc):
            return ""
        return urllib.request.getproxies_environment().get(parts.scheme, "")

    def _pool(self, tls: TlsFiles | None, proxy: str) -> urllib3.PoolManager:
        with self._lock:
            pool = self._pools.get((tls, proxy))
            if pool is None:
                pool = self._pools[tls, proxy] = self._new_pool(tls, proxy)
            return pool

    def _new_pool(self, tls: TlsFiles | None, proxy: str) -> urllib3.PoolManager:
        context = None if tls is None else tls_context(tls)
        size = self._settings.connections_per_host
        if proxy:
            return urllib3.ProxyManager(proxy, maxsize=size, ssl_context=context)
        return urllib3.PoolManager(maxsize=size, ssl_context=context)


def tls_context(tls: TlsFiles) -> ssl.SSLContext:
    """Build a context from certificate files. Raises `RegistrySettingsWrong` naming the file that does not load."""
    context = ssl.create_default_context()
    file = None
    try:
        for file in tls.authorities:
            context.load_verify_locations(file)
        if tls.client is not None:
            file = tls.client[0]
            context.load_cert_chain(*tls.client)
    except OSError as error:  # ssl.SSLError is one
        raise RegistrySettingsWrong(file=file, reason=error) from None
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def discard(response: urllib3.BaseHTTPResponse, limit: int = 64 << 10) -> None:
    """Read a short rest of a body, so that the connection can serve again; drop the connection for a long one."""
    try:
        response.read(limit, decode_content=False)
        if not response.closed and response.read(1, decode_content=False):
            response.close()
    except (HTTPError, OSError):
        response.close()
    response.release_conn()


def describe(error: BaseException) -> str:
    """Return what went wrong in a few words, without urllib3's object names."""
    text = str(error) or type(error).__name__
    if text.startswith(("<", "HTTP")) and ": " in text:
        text = text.partition(": ")[2]
    return text[:300]


def _certificate_trouble(error: HTTPError) -> str | None:
    """Return why TLS can never work here, None for trouble that may pass."""
    cause: BaseException | None = error.reason if isinstance(error, MaxRetryError) else error
    if not isinstance(cause, SSLError):
        return None
    inner = cause.args[0] if cause.args else None
    if isinstance(inner, ssl.SSLCertVerificationError):
        return inner.verify_message or str(inner)
    text = str(inner or cause)
    alert = any(word in text for word in ("ALERT", "WRONG_VERSION_NUMBER", "UNSUPPORTED_PROTOCOL", "CERTIFICATE"))
    return text[:300] if alert else None
