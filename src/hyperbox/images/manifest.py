"""Manifests, indexes and image configurations: foreign JSON read strictly where it matters, tolerantly elsewhere.

Strict: digests, sizes, media types, the number of layers against the number of diffIDs, a document that could be read
as two kinds. Tolerant: unknown fields, missing media types, missing platforms. Everything that is wrong raises
`ManifestMalformed`, `ManifestTooLarge` or `ManifestUnsupported`, never a KeyError.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NoReturn

from hyperbox.api.errors.registry import ManifestMalformed, ManifestTooLarge, ManifestUnsupported
from hyperbox.images import media
from hyperbox.images.platform import Platform, rank
from hyperbox.images.reference import is_digest

DOCUMENT_LIMIT: Final = 8 << 20
"""Largest manifest, index or configuration that is read. The distribution specification asks registries to take
4 MiB; containerd reads 8 MiB, and what the engine can pull HyperBox should not refuse."""
LAYER_LIMIT: Final = 1000
ENTRY_LIMIT: Final = 10_000
"""Most manifests in one index."""
_SIZE_LIMIT: Final = 1 << 60
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a blob or manifest is, how long, and its digest."""

    media_type: str
    digest: str
    size: int
    """Bytes; negative only in descriptors made by hand, for a blob of which just the digest is known."""
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    urls: tuple[str, ...] = ()
    platform: Platform | None = None
    artifact_type: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image (or artifact): its configuration and its layers, lowest first."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    subject: Descriptor | None = None
    artifact_type: str = ""


@dataclass(frozen=True, slots=True)
class Index:
    """Several manifests, usually one a platform."""

    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    subject: Descriptor | None = None
    artifact_type: str = ""

    def ranked(self, wanted: Platform) -> list[Descriptor]:
        """Return the entries that may serve `wanted`, best first.

        Entries without a platform come last: only their configuration can tell.
        """
        scored: list[tuple[int, int, Descriptor]] = []
        for position, entry in enumerate(self.manifests):
            score = 1 << 20 if entry.platform is None else rank(wanted, entry.platform)
            if score is not None:
                scored.append((score, position, entry))
        return [entry for _, _, entry in sorted(scored, key=lambda item: item[:2])]


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The parts of an image configuration that HyperBox uses, and the whole document beside them."""

    platform: Platform
    diff_ids: tuple[str, ...]
    document: Mapping[str, Any] = field(hash=False, compare=False, repr=False)

    @property
    def chain_ids(self) -> tuple[str, ...]:
        """The chain ID of each layer, lowest first."""
        return chain_ids(self.diff_ids)


def chain_ids(diff_ids: Sequence[str]) -> tuple[str, ...]:
    """Return the chain ID of each layer of a stack: the first is its diffID, each next hashes parent and diffID."""
    chain: list[str] = []
    for diff_id in diff_ids:
        if chain:
            joined = f"{chain[-1]} {diff_id}".encode()
            chain.append(f"sha256:{hashlib.sha256(joined).hexdigest()}")
        else:
            chain.append(diff_id)
    return tuple(chain)


def digest_of(data: bytes, like: str = "sha256:") -> str:
    """Return the digest of `data` in the algorithm that the digest `like` uses."""
    algorithm = like.partition(":")[0]
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def parse_document(data: bytes, *, what: str, content_type: str = "") -> Manifest | Index:
    """Parse a manifest or an index; `what` names it in errors, `content_type` helps where the document says nothing."""
    fields = _object(_load(data, what), what, "the document")
    media_type = _media_type(fields, what, media.bare(content_type))
    if media_type in media.INDEXES:
        _refuse(fields, ("config", "layers"), what)
        return _index(fields, media_type, what)
    _refuse(fields, ("manifests",), what)
    return _manifest(fields, media_type, what)


def parse_config(data: bytes, *, what: str) -> ImageConfig:
    """Parse an image configuration of OCI or Docker."""
    document = _object(_load(data, what), what, "the document")
    rootfs = _object(document.get("rootfs"), what, "rootfs")
    if rootfs.get("type", "layers") != "layers":
        _bad(what, f"rootfs has type {rootfs.get('type')!r}")
    diff_ids = _array(rootfs.get("diff_ids"), what, "rootfs.diff_ids", LAYER_LIMIT)
    for diff_id in diff_ids:
        if not (isinstance(diff_id, str) and is_digest(diff_id)):
            _bad(what, f"{diff_id!r:.80} is not a diffID")
    return ImageConfig(_platform(document, what), tuple(diff_ids), document)


def check_layers(manifest: Manifest, config: ImageConfig, *, what: str) -> None:
    """Raise `ManifestMalformed` unless each layer of the manifest has its diffID in the configuration."""
    if len(manifest.layers) != len(config.diff_ids):
        _bad(what, f"{len(manifest.layers)} layers and {len(config.diff_ids)} diffIDs")


def _load(data: bytes, what: str) -> Any:
    if len(data) > DOCUMENT_LIMIT:
        raise ManifestTooLarge(what=what, limit=DOCUMENT_LIMIT)
    try:
        return json.loads(data.decode("utf-8"), parse_constant=lambda name: _bad(what, f"{name} is not JSON"))
    except (ValueError, RecursionError) as error:
        _bad(what, f"it is not JSON ({str(error)[:120] or type(error).__name__})")


def _bad(what: str, reason: str) -> NoReturn:
    raise ManifestMalformed(what=what, reason=reason)


def _object(value: Any, what: str, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _bad(what, f"{where} is not an object")
    return value


def _array(value: Any, what: str, where: str, limit: int) -> list[Any]:
    # Go writes an empty slice as null.
    if value is None:
        return []
    if not isinstance(value, list):
        _bad(what, f"{where} is not an array")
    if len(value) > limit:
        _bad(what, f"{where} has more than {limit} entries")
    return value


def _text(fields: Mapping[str, Any], key: str, what: str) -> str:
    value = fields.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        _bad(what, f"{key} is not a string")
    return value


def _media_type(fields: Mapping[str, Any], what: str, header: str) -> str:
    stated = _text(fields, "mediaType", what)
    if fields.get("schemaVersion") == 1 or stated in media.DOCKER_SCHEMA_1 or header in media.DOCKER_SCHEMA_1:
        raise ManifestUnsupported(what=what, media_type=stated or header or "docker manifest schema 1")
    known = media.MANIFESTS | media.INDEXES
    if stated:
        if stated not in known:
            raise ManifestUnsupported(what=what, media_type=stated)
        return stated
    if header in known:
        return header
    # OCI documents may leave the field out; then their shape decides.
    return media.OCI_INDEX if "manifests" in fields else media.OCI_MANIFEST


def _refuse(fields: Mapping[str, Any], keys: Sequence[str], what: str) -> None:
    # A document that is manifest and index at once means different things to different readers.
    for key in keys:
        if fields.get(key):
            _bad(what, f"it has {key!r}, which its media type must not have")


def _manifest(fields: Mapping[str, Any], media_type: str, what: str) -> Manifest:
    layers = _array(fields.get("layers"), what, "layers", LAYER_LIMIT)
    return Manifest(
        media_type=media_type,
        config=_descriptor(fields.get("config"), what, "config"),
        layers=tuple(_descriptor(layer, what, f"layers[{n}]") for n, layer in enumerate(layers)),
        annotations=_annotations(fields, what),
        subject=_subject(fields, what),
        artifact_type=_text(fields, "artifactType", what),
    )


def _index(fields: Mapping[str, Any], media_type: str, what: str) -> Index:
    entries = _array(fields.get("manifests"), what, "manifests", ENTRY_LIMIT)
    return Index(
        media_type=media_type,
        manifests=tuple(_descriptor(entry, what, f"manifests[{n}]") for n, entry in enumerate(entries)),
        annotations=_annotations(fields, what),
        subject=_subject(fields, what),
        artifact_type=_text(fields, "artifactType", what),
    )


def _subject(fields: Mapping[str, Any], what: str) -> Descriptor | None:
    subject = fields.get("subject")
    return None if subject is None else _descriptor(subject, what, "subject")


def _descriptor(value: Any, what: str, where: str) -> Descriptor:
    fields = _object(value, what, where)
    digest = _text(fields, "digest", what)
    if not is_digest(digest):
        _bad(what, f"{where} has no digest that can be checked: {digest!r:.100}")
    size = fields.get("size")
    # bool is an int to Python and not a number to JSON.
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < _SIZE_LIMIT:
        _bad(what, f"{where} has no proper size")
    urls = _array(fields.get("urls"), what, f"{where}.urls", 100)
    platform = fields.get("platform")
    return Descriptor(
        media_type=_text(fields, "mediaType", what),
        digest=digest,
        size=size,
        annotations=_annotations(fields, what),
        urls=tuple(url for url in urls if isinstance(url, str)),
        platform=None if platform is None else _platform(_object(platform, what, f"{where}.platform"), what),
        artifact_type=_text(fields, "artifactType", what),
    )


def _platform(fields: Mapping[str, Any], what: str) -> Platform:
    return Platform.of(
        _text(fields, "os", what),
        _text(fields, "architecture", what),
        _text(fields, "variant", what),
        _text(fields, "os.version", what),
    )


def _annotations(fields: Mapping[str, Any], what: str) -> Mapping[str, str]:
    value = fields.get("annotations")
    if not value:
        return _NOTHING
    items = _object(value, what, "annotations").items()
    return MappingProxyType({key: text for key, text in items if isinstance(text, str)})
