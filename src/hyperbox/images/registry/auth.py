"""The registry authentication flow as decisions: no socket, no clock, no file in here.

A registry says 401 and how it wants to be convinced; `AuthFlow` says what to do next: send the password, ask a token
service, or give up. It remembers tokens until they expire. The transport carries the decisions out.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode, urlsplit, urlunsplit

from hyperbox.images.registry.settings import USER_AGENT

DEFAULT_TOKEN_SECONDS: Final = 60.0
"""How long a token lives when the service does not say (token specification)."""
_EXPIRY_MARGIN: Final = 0.1
"""Share of a token's life in which it is not used any more: it must still be valid when the request arrives."""
_LONGEST_TOKEN: Final = 1 << 16

_CHALLENGE: Final = re.compile(
    r"""\s*,*\s*(?:
        (?P<key>[!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s,"]*))
      | (?P<scheme>[!#$%&'*+.^_`|~0-9A-Za-z-]+)
    )""",
    re.VERBOSE | re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge of a `WWW-Authenticate` header."""

    scheme: str
    """In lower case: `basic`, `bearer`, …"""
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Parse `WWW-Authenticate` headers; what does not follow the grammar is left out."""
    found: list[tuple[str, dict[str, str]]] = []
    for header in headers:
        position = 0
        while match := _CHALLENGE.match(header, position):
            position = match.end()
            if match["scheme"]:
                found.append((match["scheme"].lower(), {}))
            elif found:
                quoted = match["quoted"]
                value = match["plain"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                found[-1][1][match["key"].lower()] = value
    return [Challenge(scheme, parameters) for scheme, parameters in found]


@dataclass(frozen=True, slots=True)
class Credentials:
    """User name and password, or an identity token (which OAuth2 calls a refresh token)."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str | None:
        """The value of a basic `Authorization` header, None without user name."""
        if not self.username or self.identity_token:
            return None
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode("ascii")


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A request to a token service, ready to be sent."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)
    scope: str
    """What the token will be remembered for: the scope that the client asked with, not the service's spelling."""


@dataclass(frozen=True, slots=True)
class Again:
    """Send the request again: there is something to show now (`AuthFlow.header`)."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """There is nothing left to try."""

    reason: str


@dataclass(slots=True)
class _Token:
    header: str
    expires: float


class AuthFlow:
    """What one endpoint wants to see, and what we have to show. Not thread-safe: the caller holds a lock."""

    ROUNDS: Final = 2
    """How often one request may be answered with 401 before it fails: once unknown, once expired in between."""

    def __init__(self, credentials: Credentials | None = None) -> None:
        self.credentials = credentials
        self._basic = False
        self._bearer: Challenge | None = None
        self._tokens: dict[str, _Token] = {}

    def header(self, scope: str, now: float) -> str | None:
        """Return the `Authorization` header for a request, None to send none."""
        if self._basic and self.credentials is not None:
            return self.credentials.basic
        token = self._tokens.get(scope)
        return token.header if token is not None and now < token.expires else None

    def ahead(self, scope: str, now: float) -> TokenRequest | None:
        """Return the token request that a known endpoint will want anyway: saves the 401 in between."""
        if self._bearer is None or self.header(scope, now) is not None:
            return None
        return self._token_request(self._bearer, scope, keep_scope=False)

    def unauthorized(
        self, challenges: Iterable[Challenge], scope: str, *, sent: str | None, rounds: int, now: float
    ) -> Again | TokenRequest | GiveUp:
        """Decide after a 401 what to do. `sent` is the header that was refused, `rounds` counts 401s, this included."""
        if rounds > self.ROUNDS:
            return GiveUp("the credentials or the token were refused")
        current = self.header(scope, now)
        if current is not None and current != sent:
            return Again()  # another thread has got something newer meanwhile
        by_scheme = {challenge.scheme: challenge for challenge in reversed(list(challenges))}
        if bearer := by_scheme.get("bearer"):
            if not _usable_realm(bearer.parameters.get("realm", "")):
                return GiveUp("the challenge names no token service")
            self._basic = False
            self._bearer = bearer
            self._tokens.pop(scope, None)
            return self._token_request(bearer, scope, keep_scope=True)
        if "basic" in by_scheme:
            return self._try_basic(sent)
        return GiveUp("it asks for a way to log in that is neither basic nor bearer")

    def granted(self, request: TokenRequest, answer: Any, now: float) -> None:
        """Remember the token of a token service's answer. Raises `ValueError` when there is none in it."""
        if not isinstance(answer, dict):
            raise ValueError("the token service's answer is not an object")
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not _printable(token):
            raise ValueError("the token service's answer has no token")
        life = answer.get("expires_in")
        seconds = float(life) if isinstance(life, int | float) and life > 0 else DEFAULT_TOKEN_SECONDS
        # The time of receipt counts, not `issued_at`: clocks differ. A life below 60 s is a mistake of old services.
        seconds = max(seconds, DEFAULT_TOKEN_SECONDS)
        self._tokens[request.scope] = _Token(f"Bearer {token}", now + seconds * (1 - _EXPIRY_MARGIN))
        self._tokens = {scope: kept for scope, kept in self._tokens.items() if now < kept.expires}

    def _try_basic(self, sent: str | None) -> Again | GiveUp:
        basic = self.credentials.basic if self.credentials is not None else None
        if basic is None:
            return GiveUp("it wants a user name and password, and there are none for it")
        if sent == basic:
            return GiveUp("user name or password were refused")
        self._basic = True
        return Again()

    def _token_request(self, challenge: Challenge, scope: str, *, keep_scope: bool) -> TokenRequest:
        realm = challenge.parameters["realm"]
        asked = (challenge.parameters.get("scope") if keep_scope else None) or scope
        fields = [("service", challenge.parameters.get("service", ""))]
        fields = [(key, value) for key, value in fields if value]
        credentials = self.credentials
        if credentials is not None and credentials.identity_token:
            fields += [
                ("grant_type", "refresh_token"),
                ("refresh_token", credentials.identity_token),
                ("client_id", USER_AGENT),
                ("scope", asked),
            ]
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            return TokenRequest("POST", realm, headers, urlencode(fields).encode("ascii"), scope)
        fields += [("scope", one) for one in asked.split()]
        headers = {}
        if credentials is not None and credentials.basic is not None:
            headers["Authorization"] = credentials.basic
            fields.append(("account", credentials.username))
        parts = urlsplit(realm)
        query = "&".join(text for text in (parts.query, urlencode(fields)) if text)
        return TokenRequest("GET", urlunsplit(parts._replace(query=query)), headers, None, scope)


def _usable_realm(realm: str) -> bool:
    try:
        parts = urlsplit(realm)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def _printable(token: str) -> bool:
    # A token becomes a header: a line break in it would become another header.
    return 0 < len(token) <= _LONGEST_TOKEN and token.isascii() and token.isprintable() and " " not in token
