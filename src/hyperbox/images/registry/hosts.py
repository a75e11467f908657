"""Where to ask for a repository: a host's mirrors in order, then the host itself, each with scheme and certificates."""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from hyperbox.api.errors.registry import PlainHttpRefused, RegistrySettingsWrong
from hyperbox.images.reference import DEFAULT_HOST
from hyperbox.images.registry.settings import RegistrySettings, TlsFiles

_DEFAULT_ORIGIN: Final = "registry-1.docker.io"
"""The machine that serves the default host's registry; its name differs from the one in references."""
_NO_FILES: Final = TlsFiles()
_NEEDED: Final = frozenset({"pull", "resolve"})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place that speaks the distribution protocol."""

    base: str
    """URL up to and with `/v2`, without a slash at the end."""
    host: str
    """`name[:port]`: what credentials are looked up by and errors name."""
    origin: bool
    """False for a mirror."""
    tls: TlsFiles = _NO_FILES
    namespace: str = ""
    """A mirror is told with `?ns=` which host it stands for."""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


def is_loopback(host: str) -> bool:
    """Tell whether `name[:port]` is this machine."""
    name = _name(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    return (urlsplit(f"//{host}").hostname or "").lower()


class Endpoints:
    """Finds the endpoints of a host. Pure but for the files in the certificate folders."""

    def __init__(self, settings: RegistrySettings) -> None:
        self._settings = settings

    def of(self, host: str) -> tuple[Endpoint, ...]:
        """Return the mirrors of `host` in order and, last, its origin. Raises `RegistrySettingsWrong`."""
        found = [self._mirror(text, host) for text in self._settings.mirrors.get(host, ())]
        origin = self._endpoint(_DEFAULT_ORIGIN if host == DEFAULT_HOST else host, self._scheme(host), "", origin=True)
        for folder in self._folders(host):
            file = folder / "hosts.toml"
            if file.is_file():
                more, server = self._hosts_file(file, host)
                found += more
                origin = server or origin
                break
        return (*found, origin)

    def tls(self, host: str) -> TlsFiles:
        """Return the certificates for a host that is only redirected to."""
        return self._tls(host)

    def check_plain(self, url: str, *, where: str) -> None:
        """Raise `PlainHttpRefused` when the URL is plain HTTP and nothing allows that."""
        parts = urlsplit(url)
        if parts.scheme == "http" and not self.plain_allowed(parts.netloc.rpartition("@")[2]):
            raise PlainHttpRefused(host=parts.hostname or "?", where=where)

    def plain_allowed(self, host: str) -> bool:
        """Tell whether this host may be asked over plain HTTP."""
        configured = self._settings.plain_http
        return is_loopback(host) or host in configured or _name(host) in configured

    def _scheme(self, host: str) -> str:
        if host in self._settings.plain_http or _name(host) in self._settings.plain_http:
            return "http"
        # Like containerd: a loopback registry speaks plain HTTP unless certificates are set for it.
        secured = self._tls(host) != self._settings.tls or urlsplit(f"//{host}").port == 443
        return "http" if is_loopback(host) and not secured else "https"

    def _mirror(self, text: str, namespace: str) -> Endpoint:
        if "://" not in text:
            text = f"{self._scheme(text)}://{text}"
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RegistrySettingsWrong(file="mirrors", reason=f"{text!r} is neither host nor http(s) URL")
        # `http://` written out is the configuration that plain HTTP needs.
        return self._endpoint(parts.netloc, parts.scheme, parts.path, namespace=namespace)

    def _endpoint(self, host: str, scheme: str, path: str, *, namespace: str = "", origin: bool = False) -> Endpoint:
        path = path.rstrip("/")
        if not path.endswith("/v2"):
            path += "/v2"
        return Endpoint(f"{scheme}://{host}{path}", host, origin, self._tls(host), namespace)

    def _tls(self, host: str) -> TlsFiles:
        settings = self._settings
        if (own := settings.host_tls.get(host)) is not None:
            return own
        for folder in self._folders(host):
            if found := _docker_certificates(folder):
                return replace(found, authorities=settings.tls.authorities + found.authorities)
        return settings.tls

    def _folders(self, host: str) -> Iterator[Path]:
        if "/" in host or host in (".", ".."):
            return
        for parent in self._settings.certs_dirs:
            for name in (host, "_default"):
                folder = parent / name
                if folder.is_dir():
                    yield folder

    def _hosts_file(self, file: Path, host: str) -> tuple[list[Endpoint], Endpoint | None]:
        try:
            document = tomllib.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise RegistrySettingsWrong(file=file, reason=error) from None
        tables = document.get("host", {})
        if not isinstance(tables, dict):
            raise RegistrySettingsWrong(file=file, reason="`host` is not a table")
        found = []
        for url, table in tables.items():
            if not isinstance(table, dict):
                raise RegistrySettingsWrong(file=file, reason=f"host {url!r} is not a table")
            if set(table.get("capabilities", _NEEDED)) >= _NEEDED:
                found.append(self._from_table(file, url, table, host))
        server = document.get("server")
        if isinstance(server, str):
            origin = replace(self._from_table(file, server, document, ""), origin=True)
        elif any(key in document for key in ("ca", "client", "skip_verify")):
            own = _DEFAULT_ORIGIN if host == DEFAULT_HOST else host
            origin = replace(self._from_table(file, f"https://{own}", document, ""), origin=True)
        else:
            origin = None
        return found, origin

    def _from_table(self, file: Path, url: str, table: Mapping[str, Any], namespace: str) -> Endpoint:
        endpoint = self._mirror(url, namespace)
        if table.get("override_path") is True:
            endpoint = replace(endpoint, base=(url if "://" in url else f"https://{url}").rstrip("/"))
        header = table.get("header", {})
        headers = tuple((key, value) for key, value in header.items() if isinstance(value, str))
        if any(key in table for key in ("ca", "client", "skip_verify")):
            endpoint = replace(endpoint, tls=_table_certificates(file, table))
        return replace(endpoint, headers=headers)


def _docker_certificates(folder: Path) -> TlsFiles | None:
    """Return what Docker's layout of a folder holds: CAs as *.crt, client certificates as *.cert with a *.key."""
    authorities = tuple(sorted(folder.glob("*.crt")))
    client = next(((cert, cert.with_suffix(".key")) for cert in sorted(folder.glob("*.cert"))), None)
    return TlsFiles(authorities, client) if authorities or client else None


def _table_certificates(file: Path, table: Mapping[str, Any]) -> TlsFiles:
    def paths(value: Any) -> tuple[Path, ...]:
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in texts):
            raise RegistrySettingsWrong(file=file, reason="`ca` and `client` take file names")
        return tuple(file.parent / text for text in texts)

    authorities = paths(table["ca"]) if "ca" in table else ()
    client: tuple[Path, Path] | None = None
    if "client" in table:
        value = table["client"]
        first = value[0] if isinstance(value, list) and value and isinstance(value[0], list) else value
        pair = paths(first)
        client = (pair[0], pair[-1])
    return TlsFiles(authorities, client, verify=table.get("skip_verify") is not True)
