"""A registry on loopback, filled straight from the lab's images, and network distance in front of it.

Images are put into the registry's own storage folder as hard links, in the layout of docker-registry's `filesystem`
driver; that takes milliseconds where a push through HTTP would copy every byte. What is pushed by HTTP works as well.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterable
from pathlib import Path

from .home import remove_tree
from .packages import STABLE, toolbox
from .runs import Child, Run


def free_port() -> int:
    """A TCP port of loopback that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether something accepts connections on a TCP port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _link(source: Path, target: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


class Registry:
    """Debian's docker-registry with a storage folder and a port of its own. A context manager.

    `host` is what stands before the first slash of an image's name; `reference` makes such names.
    """

    def __init__(self, run: Run, name: str = "registry") -> None:
        self.run = run
        self.root = run.data / name
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self._storage = self.root / "storage"
        self._stopped = False
        self._storage.mkdir(parents=True)
        tools = toolbox(run.home, STABLE)
        config = self.root / "registry.json"
        config.write_text(json.dumps(self._config()))  # JSON is YAML
        self._child = run.spawn(name, [tools.program("docker-registry"), "serve", str(config)], env=tools.environment())
        run.on_close(self.stop)
        self._child.wait_for(lambda: listens(self.port))

    def _config(self) -> dict[str, object]:
        return {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(self._storage)},
                "delete": {"enabled": True},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": {"addr": self.host},
        }

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def reference(self, repository: str, tag: str = "latest") -> str:
        """The name by which engines pull an image straight from this registry."""
        return f"{self.host}/{repository}:{tag}"

    def blob_path(self, digest: str) -> Path:
        """Where the registry keeps a blob's bytes."""
        algorithm, _, name = digest.partition(":")
        return self._storage / "docker/registry/v2/blobs" / algorithm / name[:2] / name / "data"

    def add(self, repository: str, tag: str, manifest: str, blobs: Iterable[str], source: Path) -> str:
        """Put an image in: `manifest` and `blobs` are digests (`sha256:…`) of files in the OCI folder `source`.

        Returns the reference to pull.
        """
        folder = self._storage / "docker/registry/v2/repositories" / repository
        for digest in [*blobs, manifest]:
            algorithm, _, name = digest.partition(":")
            _link(source / "blobs" / algorithm / name, self.blob_path(digest))
            _write_link(folder / "_layers" / algorithm / name / "link", digest)
        algorithm, _, name = manifest.partition(":")
        _write_link(folder / "_manifests/revisions" / algorithm / name / "link", manifest)
        _write_link(folder / "_manifests/tags" / tag / "index" / algorithm / name / "link", manifest)
        _write_link(folder / "_manifests/tags" / tag / "current/link", manifest)
        return self.reference(repository, tag)

    def get(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """GET a path of the registry's API; returns status, headers (names in lower case) and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        accept = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json")
        try:
            connection.request("GET", path, headers={"Accept": ", ".join(accept)})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def stop(self) -> None:
        """End the registry and delete its storage. May be called twice."""
        if not self._stopped:
            self._stopped = True
            self._child.stop()
            remove_tree(self.root)


def _write_link(file: Path, digest: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(digest)


class SlowProxy:
    """Distance to a registry: a TCP proxy in a process of its own, see `slow_proxy`. A context manager.

    `host` takes the place of the registry's. All connections share `bits_per_second`; each connection set-up and each
    turn from sending to receiving costs `round_trip` seconds.
    """

    def __init__(
        self, run: Run, registry: Registry, *, round_trip: float = 0.02, bits_per_second: float = 200e6
    ) -> None:
        self.round_trip = round_trip
        self.bits_per_second = bits_per_second
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        command = [
            sys.executable, "-m", f"{__package__}.slow_proxy", "--listen", str(self.port), "--target",
            str(registry.port), "--round-trip", str(round_trip), "--bits-per-second", str(bits_per_second),
        ]  # fmt: skip
        self._child: Child = run.spawn(f"proxy-{self.port}", command)
        run.on_close(self.stop)
        self._child.wait_for(lambda: listens(self.port))

    def __enter__(self) -> SlowProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def reference(self, repository: str, tag: str = "latest") -> str:
        """The name by which engines pull an image through this proxy."""
        return f"{self.host}/{repository}:{tag}"

    def stop(self) -> None:
        """End the proxy. May be called twice."""
        self._child.stop(3)
