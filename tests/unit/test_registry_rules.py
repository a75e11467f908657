"""The registry client's decisions: challenges, tokens, backoff, endpoints, credentials. No network."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbox.api.errors.registry import CredentialHelperFailed, PlainHttpRefused, RegistrySettingsWrong
from hyperbox.images.registry.auth import (
    Again,
    AuthFlow,
    Challenge,
    Credentials,
    GiveUp,
    TokenRequest,
    parse_challenges,
)
from hyperbox.images.registry.backoff import Backoff, retry_after
from hyperbox.images.registry.credentials import CredentialSource
from hyperbox.images.registry.hosts import Endpoints, is_loopback
from hyperbox.images.registry.settings import RegistrySettings, TlsFiles

SCOPE = "repository:a/b:pull"
BEARER = Challenge("bearer", {"realm": "https://auth.example/token?x=1", "service": "s", "scope": SCOPE})


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Basic realm="a, b"', [("basic", {"realm": "a, b"})]),
        ('Bearer realm="https://a/t",service="x",scope="repository:a:pull,push"',
         [("bearer", {"realm": "https://a/t", "service": "x", "scope": "repository:a:pull,push"})]),
        ('Negotiate, Basic realm=x, Bearer realm="y\\"z"',
         [("negotiate", {}), ("basic", {"realm": "x"}), ("bearer", {"realm": 'y"z'})]),
        ("", []), ("=", []), ('a="b"', []), ("BASIC", [("basic", {})]),
    ],
)  # fmt: skip
def test_challenges(header: str, expected: list[tuple[str, dict[str, str]]]):
    assert [(c.scheme, dict(c.parameters)) for c in parse_challenges([header])] == expected


@given(st.lists(st.text(max_size=80), max_size=3))
def test_any_challenge_is_survived(headers: list[str]):
    for challenge in parse_challenges(headers):
        assert challenge.scheme == challenge.scheme.lower()


def ask(flow: AuthFlow, *challenges: Challenge, sent: str | None = None, rounds: int = 1, now: float = 0.0):
    return flow.unauthorized(challenges, SCOPE, sent=sent, rounds=rounds, now=now)


def test_anonymous_token_until_it_expires():
    flow = AuthFlow()
    request = ask(flow, BEARER)
    assert isinstance(request, TokenRequest)
    assert request.method == "GET"
    assert "Authorization" not in request.headers
    assert parse_qs(urlsplit(request.url).query) == {"x": ["1"], "service": ["s"], "scope": [SCOPE]}
    flow.granted(request, {"access_token": "abc", "expires_in": 100}, now=10.0)
    assert flow.header(SCOPE, 99.0) == "Bearer abc"
    assert flow.header("repository:other:pull", 99.0) is None
    assert flow.header(SCOPE, 100.5) is None
    ahead = flow.ahead(SCOPE, 100.5)
    assert ahead is not None
    assert ahead.scope == SCOPE


def test_password_goes_to_the_token_service_only():
    flow = AuthFlow(Credentials("me", "secret"))
    request = ask(flow, Challenge("basic"), BEARER)
    assert isinstance(request, TokenRequest)
    assert request.headers["Authorization"] == "Basic " + base64.b64encode(b"me:secret").decode()
    assert parse_qs(urlsplit(request.url).query)["account"] == ["me"]
    assert flow.header(SCOPE, 0.0) is None
    assert "secret" not in repr(flow.credentials) + repr(request)


def test_identity_token_is_posted():
    request = ask(AuthFlow(Credentials("me", identity_token="refresh")), BEARER)
    assert isinstance(request, TokenRequest)
    assert request.method == "POST"
    assert request.body is not None
    form = dict(parse_qsl(request.body.decode()))
    assert form == {
        "grant_type": "refresh_token", "refresh_token": "refresh", "service": "s", "client_id": "hyperbox",
        "scope": SCOPE,
    }  # fmt: skip


def test_basic():
    assert isinstance(ask(AuthFlow(), Challenge("basic")), GiveUp)
    flow = AuthFlow(Credentials("me", "secret"))
    assert ask(flow, Challenge("basic")) == Again()
    sent = flow.header(SCOPE, 0.0)
    assert sent is not None
    assert isinstance(ask(flow, Challenge("basic"), sent=sent, rounds=2), GiveUp)


def test_a_newer_token_of_another_thread_is_used():
    flow = AuthFlow()
    request = ask(flow, BEARER)
    assert isinstance(request, TokenRequest)
    flow.granted(request, {"token": "new"}, now=0.0)
    assert ask(flow, BEARER, sent="Bearer old") == Again()
    assert isinstance(ask(flow, BEARER, sent="Bearer new"), TokenRequest)


def test_it_ends():
    assert isinstance(ask(AuthFlow(), BEARER, rounds=3), GiveUp)
    assert isinstance(ask(AuthFlow(), Challenge("digest")), GiveUp)
    assert isinstance(ask(AuthFlow()), GiveUp)
    for realm in ("", "ftp://x/", "/relative", "http://[", "javascript:1"):
        assert isinstance(ask(AuthFlow(), Challenge("bearer", {"realm": realm})), GiveUp)


@pytest.mark.parametrize("answer", [[], {}, {"token": ""}, {"token": 5}, {"token": "a\r\nX: y"}, {"token": "a b"}])
def test_token_answers_without_token(answer: object):
    flow = AuthFlow()
    request = ask(flow, BEARER)
    assert isinstance(request, TokenRequest)
    with pytest.raises(ValueError, match="token service"):
        flow.granted(request, answer, 0.0)


@pytest.mark.parametrize("life", [None, "soon", -5, 0, 1])
def test_strange_lives_become_a_minute(life: object):
    flow = AuthFlow()
    request = ask(flow, BEARER)
    assert isinstance(request, TokenRequest)
    flow.granted(request, {"token": "t", "expires_in": life}, 0.0)
    assert flow.header(SCOPE, 53.0) == "Bearer t"
    assert flow.header(SCOPE, 55.0) is None


def test_backoff_doubles_to_a_limit_and_ends():
    backoff = Backoff(attempts=6, first=1.0, limit=5.0, retry_after_limit=60.0)
    assert [backoff.pause(n, 0.5) for n in range(1, 7)] == [0.5, 1.0, 2.0, 2.5, 2.5, None]
    assert backoff.pause(1, 0.5, 7.0) == 7.5
    assert backoff.pause(1, 0.5, 61.0) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("120", 120.0), ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0), ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0), ("soon", None),
     ("", None), ("-1", None), ("²", None), ("9" * 400, 999999999.0)],
)  # fmt: skip
def test_retry_after(value: str, seconds: float | None):
    assert retry_after({"Retry-After": value}, now=10.0) == seconds


def bases(settings: RegistrySettings, host: str) -> list[str]:
    return [endpoint.base for endpoint in Endpoints(settings).of(host)]


def test_endpoints(tmp_path: Path):
    plain = RegistrySettings(certs_dirs=())
    assert bases(plain, "docker.io") == ["https://registry-1.docker.io/v2"]
    assert bases(plain, "registry.example") == ["https://registry.example/v2"]
    assert bases(plain, "localhost:5000") == ["http://localhost:5000/v2"]
    assert bases(plain, "localhost:443") == ["https://localhost:443/v2"]
    more = RegistrySettings(
        certs_dirs=(),
        plain_http=frozenset({"inside.example:5000"}),
        mirrors={"docker.io": ("mirror.example", "inside.example:5000", "http://cache.example/hub/")},
    )
    assert bases(more, "docker.io") == [
        "https://mirror.example/v2",
        "http://inside.example:5000/v2",
        "http://cache.example/hub/v2",
        "https://registry-1.docker.io/v2",
    ]
    assert Endpoints(more).of("docker.io")[0].namespace == "docker.io"
    secured = RegistrySettings(certs_dirs=(), host_tls={"localhost:5000": TlsFiles((tmp_path / "ca.pem",))})
    assert bases(secured, "localhost:5000") == ["https://localhost:5000/v2"]
    with pytest.raises(RegistrySettingsWrong):
        bases(RegistrySettings(certs_dirs=(), mirrors={"a.example": ("ftp://x",)}), "a.example")


def test_containerd_hosts_file(tmp_path: Path):
    folder = tmp_path / "registry.example"
    folder.mkdir()
    (folder / "hosts.toml").write_text(
        """
        server = "https://origin.example"
        ca = "server.pem"
        [host."https://mirror.example/deep/v2"]
          capabilities = ["pull", "resolve"]
          override_path = true
          client = [["client.pem", "key.pem"]]
          [host."https://mirror.example/deep/v2".header]
            x-team = "blue"
        [host."http://push.example"]
          capabilities = ["push"]
        """
    )
    mirror, origin = Endpoints(RegistrySettings(certs_dirs=(tmp_path,))).of("registry.example")
    assert mirror.base == "https://mirror.example/deep/v2"
    assert mirror.headers == (("x-team", "blue"),)
    assert mirror.tls.client == (folder / "client.pem", folder / "key.pem")
    assert (origin.base, origin.origin) == ("https://origin.example/v2", True)
    assert origin.tls.authorities == (folder / "server.pem",)
    (folder / "hosts.toml").write_text("server = [")
    with pytest.raises(RegistrySettingsWrong, match=r"hosts\.toml"):
        Endpoints(RegistrySettings(certs_dirs=(tmp_path,))).of("registry.example")


def test_docker_certificate_folder(tmp_path: Path):
    folder = tmp_path / "localhost:5000"
    folder.mkdir()
    for name in ("ca.crt", "client.cert", "client.key"):
        (folder / name).touch()
    (origin,) = Endpoints(RegistrySettings(certs_dirs=(tmp_path,))).of("localhost:5000")
    assert origin.base.startswith("https://")
    assert origin.tls == TlsFiles((folder / "ca.crt",), (folder / "client.cert", folder / "client.key"))


def test_plain_http_is_for_loopback_or_configured():
    endpoints = Endpoints(RegistrySettings(plain_http=frozenset({"inside.example"})))
    for url in ("http://127.0.0.1:5000/x", "http://[::1]/x", "http://inside.example:80/", "https://any.example/"):
        endpoints.check_plain(url, where="test")
    with pytest.raises(PlainHttpRefused):
        endpoints.check_plain("http://user@outside.example/", where="test")
    assert not is_loopback("127.0.0.1.example")
    assert not is_loopback("10.0.0.1:5000")


def settings_with(tmp_path: Path, config: object) -> RegistrySettings:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    return RegistrySettings(docker_configs=(tmp_path / "absent.json", file))


def auth(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_config_file(tmp_path: Path):
    source = CredentialSource(
        settings_with(
            tmp_path,
            {
                "auths": {
                    "https://index.docker.io/v1/": {"auth": auth("hub:p:w")},
                    "registry.example:5000": {"auth": auth("me:x"), "identitytoken": "tok"},
                    "https://old.example/v1/": {"username": "u", "password": "p"},
                    "empty.example": {},
                }
            },
        )
    )
    assert source.lookup("docker.io") == Credentials("hub", "p:w")
    assert source.lookup("registry-1.docker.io") == Credentials("hub", "p:w")
    assert source.lookup("registry.example:5000") == Credentials("me", identity_token="tok")
    assert source.lookup("old.example") == Credentials("u", "p")
    assert source.lookup("empty.example") is None
    assert source.lookup("unknown.example") is None


@pytest.mark.parametrize("config", [[], {"auths": {"a.example": {"auth": "%%%"}}}])
def test_broken_config_file_is_named(tmp_path: Path, config: object):
    with pytest.raises(RegistrySettingsWrong, match=r"config\.json"):
        CredentialSource(settings_with(tmp_path, config)).lookup("a.example")


def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = tmp_path / "docker-credential-test"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def test_credential_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    helper(
        tmp_path,
        monkeypatch,
        """[ "$1" = get ] || exit 9
        read host
        case $host in
          https://index.docker.io/v1/) echo '{"ServerURL":"x","Username":"hub","Secret":"pw"}';;
          token.example) echo '{"Username":"<token>","Secret":"idt"}';;
          broken.example) echo 'no';;
          angry.example) echo 'locked' >&2; exit 3;;
          *) echo 'credentials not found in native keychain'; exit 1;;
        esac""",
    )
    config = {"credsStore": "test", "auths": {"file.example": {"auth": auth("f:g")}}}
    source = CredentialSource(settings_with(tmp_path, config))
    assert source.lookup("docker.io") == Credentials("hub", "pw")
    assert source.lookup("token.example") == Credentials(identity_token="idt")
    assert source.lookup("file.example") == Credentials("f", "g")
    assert source.lookup("nobody.example") is None
    for host in ("broken.example", "angry.example"):
        with pytest.raises(CredentialHelperFailed, match="test"):
            source.lookup(host)


@pytest.mark.parametrize("name", ["absent-helper", "../evil", "a b"])
def test_helpers_that_cannot_run(tmp_path: Path, name: str):
    source = CredentialSource(settings_with(tmp_path, {"credHelpers": {"a.example": name}}))
    assert source.lookup("b.example") is None
    with pytest.raises(CredentialHelperFailed):
        source.lookup("a.example")


def test_a_helper_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    helper(tmp_path, monkeypatch, "exec tail -f /dev/null")
    (tmp_path / "config.json").write_text('{"credsStore": "test"}')
    settings = RegistrySettings(docker_configs=(tmp_path / "config.json",), helper_seconds=0.2)
    with pytest.raises(CredentialHelperFailed, match=r"0\.2 s"):
        CredentialSource(settings).lookup("a.example")
