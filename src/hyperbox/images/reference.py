"""Image references: the strings people write after `docker pull`, parsed and normalised as Docker and containerd do.

The grammar is that of the distribution project: a name of host and path, then an optional tag, then an optional
digest. A *familiar* name leaves the host out (`alpine`), and then means the default host, with `library/` before a
path of one part.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from hyperbox.api.errors.registry import BadReference

DEFAULT_HOST: Final = "docker.io"
"""The host that a name without one means. Part of the grammar: changing it would change what names mean."""
OFFICIAL_PREFIX: Final = "library/"
"""What stands before a path of one part on the default host."""
DEFAULT_TAG: Final = "latest"
PATH_LIMIT: Final = 255
"""Longest repository path in characters."""

_LEGACY_DEFAULT_HOST: Final = "index.docker.io"
_COMPONENT = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST: Final = re.compile(rf"(?:{_COMPONENT}(?:\.{_COMPONENT})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?", re.ASCII)
_PATH_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH: Final = re.compile(rf"{_PATH_PART}(?:/{_PATH_PART})*", re.ASCII)
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_DIGEST_LENGTHS: Final = {"sha256": 64, "sha384": 96, "sha512": 128}
_DIGEST: Final = re.compile(r"(sha256|sha384|sha512):([a-f0-9]+)", re.ASCII)
_BARE_ID: Final = re.compile(r"[a-f0-9]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reference:
    """One image in one repository. Made by `parse_reference`; all parts are valid and normalised."""

    host: str
    """Host with optional port as written in the name, `docker.io` when the name had none."""
    path: str
    """Repository path within the host, `library/` included."""
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"

    @property
    def repository(self) -> str:
        """Host and path: the full name without tag and digest."""
        return f"{self.host}/{self.path}"

    @property
    def target(self) -> str:
        """What to ask the registry's manifest endpoint for: the digest where there is one, else the tag."""
        return self.digest or self.tag or DEFAULT_TAG

    @property
    def familiar(self) -> str:
        """The short form that `docker image ls` shows."""
        name = self.repository
        if self.host == DEFAULT_HOST:
            name = self.path.removeprefix(OFFICIAL_PREFIX) if self.path.count("/") == 1 else self.path
            # A short form that would be read as host and path keeps its long one.
            if "/" in name and _looks_like_host(name.partition("/")[0]):
                name = self.repository
        return str(self).replace(self.repository, name, 1)

    def with_digest(self, digest: str) -> Reference:
        """Return the same name and tag pinned to `digest`. Raises `BadReference` when that is none."""
        check_digest(digest)
        return replace(self, digest=digest)


def is_digest(text: str) -> bool:
    """Tell whether `text` is a digest of an algorithm that HyperBox can check, in its canonical spelling."""
    match = _DIGEST.fullmatch(text)
    return match is not None and len(match[2]) == _DIGEST_LENGTHS[match[1]]


def check_digest(text: str) -> str:
    """Return `text`, or raise `BadReference` when it is not a digest."""
    if not is_digest(text):
        raise BadReference(reference=text, reason="the digest is not sha256, sha384 or sha512 in lower-case hex")
    return text


def parse_reference(text: str) -> Reference:
    """Parse and normalise an image reference; without tag and digest it gets the tag `latest`.

    Raises `BadReference`.
    """
    if _BARE_ID.fullmatch(text):
        raise BadReference(reference=text, reason="64 hex digits are an image ID, not a name")
    rest, digest = _split_digest(text)
    host, remainder = _split_host(rest)
    path, tag = _split_tag(text, remainder)
    _check_name(text, host, path)
    if tag is None and digest is None:
        tag = DEFAULT_TAG
    return Reference(host, path, tag, digest)


def _split_digest(text: str) -> tuple[str, str | None]:
    rest, at, digest = text.partition("@")
    if not at:
        return rest, None
    if not is_digest(digest):
        raise BadReference(reference=text, reason="what stands after @ is not a sha256, sha384 or sha512 digest")
    return rest, digest


def _looks_like_host(part: str) -> bool:
    return "." in part or ":" in part or part == "localhost" or part != part.lower()


def _split_host(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if slash and _looks_like_host(first):
        host, remainder = first, rest
    else:
        host, remainder = DEFAULT_HOST, text
    if host == _LEGACY_DEFAULT_HOST:
        host = DEFAULT_HOST
    if host == DEFAULT_HOST and "/" not in remainder:
        remainder = OFFICIAL_PREFIX + remainder
    return host, remainder


def _split_tag(text: str, remainder: str) -> tuple[str, str | None]:
    path, colon, tag = remainder.partition(":")
    if not colon:
        return path, None
    if not _TAG.fullmatch(tag):
        raise BadReference(reference=text, reason="a tag has 1 to 128 letters, digits, _ . and -, no . or - first")
    return path, tag


def _check_name(text: str, host: str, path: str) -> None:
    if not _HOST.fullmatch(host):
        raise BadReference(reference=text, reason=f"{host!r} is not a host")
    if len(path) > PATH_LIMIT:
        raise BadReference(reference=text, reason=f"the repository path is longer than {PATH_LIMIT} characters")
    if path != path.lower():
        raise BadReference(reference=text, reason="the repository path has upper-case letters")
    if not _PATH.fullmatch(path):
        raise BadReference(reference=text, reason="the repository path has an empty part or a character not allowed")
