"""Settings of the daemon: declared once, with unit, default, reason and version; parsed without I/O.

A value comes from, in falling order: a command-line option, an environment variable (`HYPERBOX_<SECTION>_<KEY>`), the
configuration file (TOML), the default declared here. The reference page of the site is generated from this module.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.config import JsonDict

from hyperbox.api.errors.daemon import ConfigInvalid, ConfigUnreadable

DEFAULT_CONFIG = Path("/etc/hyperbox/hyperbox.conf")
"""Where the daemon looks for its configuration file when nothing else is said."""
PREFIX = "HYPERBOX_"


def setting(default: Any, description: str, *, reason: str, unit: str = "", since: str = "0.1", **limits: Any) -> Any:
    """Declare one setting; `reason` says why the default is what it is."""
    extra: JsonDict = {"unit": unit, "reason": reason, "since": since}
    if isinstance(default, list | dict):
        return Field(default_factory=default.copy, description=description, json_schema_extra=extra, **limits)
    return Field(default, description=description, json_schema_extra=extra, **limits)


class Section(BaseModel):
    """One table of the configuration file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class DaemonSettings(Section):
    """The process itself: where it keeps its things, who may talk to it, how it logs."""

    state: Path = setting(
        Path("/var/lib/hyperbox"),
        "Folder of everything that has to survive a reboot: objects, layers, writable layers, catalogue.",
        reason="The file system hierarchy's place for state; put it on the disk that the engine uses.",
    )
    run: Path = setting(
        Path("/run/hyperbox"),
        "Folder of the sockets and of the mount points of layers.",
        reason="Gone after a reboot, as the mounts are; short, because mount options hold at most 4096 bytes.",
    )
    api_group: str = setting(
        "",
        "Group that may use the control socket beside root; empty for root alone.",
        reason="Whoever can talk to the socket can remove layers.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "Least level that is logged.", reason="One line per pull, compaction and fault; none per RPC."
    )
    log_format: Literal["auto", "console", "json"] = setting(
        "auto",
        "Form of log lines; `auto` is console on a terminal and JSON elsewhere.",
        reason="People and collectors.",
    )
    shutdown_seconds: float = setting(
        10.0,
        "Longest time that a stop waits for calls and background work before it goes on without them.",
        unit="seconds",
        reason="Under the 90 s after which systemd kills.",
        gt=0,
        le=80,
    )


class StoreSettings(Section):
    """Objects and layer metadata on disk."""

    checkpoint_seconds: float = setting(
        5.0,
        "Quiet time after a write until the file system is synchronised and a checkpoint is recorded.",
        unit="seconds",
        reason="What is younger than the last checkpoint is hashed again after a power loss.",
        gt=0,
        le=3600,
    )
    gc_interval_seconds: float = setting(
        900.0,
        "Time between two collections of objects and layers that nothing refers to; 0 switches it off.",
        unit="seconds",
        reason="Removal of an image should show on the disk within a quarter of an hour without being asked.",
        ge=0,
    )
    gc_grace_seconds: float = setting(
        300.0,
        "Age under which an unreferenced layer is not collected.",
        unit="seconds",
        reason="Longer than the time between the fetch of a layer and the snapshot that uses it.",
        ge=0,
    )


class SnapshotterSettings(Section):
    """What the engine sees."""

    data_path: Literal["auto", "composed", "vanilla"] = setting(
        "auto",
        "`composed` builds containers from shared objects, `vanilla` from plain folders; `auto` asks the kernel.",
        reason="Data-only overlay layers need kernel 6.5, file-backed EROFS 6.12 (a loop device serves before).",
    )
    remote_layers: bool = setting(
        True,
        "Fetch the layers of pulled images in HyperBox itself, all at once.",
        reason="Faster than unpacking one by one; off, the engine does it all as without HyperBox.",
    )
    remote_timeout_seconds: float = setting(
        600.0,
        "Longest time that one layer may take before the engine is asked to fetch it itself.",
        unit="seconds",
        reason="Generous for a gigabyte over a slow link; a stalled connection is noticed much earlier.",
        gt=0,
    )
    compaction: bool = setting(
        True,
        "Turn layers that the engine unpacked into shared objects in the background.",
        reason="Built and loaded images share their files, too.",
    )


class ImagesSettings(Section):
    """Fetching and unpacking of layers."""

    concurrent_layers: int = setting(
        4,
        "Layers that are fetched and unpacked at the same time.",
        unit="layers",
        reason="Enough to keep a link and two cores busy; each needs about 8 MiB of memory.",
        ge=1,
        le=64,
    )
    max_layer_bytes: int = setting(
        64 << 30,
        "Largest uncompressed layer that is accepted.",
        unit="bytes",
        reason="A limit against compression bombs that no honest image reaches.",
        ge=1 << 20,
    )
    max_layer_files: int = setting(
        4_000_000,
        "Most files in one layer.",
        unit="files",
        reason="Bounds the memory of the tar reader, about 500 bytes a file.",
        ge=1000,
    )
    keep_blobs: bool = setting(
        False,
        "Hand the compressed layers of pulled images to containerd's content store, too (engine.containerd_address).",
        reason="Only pushing to another registry and saving need them; they take their compressed size of disk again.",
    )


class RegistrySettings(Section):
    """How registries are reached."""

    docker_config: Path = setting(
        Path("/root/.docker/config.json"),
        "Credentials as `docker login` keeps them, with credential helpers.",
        reason="The engine does not hand its credentials to a snapshotter.",
    )
    plain_http: list[str] = setting(
        [],
        "Hosts (`name:port`) that are asked by plain HTTP; loopback always may.",
        reason="As the engine's own list of insecure registries.",
    )
    mirrors: dict[str, list[str]] = setting(
        {},
        "For a registry's host, the mirrors that are asked before it, in order.",
        reason="None, because only you know yours.",
    )
    ca_file: Path | None = setting(
        None, "A further CA certificate file (PEM).", reason="The system's certificates serve public registries."
    )
    connect_seconds: float = setting(
        10.0, "Time-out of a connection attempt.", unit="seconds", reason="As in containerd's resolver.", gt=0
    )
    read_seconds: float = setting(
        30.0,
        "Time without a byte after which a transfer is resumed by another request.",
        unit="seconds",
        reason="Long for a busy registry, short for somebody who waits for a container.",
        gt=0,
    )
    attempts: int = setting(
        6,
        "Tries of one request before it counts as failed.",
        unit="tries",
        reason="About a minute with the backoff between them.",
        ge=1,
        le=100,
    )


class EngineSettings(Section):
    """The engine beside us: asked to name images in `hyperbox image`, and given blobs with `images.keep_blobs`."""

    containerd_address: Path = setting(
        Path("/run/containerd/containerd.sock"),
        "Socket of the containerd that uses HyperBox.",
        reason="containerd's own default; an absent socket only means fewer names.",
    )


class Settings(Section):
    """The whole configuration file, one table a section."""

    daemon: DaemonSettings = Field(default_factory=DaemonSettings)
    store: StoreSettings = Field(default_factory=StoreSettings)
    snapshotter: SnapshotterSettings = Field(default_factory=SnapshotterSettings)
    images: ImagesSettings = Field(default_factory=ImagesSettings)
    registry: RegistrySettings = Field(default_factory=RegistrySettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)


class Declared(BaseModel):
    """One setting as the reference and `config show` list it."""

    section: str
    key: str
    variable: str
    type: str
    unit: str
    default: str
    description: str
    reason: str
    since: str


def declared() -> Iterator[Declared]:
    """Yield every setting in file order."""
    for section, outer in Settings.model_fields.items():
        assert isinstance(outer.annotation, type)
        for key, field in outer.annotation.model_fields.items():
            extra = field.json_schema_extra
            assert isinstance(extra, dict)
            default = field.get_default(call_default_factory=True)
            yield Declared(
                section=section,
                key=key,
                variable=f"{PREFIX}{section}_{key}".upper(),
                type=_type_name(field.annotation),
                default=json.dumps(default, default=str),
                description=field.description or "",
                **{name: str(extra[name]) for name in ("unit", "reason", "since")},
            )


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " | ".join(f'"{value}"' for value in annotation.__args__)
    text = getattr(annotation, "__name__", "") if get_origin(annotation) is None else str(annotation)
    text = text or str(annotation)
    return text.replace("pathlib._local.", "").replace("pathlib.", "").replace("typing.", "")


def _overlay(tables: dict[str, Any], environ: Mapping[str, str]) -> None:
    known = {item.variable: item for item in declared()}
    for name, text in environ.items():
        item = known.get(name)
        if item is None:
            continue
        value: Any = text
        if item.type.startswith(("list", "dict")):
            try:
                value = json.loads(text) if text.startswith(("[", "{")) else [p for p in text.split(",") if p]
            except ValueError as error:
                raise ConfigInvalid(source=name, line=1, key=f"{item.section}.{item.key}", reason=error) from None
        tables.setdefault(item.section, {})[item.key] = value


def parse_settings(
    text: str | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[tuple[str, str], Any] | None = None,
    *,
    source: str = "hyperbox.conf",
) -> Settings:
    """Parse a configuration file's text and lay variables and command-line values over it.

    Raises:
        ConfigUnreadable: The text is not TOML.
        ConfigInvalid: A table or key is unknown, or a value is out of bounds; names file, line and key.
    """
    try:
        tables: dict[str, Any] = tomllib.loads(text or "")
    except tomllib.TOMLDecodeError as error:
        raise ConfigUnreadable(source=source, reason=error) from None
    for section, table in tables.items():
        if section in Settings.model_fields and not isinstance(table, dict):
            raise ConfigInvalid(source=source, line=_line(text, (section,)), key=section, reason="should be a table")
    _overlay(tables, environ or {})
    for (section, key), value in (overrides or {}).items():
        if value is not None:
            tables.setdefault(section, {})[key] = value
    try:
        return Settings.model_validate(tables)
    except ValidationError as error:
        first = error.errors()[0]
        where = tuple(str(part) for part in first["loc"])
        variable = f"{PREFIX}{'_'.join(where[:2])}".upper()
        given = where[:2] in {key for key, value in (overrides or {}).items() if value is not None}
        origin = "the command line" if given else variable if variable in (environ or {}) else source
        unknown = first["type"] == "extra_forbidden"
        reason = "there is no such setting" if unknown else f"{first['msg'].lower()} (found {first['input']!r})"
        line = _line(text, where) if origin == source else 1  # a variable has but one
        raise ConfigInvalid(source=origin, line=line, key=".".join(where), reason=reason) from None


def _line(text: str | None, where: tuple[str, ...]) -> int:
    """Line of a key in TOML text; the table's own line, or 1, when it cannot be told."""
    table, best = "", 1
    for number, line in enumerate((text or "").splitlines(), 1):
        bare = line.strip()
        key = bare.split("=")[0].strip().strip('"')
        if bare.startswith("["):
            table = bare.strip("[] ").split(".")[0]
            if where[:1] == (table,):
                best = number
        elif (table, key) == where[:2] or (key,) == where:
            return number
    return best
