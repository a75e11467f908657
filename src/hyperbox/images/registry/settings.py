"""How registries are reached, as one frozen value: made from the daemon's configuration, or by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

USER_AGENT: Final = "hyperbox"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Certificates for one host. Empty means the system's certificate authorities and no client certificate."""

    authorities: tuple[Path, ...] = ()
    """PEM files of certificate authorities, added to the system's."""
    client: tuple[Path, Path] | None = None
    """PEM files of the client certificate and its key."""
    verify: bool = True
    """False takes any certificate; only a containerd `hosts.toml` with `skip_verify` makes it so."""


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """Everything the client needs to know. Times are seconds."""

    docker_configs: tuple[Path, ...] = (Path("/root/.docker/config.json"),)
    """Credentials as `docker login` keeps them; the first file that knows a host wins."""
    certs_dirs: tuple[Path, ...] = (Path("/etc/containerd/certs.d"), Path("/etc/docker/certs.d"))
    """Folders with one folder a host: containerd's `hosts.toml`, or Docker's `*.crt`, `*.cert` and `*.key`."""
    plain_http: frozenset[str] = frozenset()
    """Hosts (`name:port`) that are asked over plain HTTP. Loopback always may be."""
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For a registry's host, its mirrors in order: `name:port` or a URL with path. The origin comes after them."""
    tls: TlsFiles = TlsFiles()
    """Certificates for every host."""
    host_tls: Mapping[str, TlsFiles] = field(default_factory=dict)
    """Certificates for single hosts; they win over `tls` and the folders."""
    connect_seconds: float = 10.0
    read_seconds: float = 30.0
    """Longest silence of a connection before it counts as broken."""
    attempts: int = 6
    """Tries of one request at one endpoint, and resumptions of a blob without a byte in between."""
    backoff_seconds: float = 0.25
    """Upper bound of the first pause; each next bound is twice as long."""
    backoff_limit_seconds: float = 15.0
    retry_after_limit_seconds: float = 60.0
    """A registry that asks to stay away longer than this is not waited for."""
    hold_off_seconds: float = 30.0
    """How long a mirror that could not be reached is asked last."""
    helper_seconds: float = 20.0
    """Longest time that a credential helper may take."""
    credential_seconds: float = 300.0
    """How long credentials are remembered before the files and helpers are asked again."""
    document_limit: int = 8 << 20
    """Largest manifest or configuration, in bytes."""
    chunk_bytes: int = 256 << 10
    """Size of the pieces that a blob is read in."""
    connections_per_host: int = 8
    """Idle connections that are kept for the next request."""
    proxies_from_environment: bool = True
    """Obey HTTP_PROXY, HTTPS_PROXY and NO_PROXY; never for loopback."""
