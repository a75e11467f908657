"""Images as people name them, joined from what the engine has, what snapshots exist and how layers came."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from hyperbox.api.errors import HyperBoxError
from hyperbox.api.errors.engines import EngineUnreachable, ImageUnknown
from hyperbox.api.messages import ImageDetail, ImageLayer, ImageList, ImageRow
from hyperbox.daemon.sharing import unique_bytes
from hyperbox.engines.containerd import Containerd, EngineImage
from hyperbox.images import chain_ids, parse_reference
from hyperbox.images.pull_job import SOURCE
from hyperbox.store import Store
from hyperbox.store.rows import ImageLayer as LayerHistory
from hyperbox.store.rows import ImageRow as History
from hyperbox.store.rows import SnapshotRow

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}


@dataclass(frozen=True, slots=True)
class _Known:
    """One image before its numbers: names, digests and, where HyperBox saw the pull, the history of each layer."""

    name: str
    manifest_digest: str
    platform: str
    digests: tuple[str, ...]
    diff_ids: tuple[str, ...]
    history: tuple[LayerHistory, ...] = ()
    last_used: datetime | None = None


class Images:
    """Answers `image ls`, `inspect` and `explain`."""

    def __init__(self, store: Store, engine: Containerd) -> None:
        self._store = store
        self._engine = engine

    def all(self) -> ImageList:
        """All images of which the engine or the catalogue knows, with at least one layer here."""
        details = self._details()
        rows = [
            ImageRow(
                image=detail.image,
                manifest_digest=detail.manifest_digest,
                platform=detail.platform,
                layers=len(detail.layers),
                composed=sum(layer.form == "composed" for layer in detail.layers),
                size=detail.size,
                unique=detail.unique,
                last_used=known.last_used,
            )
            for known, detail in details
        ]
        return ImageList(images=sorted(rows, key=lambda row: row.image))

    def detail(self, name: str) -> ImageDetail:
        """One image by reference (short forms too) or manifest digest.

        Raises:
            ImageUnknown: It is not here.
        """
        wanted = {name}
        with contextlib.suppress(HyperBoxError):  # a digest, or the name of something that was only loaded
            wanted.add(str(parse_reference(name)))
        for known, detail in self._details():
            if known.name in wanted or known.manifest_digest in wanted:
                return detail
        raise ImageUnknown(image=name)

    def _details(self) -> list[tuple[_Known, ImageDetail]]:
        snapshots = {row.key.rsplit("/", 1)[-1]: row for row in self._store.catalogue.snapshots.list()}
        details = [(known, self._detail(known, snapshots)) for known in self._known()]
        here = [(k, d) for k, d in details if any(layer.form != "absent" for layer in d.layers)]
        owners: dict[str, set[Hashable]] = {}
        for known, detail in here:
            for layer in detail.layers:
                if layer.layer:
                    owners.setdefault(layer.layer, set()).add((known.name, known.manifest_digest))
        unique = unique_bytes(self._store.layers, {layer: frozenset(who) for layer, who in owners.items()})
        return [
            (known, detail.model_copy(update={"unique": unique.get((known.name, known.manifest_digest), 0)}))
            for known, detail in here
        ]

    def _known(self) -> Iterator[_Known]:
        histories = {row.manifest_digest: row for row in self._store.catalogue.images.list()}
        seen: set[tuple[str, str]] = set()
        for image in self._engine_images():
            known = _from_engine(image, histories.get(image.manifest_digest))
            if (known.name, known.manifest_digest) not in seen:
                seen.add((known.name, known.manifest_digest))
                yield known
        digests = {digest for _, digest in seen}
        for row in histories.values():
            if row.manifest_digest not in digests:
                yield _from_history(row)

    def _engine_images(self) -> list[EngineImage]:
        machine = platform.machine()
        try:
            return self._engine.images(_ARCHITECTURES.get(machine, machine))
        except EngineUnreachable:
            return []  # the catalogue still knows what was pulled through HyperBox

    def _detail(self, known: _Known, snapshots: dict[str, SnapshotRow]) -> ImageDetail:
        history = {layer.diff_id: layer for layer in known.history}
        layers = [
            self._layer(index, (digest, diff_id, chain), snapshots.get(chain), history.get(diff_id))
            for index, (digest, diff_id, chain) in enumerate(
                zip(known.digests, known.diff_ids, chain_ids(known.diff_ids), strict=False)
            )
        ]
        return ImageDetail(
            image=known.name,
            manifest_digest=known.manifest_digest,
            platform=known.platform,
            size=sum(layer.size for layer in layers),
            unique=0,
            layers=layers,
        )

    def _layer(
        self,
        index: int,
        names: tuple[str, str, str],
        snapshot: SnapshotRow | None,
        history: LayerHistory | None,
    ) -> ImageLayer:
        digest, diff_id, chain = names
        record = self._store.layers.find(snapshot.layer_id) if snapshot is not None and snapshot.layer_id else None
        if record is None and snapshot is None:
            record = self._store.layers.by_chain_id(chain) or self._store.layers.by_diff_id(diff_id)
        base = ImageLayer(
            index=index,
            digest=digest,
            diff_id=diff_id,
            chain_id=chain,
            layer=record.layer_id if record else "",
            form="composed" if record else "folder" if snapshot else "absent",
            source=record.source if record else "engine" if snapshot else "",
            reason=_reason(snapshot, history, source=record.source if record else ""),
            size=record.size if record else snapshot.usage_bytes if snapshot else 0,
        )
        if history is None:
            return base
        return base.model_copy(
            update={
                "bytes_fetched": history.bytes_fetched,
                "bytes_deduped": history.bytes_deduped,
                "seconds": history.seconds,
            }
        )


def _from_engine(image: EngineImage, history: History | None) -> _Known:
    known = _Known(image.name, image.manifest_digest, image.platform, image.layer_digests, image.diff_ids)
    if history is None:
        return known
    last_used = datetime.fromtimestamp(history.last_used / 1e9, UTC)
    return replace(known, history=history.layers, last_used=last_used)


def _from_history(row: History) -> _Known:
    return _Known(
        name=row.reference,
        manifest_digest=row.manifest_digest,
        platform=row.platform,
        digests=tuple(layer.digest for layer in row.layers),
        diff_ids=tuple(layer.diff_id or "" for layer in row.layers),
        history=row.layers,
        last_used=datetime.fromtimestamp(row.last_used / 1e9, UTC),
    )


def _reason(snapshot: SnapshotRow | None, history: LayerHistory | None, *, source: str) -> str:
    """Why a layer is not one that HyperBox provided itself; empty where it is. `source` is that of a composed layer."""
    if snapshot is not None:
        declined = snapshot.extra.get("declined")
        if declined:
            return f"{declined['code']}: {declined['reason']}"
    if history is not None and history.reason:
        return history.reason
    if snapshot is None:
        return "" if source else "the engine has not asked for it yet"
    if history is None and source != SOURCE:
        return "the engine unpacked it: built, loaded, committed or pulled without labels"
    return ""
