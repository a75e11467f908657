"""Requests that come through: authentication, retries with backoff, the next endpoint when one fails."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Mapping
from typing import Final, TypeVar
from urllib.parse import urlencode, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from hyperbox.api.errors import HyperBoxError
from hyperbox.api.errors.registry import (
    ManifestTooLarge,
    PullCancelled,
    RegistryAnswerWrong,
    RegistryBusy,
    RegistryDenied,
    RegistryUnreachable,
)
from hyperbox.images.registry.auth import Again, AuthFlow, GiveUp, TokenRequest, parse_challenges
from hyperbox.images.registry.backoff import LIMITED, RETRIED, Backoff, retry_after
from hyperbox.images.registry.clock import Clock
from hyperbox.images.registry.credentials import CredentialSource
from hyperbox.images.registry.hosts import Endpoint, Endpoints
from hyperbox.images.registry.settings import RegistrySettings
from hyperbox.images.registry.transport import Broken, Transport, describe, discard

_Result = TypeVar("_Result")
_TOKEN_ANSWER_LIMIT: Final = 1 << 20
_MIRROR_ATTEMPTS: Final = 2
"""A mirror is there to be quicker: it gets one second chance, then the next endpoint is asked."""


class Missing(Exception):  # a signal between the layers of the client, never shown
    """The endpoint does not have it (404)."""


class _Limited(Exception):
    def __init__(self, status: int, seconds: float | None) -> None:
        super().__init__(status)
        self.status = status
        self.seconds = seconds


class _Login:
    """The authentication state of one endpoint, shared by its requests."""

    def __init__(self) -> None:
        self.flow = AuthFlow()
        self.loaded: float | None = None
        """When the credentials were looked up; None before."""
        self.lock = threading.Lock()


class Session:
    """Sends GET requests to endpoints, logged in where that is asked for. Thread-safe."""

    def __init__(self, settings: RegistrySettings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.endpoints = Endpoints(settings)
        self._transport = Transport(settings, self.endpoints)
        self._credentials = CredentialSource(settings)
        self._backoff = Backoff.of(settings)
        self._logins: dict[str, _Login] = {}
        self._held_off: dict[str, float] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close idle connections."""
        self._transport.close()

    def ordered(self, host: str) -> list[Endpoint]:
        """Return the endpoints of a host; those that failed a moment ago come last."""
        now = self.clock.monotonic()
        with self._lock:
            self._held_off = {base: until for base, until in self._held_off.items() if until > now}
            held = set(self._held_off)
        return sorted(self.endpoints.of(host), key=lambda endpoint: endpoint.base in held and not endpoint.origin)

    def hold_off(self, endpoint: Endpoint) -> None:
        """Ask this mirror last for a while."""
        with self._lock:
            self._held_off[endpoint.base] = self.clock.monotonic() + self.settings.hold_off_seconds

    def document(
        self, endpoint: Endpoint, path: str, scope: str, headers: Mapping[str, str], *, what: str, stop: threading.Event
    ) -> tuple[bytes, Mapping[str, str]]:
        """Return a small body and its headers. Raises `Missing`, `ManifestTooLarge` and what `open` raises."""
        limit = self.settings.document_limit

        def read() -> tuple[bytes, Mapping[str, str]]:
            response = self._authorized(endpoint, path, scope, headers)
            return read_limited(response, limit, what), response.headers

        return self.persist(endpoint, read, what=what, stop=stop)

    def open(
        self, endpoint: Endpoint, path: str, scope: str, headers: Mapping[str, str], *, what: str, stop: threading.Event
    ) -> urllib3.BaseHTTPResponse:
        """Return an answer of status 200 or 206 with its body unread.

        Raises `Missing` for 404, and the named errors of an endpoint that cannot or does not want to serve.
        """
        return self.persist(endpoint, lambda: self._authorized(endpoint, path, scope, headers), what=what, stop=stop)

    def persist(
        self, endpoint: Endpoint, action: Callable[[], _Result], *, what: str, stop: threading.Event
    ) -> _Result:
        """Run `action` until it works, with backoff between the tries."""
        failures = 0
        while True:
            if stop.is_set():
                raise PullCancelled(what=what)
            wait: float | None = None
            failure: HyperBoxError
            try:
                return action()
            except Broken as error:
                failure = RegistryUnreachable(host=endpoint.host, reason=error)
            except _Limited as limited:
                wait = limited.seconds
                failure = RegistryBusy(
                    host=endpoint.host, status=limited.status, seconds="?" if wait is None else f"{wait:.0f}"
                )
            failures += 1
            pause = self._backoff.pause(failures, self.clock.chance(), wait)
            if pause is None or (not endpoint.origin and failures >= _MIRROR_ATTEMPTS):
                if not endpoint.origin:
                    self.hold_off(endpoint)
                raise failure
            self.clock.pause(pause, stop)

    def pause_after(self, failures: int, stop: threading.Event) -> bool:
        """Wait before a resumption; False when there have been too many failures in a row."""
        pause = self._backoff.pause(failures, self.clock.chance())
        if pause is None:
            return False
        self.clock.pause(pause, stop)
        return True

    def _authorized(
        self, endpoint: Endpoint, path: str, scope: str, headers: Mapping[str, str]
    ) -> urllib3.BaseHTTPResponse:
        """Send one request, logging in as the endpoint demands; return a 200 or 206."""
        login = self._login(endpoint)
        url = f"{endpoint.base}/{path}"
        if endpoint.namespace:
            url += "?" + urlencode({"ns": endpoint.namespace})
        authorization = self._ahead(endpoint, login, scope)
        rounds = 0
        while True:
            sent = {**dict(endpoint.headers), **headers}
            if authorization is not None:
                sent["Authorization"] = authorization
            response = self._transport.exchange("GET", url, sent, endpoint.tls)
            if response.status != 401:
                return self._checked(endpoint, response, scope)
            challenges = response.headers.getlist("WWW-Authenticate")
            discard(response)
            rounds += 1
            authorization = self._answer(
                endpoint, login, scope, challenges=challenges, sent=authorization, rounds=rounds
            )

    def _login(self, endpoint: Endpoint) -> _Login:
        with self._lock:
            login = self._logins.get(endpoint.base)
            if login is None:
                login = self._logins[endpoint.base] = _Login()
            return login

    def _ahead(self, endpoint: Endpoint, login: _Login, scope: str) -> str | None:
        # Holding the lock over the token request lets the other threads wait for that token instead of asking, too.
        with login.lock:
            request = login.flow.ahead(scope, self.clock.monotonic())
            if request is not None:
                self._load(endpoint, login)
                request = login.flow.ahead(scope, self.clock.monotonic()) or request
                # Refused a token, this request may still need none: its own answer decides.
                with contextlib.suppress(RegistryDenied):
                    self._fetch_token(endpoint, login, request, scope)
            return login.flow.header(scope, self.clock.monotonic())

    def _answer(
        self, endpoint: Endpoint, login: _Login, scope: str, *, challenges: list[str], sent: str | None, rounds: int
    ) -> str | None:
        with login.lock:
            if rounds > 1:
                login.loaded = None  # somebody may have logged in again: look at the files
            self._load(endpoint, login)
            decision = login.flow.unauthorized(
                parse_challenges(challenges), scope, sent=sent, rounds=rounds, now=self.clock.monotonic()
            )
            match decision:
                case GiveUp(reason):
                    raise RegistryDenied(host=endpoint.host, repository=_repository(scope), reason=reason)
                case TokenRequest():
                    self._fetch_token(endpoint, login, decision, scope)
                case Again():
                    pass
            return login.flow.header(scope, self.clock.monotonic())

    def _load(self, endpoint: Endpoint, login: _Login) -> None:
        # Credentials are looked up when something asks for them, so that a broken helper cannot hurt a registry
        # that is open to everybody.
        now = self.clock.monotonic()
        if login.loaded is None or now - login.loaded > self.settings.credential_seconds:
            login.flow.credentials = self._credentials.lookup(endpoint.host)
            login.loaded = now

    def _fetch_token(self, endpoint: Endpoint, login: _Login, request: TokenRequest, scope: str) -> None:
        host = urlsplit(request.url).netloc
        if endpoint.base.startswith("https"):
            self.endpoints.check_plain(request.url, where=f"token service of {endpoint.host}")
        response = self._transport.exchange(
            request.method, request.url, request.headers, self.endpoints.tls(host), request.body
        )
        if response.status in (400, 401, 403):
            discard(response)
            reason = f"the token service {host} answers {response.status}"
            raise RegistryDenied(host=endpoint.host, repository=_repository(scope), reason=reason)
        self._transient(response)
        if response.status != 200:
            discard(response)
            raise RegistryAnswerWrong(host=host, reason=f"status {response.status} for a token")
        try:
            answer = json.loads(read_limited(response, _TOKEN_ANSWER_LIMIT, "the token"))
            login.flow.granted(request, answer, self.clock.monotonic())
        except (ValueError, RecursionError) as error:
            raise RegistryAnswerWrong(host=host, reason=error) from None

    def _checked(self, endpoint: Endpoint, response: urllib3.BaseHTTPResponse, scope: str) -> urllib3.BaseHTTPResponse:
        if response.status in (200, 206):
            return response
        self._transient(response)
        discard(response)
        if response.status == 404:
            raise Missing
        if response.status == 403:
            raise RegistryDenied(host=endpoint.host, repository=_repository(scope), reason="status 403")
        raise RegistryAnswerWrong(host=endpoint.host, reason=f"status {response.status}")

    def _transient(self, response: urllib3.BaseHTTPResponse) -> None:
        """Raise the signal to try again for the statuses that pass by themselves."""
        if response.status not in RETRIED:
            return
        seconds = retry_after(response.headers, self.clock.wall())
        discard(response)
        if response.status in LIMITED:
            raise _Limited(response.status, seconds)
        raise Broken(f"status {response.status}")


def _repository(scope: str) -> str:
    return scope.split(":")[1] if scope.count(":") >= 2 else scope


def read_limited(response: urllib3.BaseHTTPResponse, limit: int, what: str) -> bytes:
    """Read a whole body of at most `limit` bytes. Raises `ManifestTooLarge`, `Broken`."""
    parts: list[bytes] = []
    total = 0
    try:
        while part := response.read(min(64 << 10, limit + 1 - total), decode_content=False):
            parts.append(part)
            total += len(part)
            if total > limit:
                response.close()
                raise ManifestTooLarge(what=what, limit=limit)
    except (HTTPError, OSError) as error:
        raise Broken(describe(error)) from error
    response.release_conn()
    return b"".join(parts)
