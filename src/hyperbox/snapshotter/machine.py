"""The rules of containerd's snapshot service as a state machine without I/O.

Each operation *decides*: it returns a `Change` or raises, and alters nothing. The shell makes the change true on disk
and then hands it to `apply`. So what could not be written is never believed. Callers serialise decide → persist →
apply with one lock of their own; the clock comes in as an argument, and who
persists a new snapshot gives it its id.

The order in which conditions are checked, and the status of each, are those of containerd's own metadata storage:
a missing parent before a taken key, a taken name before a missing key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hyperbox.api.errors.snapshotter import (
    ParentNotCommitted,
    SnapshotCommitted,
    SnapshotExists,
    SnapshotFieldFixed,
    SnapshotHasChildren,
    SnapshotKeyMissing,
    SnapshotNotActive,
    SnapshotNotFound,
    SnapshotParentFixed,
)
from hyperbox.snapshotter.filters import Adaptor, parse_filters
from hyperbox.snapshotter.model import LABEL_TARGET, Kind, Snapshot, Usage


@dataclass(frozen=True, slots=True)
class Change:
    """One record before and after: created (no before), removed (no after) or altered (same id)."""

    before: Snapshot | None
    after: Snapshot | None


class Machine:
    """All snapshots of a state folder and what may be done with them."""

    def __init__(self, snapshots: Iterable[Snapshot] = ()) -> None:
        self._snapshots: dict[str, Snapshot] = {}
        self._names: dict[int, str] = {}
        self._children: dict[str, set[str]] = {}
        self._targets: dict[tuple[str, str], list[str]] = {}
        for snapshot in snapshots:
            self.apply(Change(None, snapshot))

    def __len__(self) -> int:
        return len(self._snapshots)

    def __contains__(self, name: object) -> bool:
        return name in self._snapshots

    def __iter__(self) -> Iterator[Snapshot]:
        return iter(list(self._snapshots.values()))

    # -- questions ---------------------------------------------------------------------------------------------------

    def get(self, name: str) -> Snapshot:
        """Return the snapshot of this key or name, or raise `SnapshotNotFound`."""
        try:
            return self._snapshots[name]
        except KeyError:
            raise SnapshotNotFound(key=name) from None

    def by_id(self, identity: int) -> Snapshot | None:
        """Return the snapshot of this id, or None."""
        name = self._names.get(identity)
        return None if name is None else self._snapshots[name]

    def children(self, name: str) -> frozenset[str]:
        """Return the names of the snapshots made from this one."""
        return frozenset(self._children.get(name, ()))

    def chain(self, snapshot: Snapshot) -> list[Snapshot]:
        """Return the ancestors of a snapshot, nearest first, without itself."""
        found = []
        while snapshot.parent:
            snapshot = self.get(snapshot.parent)
            found.append(snapshot)
        return found

    def descendants(self, name: str) -> list[Snapshot]:
        """Return everything made from a snapshot, directly or not."""
        found: list[Snapshot] = []
        open_names = [name]
        while open_names:
            for child in self._children.get(open_names.pop(), ()):
                found.append(self._snapshots[child])
                open_names.append(child)
        return found

    def mountable(self, key: str) -> Snapshot:
        """Return an active snapshot or view; raises `SnapshotNotFound`, `SnapshotCommitted`."""
        snapshot = self.get(key)
        if snapshot.kind is Kind.COMMITTED:
            raise SnapshotCommitted(key=key)
        return snapshot

    def target(self, chain_id: str, parent: str) -> Snapshot | None:
        """Return a committed snapshot that is this layer on this parent, or None."""
        names = self._targets.get((chain_id, parent))
        return self._snapshots[names[0]] if names else None

    def select(self, filters: Sequence[str]) -> list[Snapshot]:
        """Return what any of the filters matches, in no order; raises `FilterInvalid`."""
        matches = parse_filters(filters)
        return [snapshot for snapshot in self if matches(adaptor(snapshot))]

    # -- decisions ---------------------------------------------------------------------------------------------------

    def create(
        self,
        kind: Kind,
        key: str,
        parent: str,
        labels: Mapping[str, str],
        *,
        now_ns: int,
        identity: int = 0,
        extra: Mapping[str, Any] | None = None,
    ) -> Change:
        """Decide Prepare and View. Raises `SnapshotNotFound`, `ParentNotCommitted`, `SnapshotExists`."""
        self.check_create(key, parent)
        made = Snapshot(identity, key, parent, kind, _tidy(labels), now_ns, now_ns, extra=extra or {})
        return Change(None, made)

    def check_create(self, key: str, parent: str) -> None:
        """Raise what `create` would raise."""
        if not key:
            raise SnapshotKeyMissing
        if parent and self.get(parent).kind is not Kind.COMMITTED:
            raise ParentNotCommitted(parent=parent)
        if key in self._snapshots:
            raise SnapshotExists(key=key)

    def create_layer(
        self, name: str, parent: str, labels: Mapping[str, str], layer: str, *, now_ns: int, identity: int = 0
    ) -> Change:
        """Decide a committed snapshot that HyperBox provides itself."""
        change = self.create(Kind.COMMITTED, name, parent, labels, identity=identity, now_ns=now_ns)
        assert change.after is not None
        return Change(None, replace(change.after, layer=layer))

    def commit(self, key: str, name: str, labels: Mapping[str, str], parent: str = "", *, now_ns: int) -> Change:
        """Decide Commit. Labels are those given now, none are inherited; created and updated begin anew.

        Raises `SnapshotExists`, `SnapshotNotFound`, `SnapshotNotActive`, `SnapshotParentFixed`, `ParentNotCommitted`.
        """
        if not name or not key:
            raise SnapshotKeyMissing
        if name in self._snapshots:
            raise SnapshotExists(key=name)
        before = self.get(key)
        if before.kind is not Kind.ACTIVE:
            raise SnapshotNotActive(key=key)
        if parent and before.parent and parent != before.parent:
            raise SnapshotParentFixed(key=key, parent=parent)
        parent = before.parent or parent
        if parent and self.get(parent).kind is not Kind.COMMITTED:
            raise ParentNotCommitted(parent=parent)
        after = replace(
            before,
            name=name,
            parent=parent,
            kind=Kind.COMMITTED,
            labels=_tidy(labels),
            created_ns=now_ns,
            updated_ns=now_ns,
        )
        return Change(before, after)

    def remove(self, key: str) -> Change:
        """Decide Remove. Raises `SnapshotNotFound`, `SnapshotHasChildren`."""
        before = self.get(key)
        if self._children.get(key):
            raise SnapshotHasChildren(key=key)
        return Change(before, None)

    def update(self, name: str, labels: Mapping[str, str], paths: Sequence[str], *, now_ns: int) -> Change:
        """Decide Update: `labels.<key>` or `labels`, without paths all labels; an empty value removes a label.

        Raises `SnapshotNotFound`, `SnapshotFieldFixed`.
        """
        before = self.get(name)
        new = dict(before.labels) if paths else dict(labels)
        for path in paths:
            if path == "labels":
                new = dict(labels)
            elif path.startswith("labels."):
                key = path.removeprefix("labels.")
                new[key] = labels.get(key, "")
            else:
                raise SnapshotFieldFixed(field=path, key=name)
        return Change(before, replace(before, labels=_tidy(new), updated_ns=now_ns))

    def amend(
        self,
        name: str,
        *,
        layer: str | None = None,
        usage: Usage | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Change:
        """Decide a change of what HyperBox itself keeps: layer, usage, members of `extra` (None removes one)."""
        before = self.get(name)
        merged = {key: value for key, value in {**before.extra, **(extra or {})}.items() if value is not None}
        return Change(before, replace(before, layer=layer or before.layer, usage=usage or before.usage, extra=merged))

    # -- the only thing that alters ----------------------------------------------------------------------------------

    def apply(self, change: Change) -> None:
        """Make a decided change part of the state."""
        if change.before is not None:
            self._forget(change.before)
        if change.after is not None:
            self._learn(change.after)

    def _forget(self, snapshot: Snapshot) -> None:
        del self._snapshots[snapshot.name]
        del self._names[snapshot.id]
        if snapshot.parent:
            siblings = self._children[snapshot.parent]
            siblings.discard(snapshot.name)
            if not siblings:
                del self._children[snapshot.parent]
        if target := _target(snapshot):
            names = self._targets[target]
            names.remove(snapshot.name)
            if not names:
                del self._targets[target]

    def _learn(self, snapshot: Snapshot) -> None:
        self._snapshots[snapshot.name] = snapshot
        self._names[snapshot.id] = snapshot.name
        if snapshot.parent:
            self._children.setdefault(snapshot.parent, set()).add(snapshot.name)
        if target := _target(snapshot):
            self._targets.setdefault(target, []).append(snapshot.name)


def adaptor(snapshot: Snapshot) -> Adaptor:
    """Return how filters see a snapshot: kind, name, parent and labels."""

    def field(path: Sequence[str]) -> str | None:
        if path[0] == "labels":
            return snapshot.labels.get(".".join(path[1:]))
        fields = {"kind": snapshot.kind.word, "name": snapshot.name, "parent": snapshot.parent}
        return fields.get(path[0])

    return field


def _tidy(labels: Mapping[str, str]) -> dict[str, str]:
    """containerd stores no label without a value."""
    return {key: value for key, value in labels.items() if value}


def _target(snapshot: Snapshot) -> tuple[str, str] | None:
    target = snapshot.labels.get(LABEL_TARGET)
    return (target, snapshot.parent) if target and snapshot.kind is Kind.COMMITTED else None
