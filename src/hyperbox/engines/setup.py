"""What has to change in an engine's configuration, as pure functions of its text.

Docker needs two files: `daemon.json` (the containerd image store with HyperBox as its storage driver) and the
`config.toml` of the containerd that dockerd talks to. Kubernetes and `ctr` need only the latter.
"""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT

from hyperbox.api.errors.engines import EngineConfigUnreadable, EngineConfigVersion

NAME = "hyperbox"
"""Name of the snapshotter in engines."""
_CRI = {
    2: ("io.containerd.grpc.v1.cri", "containerd"),
    3: ("io.containerd.cri.v1.images",),
    4: ("io.containerd.cri.v1.images",),
}
_TRANSFER = "io.containerd.transfer.v1.local"
_NEW_VERSION = 2  # every containerd since 1.3 reads it, 2.x included


@dataclass(frozen=True, slots=True)
class Wiring:
    """Where the engine finds HyperBox."""

    socket: Path
    """The snapshotter socket."""
    state: Path
    """HyperBox's state folder, from which the kubelet takes the file system of images."""
    cri: bool = False
    """Whether Kubernetes' containers shall use it too."""


def docker_config(text: str | None, file: Path) -> str:
    """Return `daemon.json` with the containerd image store on HyperBox.

    Raises:
        EngineConfigUnreadable: The text is not a JSON object.
    """
    try:
        config = json.loads(text) if text and text.strip() else {}
    except ValueError as error:
        raise EngineConfigUnreadable(file=file, form="JSON", reason=error) from None
    if not isinstance(config, dict) or not isinstance(config.get("features", {}), dict):
        raise EngineConfigUnreadable(file=file, form="JSON", reason="it (or its `features`) is not an object")
    config["features"] = {**config.get("features", {}), "containerd-snapshotter": True}
    config["storage-driver"] = NAME
    return json.dumps(config, indent=2) + "\n"


def containerd_config(text: str | None, file: Path, wiring: Wiring) -> str:
    """Return `config.toml` (version 2, 3 or 4) with HyperBox as a proxy snapshotter; comments stay.

    Raises:
        EngineConfigUnreadable: The text is not TOML, or a table stands where a value is expected.
        EngineConfigVersion: The version is another one.
    """
    try:
        document = tomlkit.parse(text or f"version = {_NEW_VERSION}\n")
    except TOMLKitError as error:
        raise EngineConfigUnreadable(file=file, form="TOML", reason=error) from None
    if "version" not in document:
        _raise_version(document)
    version = document.get("version", 1)
    if version not in _CRI:
        raise EngineConfigVersion(file=file, version=version)
    plugin = _table(document, file, "proxy_plugins", NAME)
    plugin["type"] = "snapshot"
    plugin["address"] = str(wiring.socket)
    exports = _table(document, file, "proxy_plugins", NAME, "exports")
    exports["root"] = str(wiring.state)
    # The transfer service (2.1+) hands the labels of remote snapshots only to those that ask for them.
    exports["enable_remote_snapshot_annotations"] = "true"
    _unpack_with(document, file)
    if wiring.cri:
        cri = _table(document, file, "plugins", *_CRI[version])
        cri["snapshotter"] = NAME
        cri["disable_snapshot_annotations"] = False
        cri["discard_unpacked_layers"] = False
    return tomlkit.dumps(document)


def _raise_version(document: tomlkit.TOMLDocument) -> None:
    """Make version 2 of a file without version line, as Docker's own containerd package brings it.

    Only a file without plugin tables, whose sole difference between the versions is how plugins are named in lists.
    """
    if "plugins" in document or "proxy_plugins" in document:
        return
    for key in ("disabled_plugins", "required_plugins"):
        if key in document:
            document[key] = ["io.containerd.grpc.v1.cri" if name == "cri" else name for name in document[key]]
    document.add("version", tomlkit.item(_NEW_VERSION))


def _unpack_with(document: tomlkit.TOMLDocument, file: Path) -> None:
    """Let the transfer service unpack into HyperBox, too; a list that is given takes the place of the default one."""
    transfer = _table(document, file, "plugins", _TRANSFER)
    entries = transfer.get("unpack_config")
    if not entries:
        entries = transfer["unpack_config"] = tomlkit.aot()
        _add_unpacking(entries, "overlayfs")
    if not isinstance(entries, list):
        raise EngineConfigUnreadable(file=file, form="TOML", reason=f"`{_TRANSFER}.unpack_config` is not a list")
    if not any(isinstance(entry, MutableMapping) and entry.get("snapshotter") == NAME for entry in entries):
        _add_unpacking(entries, NAME)


def _add_unpacking(entries: list[Any], snapshotter: str) -> None:
    entry = tomlkit.table() if isinstance(entries, AoT) else tomlkit.inline_table()
    entry.update({"platform": "linux", "snapshotter": snapshotter})
    entries.append(entry)


def _table(document: tomlkit.TOMLDocument, file: Path, *path: str) -> MutableMapping[str, Any]:
    here: MutableMapping[str, Any] = document
    for depth, key in enumerate(path):
        if key not in here:
            last = depth == len(path) - 1
            here[key] = tomlkit.table() if last else tomlkit.table(is_super_table=True)
        found = here[key]
        if not isinstance(found, MutableMapping):
            raise EngineConfigUnreadable(file=file, form="TOML", reason=f"`{'.'.join(path)}` is not a table")
        here = found
    return here
