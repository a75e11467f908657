"""References: the grammar, normalisation, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbox.api.errors.registry import BadReference
from hyperbox.images.reference import Reference, is_digest, parse_reference

SHA = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
        ("library/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("index.docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("me/app", "docker.io/me/app:latest", "me/app:latest"),
        (f"alpine@{SHA}", f"docker.io/library/alpine@{SHA}", f"alpine@{SHA}"),
        (f"alpine:3@{SHA}", f"docker.io/library/alpine:3@{SHA}", f"alpine:3@{SHA}"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest"),
        ("Host/app", "Host/app:latest", "Host/app:latest"),
        ("registry.example:5000/a/b/c:v1", "registry.example:5000/a/b/c:v1", "registry.example:5000/a/b/c:v1"),
        ("[::1]:5000/app:x", "[::1]:5000/app:x", "[::1]:5000/app:x"),
        ("10.0.0.1/app", "10.0.0.1/app:latest", "10.0.0.1/app:latest"),
        ("a__b/c--d/e.f_g", "docker.io/a__b/c--d/e.f_g:latest", "a__b/c--d/e.f_g:latest"),
    ],
)
def test_normalises(text: str, full: str, familiar: str):
    reference = parse_reference(text)
    assert str(reference) == full
    assert reference.familiar == familiar


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "@", "/", "alpine:", "alpine@", "alpine@sha256:abc", f"alpine@md5:{'a' * 32}", "Alpine", "a/B",
        "a//b", "/a", "a/", "a___b", "a..b", "-a", "a-", "a:-x", "a:" + "x" * 129, "a b", "a\n", "a:x\n",
        "a" * 64, "host.example:/a", "host.example:x/a", "-host.example/a", "a/" * 200 + "a", "ä", "registry.example/",
        f"a@{SHA}@{SHA}", "a:b:c", f"a@{SHA.upper()}", "http://a.example/b", "[::1/a",
    ],
)  # fmt: skip
def test_refuses(text: str):
    with pytest.raises(BadReference) as caught:
        parse_reference(text)
    assert caught.value.code == "HB-REGISTRY-001"


_PART = st.from_regex(r"[a-z0-9]{1,8}(?:(?:\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}", fullmatch=True)
_HOST = st.from_regex(
    r"[a-z0-9]{1,8}(?:\.[a-z0-9]{1,8}){1,2}(?::[0-9]{1,5})?|localhost(?::[0-9]{1,5})?", fullmatch=True
)
_TAG = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
_HEX = st.text("0123456789abcdef", min_size=64, max_size=64).map(lambda text: f"sha256:{text}")


@given(_HOST, st.lists(_PART, min_size=1, max_size=4), st.none() | _TAG, st.none() | _HEX)
def test_round_trip(host: str, parts: list[str], tag: str | None, digest: str | None):
    path = "/".join(parts)
    text = f"{host}/{path}" + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    reference = parse_reference(text)
    assert reference.path == path
    assert reference.host == host
    assert reference.target == (digest or tag or "latest")
    assert parse_reference(str(reference)) == reference
    assert parse_reference(reference.familiar) == reference


@given(st.lists(_PART, min_size=1, max_size=3), st.none() | _TAG)
def test_familiar_names_come_back(parts: list[str], tag: str | None):
    path = "/".join(parts)
    try:
        reference = parse_reference(path + (f":{tag}" if tag else ""))
    except BadReference:
        assert len(path) == 64 or "." in parts[0]  # looked like an image ID, or like a host
        return
    assert parse_reference(reference.familiar) == reference
    assert parse_reference(str(reference)) == reference


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text: str):
    try:
        reference = parse_reference(text)
    except BadReference:
        return
    assert isinstance(reference, Reference)
    assert parse_reference(str(reference)) == reference


def test_digests():
    assert is_digest(SHA)
    assert is_digest("sha512:" + "0" * 128)
    assert not is_digest("sha512:" + "0" * 64)
    assert parse_reference("alpine").with_digest(SHA).target == SHA
    with pytest.raises(BadReference):
        parse_reference("alpine").with_digest("latest")
