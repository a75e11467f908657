"""Judges a machine: what the kernel allows (tried), who we are, and which engine is there and how it is set up."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

from hyperbox.api.errors.engines import EngineUnreachable
from hyperbox.api.messages import Doctor, FeatureState
from hyperbox.api.settings import EngineSettings
from hyperbox.configuration import load_settings
from hyperbox.engines.setup import NAME
from hyperbox.linux import Features, probe

_REQUIRED = frozenset({"mounting", "overlay", "trusted_xattrs", "d_type"})
_DAEMON_JSON = Path("/etc/docker/daemon.json")
_CONFIG_TOML = Path("/etc/containerd/config.toml")


def examine(state: Path | None = None, *, engine: EngineSettings | None = None) -> Doctor:
    """Try everything that HyperBox builds on. Works without a daemon; leaves nothing behind.

    Raises:
        ConfigInvalid: The configuration, which names the state folder, cannot be used.
    """
    if state is None or engine is None:
        settings, _ = load_settings()
        state, engine = state or settings.daemon.state, engine or settings.engine
    features = probe(state)
    rows = [_root(), *_kernel(features), _containerd(engine.containerd_address)]
    rows += [_containerd_config(_CONFIG_TOML), _docker_config(_DAEMON_JSON)]
    missing = [feature.name for feature in features.missing_for_composed]
    return Doctor(
        data_path=features.data_path,
        reason=f"missing: {', '.join(missing)}" if missing else f"kernel {features.kernel_release} has all it needs",
        features=rows,
    )


def _root() -> FeatureState:
    return FeatureState(
        name="root",
        present=os.geteuid() == 0,
        detail=f"user {os.geteuid()}",
        needed_for="everything",
        remedy="Run hyperboxd as root.",
        required=True,
    )


def _kernel(features: Features) -> list[FeatureState]:
    return [
        FeatureState(
            name=f.name,
            present=f.present,
            detail=f.detail,
            needed_for=f.needed_for,
            remedy="" if f.present else f.remedy,
            required=f.name in _REQUIRED,
        )
        for f in features
    ]


def _containerd(address: Path) -> FeatureState:
    from hyperbox.engines.containerd import Containerd  # noqa: PLC0415 – only where there is a socket to ask

    present, detail = False, f"no socket at {address}"
    if address.exists():
        try:
            detail, present = f"version {Containerd(address).version()}", True
        except EngineUnreachable as error:
            detail = error.message
    return FeatureState(
        name="containerd",
        present=present,
        detail=detail,
        needed_for="running containers",
        remedy="" if present else "Install and start containerd, or name its socket in engine.containerd_address.",
    )


def _containerd_config(file: Path) -> FeatureState:
    present, detail = False, f"no proxy plugin `{NAME}` in {file}"
    try:
        plugin = tomllib.loads(file.read_text()).get("proxy_plugins", {}).get(NAME)
        if plugin:
            present, detail = True, f"proxy plugin at {plugin.get('address')}"
    except OSError as error:
        detail = f"{file}: {error.strerror}"
    except (ValueError, AttributeError) as error:
        detail = f"{file}: {error}"
    return FeatureState(
        name="containerd set up",
        present=present,
        detail=detail,
        needed_for="containerd knowing HyperBox",
        remedy="" if present else "Run `hyperbox setup containerd --apply`.",
    )


def _docker_config(file: Path) -> FeatureState:
    present, detail = False, f"`storage-driver` in {file} is not `{NAME}`"
    try:
        config = json.loads(file.read_text())
        present = config.get("storage-driver") == NAME and bool(config["features"]["containerd-snapshotter"])
        detail = "containerd image store on HyperBox" if present else detail
    except OSError as error:
        detail = f"{file}: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    return FeatureState(
        name="docker set up",
        present=present,
        detail=detail,
        needed_for="Docker running containers on HyperBox",
        remedy="" if present else "Run `hyperbox setup docker --apply`.",
    )
