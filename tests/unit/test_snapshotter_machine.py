"""The snapshot state machine against a plain model of containerd's rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hyperbox.api.errors.base import HyperBoxError
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
from hyperbox.snapshotter.machine import Change, Machine
from hyperbox.snapshotter.model import LABEL_TARGET, Kind, Snapshot

NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
PARENTS = st.sampled_from(["", "", "a", "b", "c", "d", "e"])
PATHS = st.lists(st.sampled_from(["labels", "labels.x", "labels.z", "parent"]), max_size=2)
LABELS = st.dictionaries(st.sampled_from(["x", "y", LABEL_TARGET]), st.sampled_from(["", "1", "2"]), max_size=3)


class Contract(RuleBasedStateMachine):
    """Random calls; the model is a dict of names to (kind, parent, labels), and refusals are predicted from it."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine()
        self.model: dict[str, tuple[Kind, str, dict[str, str]]] = {}
        self.now = 0

    def attempt(self, error: type[HyperBoxError] | None, decide: Callable[[], Change]) -> bool:
        self.now += 1
        if error is not None:
            with pytest.raises(error):
                decide()
            return False
        change = decide()
        if change.before is None and change.after is not None:
            change = Change(None, replace(change.after, id=self.now))
        self.machine.apply(change)
        return True

    def parent_error(self, parent: str) -> type[HyperBoxError] | None:
        if parent and parent not in self.model:
            return SnapshotNotFound
        if parent and self.model[parent][0] is not Kind.COMMITTED:
            return ParentNotCommitted
        return None

    @rule(kind=st.sampled_from([Kind.ACTIVE, Kind.VIEW, Kind.COMMITTED]), key=NAMES, parent=PARENTS, labels=LABELS)
    def create(self, kind: Kind, key: str, parent: str, labels: dict[str, str]) -> None:
        error = self.parent_error(parent) or (SnapshotExists if key in self.model else None)
        if kind is Kind.COMMITTED:
            done = self.attempt(error, lambda: self.machine.create_layer(key, parent, labels, "layer", now_ns=self.now))
        else:
            done = self.attempt(error, lambda: self.machine.create(kind, key, parent, labels, now_ns=self.now))
        if done:
            self.model[key] = (kind, parent, {name: value for name, value in labels.items() if value})

    @rule(key=NAMES, name=NAMES, parent=PARENTS, labels=LABELS)
    def commit(self, key: str, name: str, parent: str, labels: dict[str, str]) -> None:
        error: type[HyperBoxError] | None = None
        if name in self.model:
            error = SnapshotExists
        elif key not in self.model:
            error = SnapshotNotFound
        elif self.model[key][0] is not Kind.ACTIVE:
            error = SnapshotNotActive
        elif parent and self.model[key][1] and parent != self.model[key][1]:
            error = SnapshotParentFixed
        else:
            error = self.parent_error(self.model[key][1] or parent)
        if self.attempt(error, lambda: self.machine.commit(key, name, labels, parent, now_ns=self.now)):
            old = self.model.pop(key)
            kept = {label: value for label, value in labels.items() if value}
            self.model[name] = (Kind.COMMITTED, old[1] or parent, kept)

    @rule(key=NAMES)
    def remove(self, key: str) -> None:
        error: type[HyperBoxError] | None = None
        if key not in self.model:
            error = SnapshotNotFound
        elif any(parent == key for _, parent, _ in self.model.values()):
            error = SnapshotHasChildren
        if self.attempt(error, lambda: self.machine.remove(key)):
            del self.model[key]

    @rule(
        key=NAMES,
        labels=LABELS,
        paths=PATHS,
    )
    def update(self, key: str, labels: dict[str, str], paths: list[str]) -> None:
        error: type[HyperBoxError] | None = None
        if key not in self.model:
            error = SnapshotNotFound
        elif "parent" in paths:
            error = SnapshotFieldFixed
        if self.attempt(error, lambda: self.machine.update(key, labels, paths, now_ns=self.now)):
            kind, parent, new = self.model[key]
            new = dict(new) if paths else dict(labels)
            for path in paths:
                if path == "labels":
                    new = dict(labels)
                else:
                    new[path[7:]] = labels.get(path[7:], "")
            self.model[key] = (kind, parent, {label: value for label, value in new.items() if value})

    @rule(key=NAMES)
    @precondition(lambda self: self.model)
    def mountable(self, key: str) -> None:
        if key not in self.model:
            with pytest.raises(SnapshotNotFound):
                self.machine.mountable(key)
        elif self.model[key][0] is Kind.COMMITTED:
            with pytest.raises(SnapshotCommitted):
                self.machine.mountable(key)
        else:
            chain = self.machine.chain(self.machine.mountable(key))
            assert all(snapshot.kind is Kind.COMMITTED for snapshot in chain)

    @invariant()
    def same_as_model(self) -> None:
        assert {s.name: (s.kind, s.parent, dict(s.labels)) for s in self.machine} == self.model
        assert len({s.id for s in self.machine}) == len(self.model)
        for name, (kind, parent, labels) in self.model.items():
            assert self.machine.by_id(self.machine.get(name).id) == self.machine.get(name)
            children = {child for child, (_, its, _) in self.model.items() if its == name}
            assert self.machine.children(name) == children
            if kind is Kind.COMMITTED and LABEL_TARGET in labels:
                found = self.machine.target(labels[LABEL_TARGET], parent)
                assert found is not None
                assert (found.labels[LABEL_TARGET], found.parent) == (labels[LABEL_TARGET], parent)

    @invariant()
    def loading_the_rows_gives_the_same(self) -> None:
        again = Machine(sorted(self.machine, key=lambda snapshot: -snapshot.id))
        assert {s.name: s for s in again} == {s.name: s for s in self.machine}
        assert {s.name: again.children(s.name) for s in again} == {
            s.name: self.machine.children(s.name) for s in self.machine
        }


Contract.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestContract = Contract.TestCase


def machine_with(*snapshots: Snapshot) -> Machine:
    return Machine(snapshots)


def committed(identity: int, name: str, parent: str = "", **more: Any) -> Snapshot:
    return Snapshot(identity, name, parent, Kind.COMMITTED, {}, 1, 1, **more)


def test_a_decision_alters_nothing() -> None:
    machine = machine_with(committed(1, "base"))
    machine.create(Kind.ACTIVE, "key", "base", {}, now_ns=5)
    machine.remove("base")
    assert [snapshot.name for snapshot in machine] == ["base"]


def test_commit_starts_times_and_labels_anew_and_keeps_what_hyperbox_knows() -> None:
    active = Snapshot(7, "key", "", Kind.ACTIVE, {"old": "1"}, 1, 2, extra={"declined": {"code": "X"}})
    after = machine_with(active).commit("key", "name", {"new": "1"}, now_ns=9).after
    assert after is not None
    assert (after.id, after.created_ns, after.updated_ns, after.labels) == (7, 9, 9, {"new": "1"})
    assert after.extra == {"declined": {"code": "X"}}


def test_amend_changes_members_and_removes_those_set_to_none() -> None:
    machine = machine_with(committed(1, "base", extra={"kept": 1, "gone": 2}))
    after = machine.amend("base", layer="abc", extra={"gone": None, "new": 3}).after
    assert after is not None
    assert (after.layer, after.extra) == ("abc", {"kept": 1, "new": 3})


def test_chain_and_descendants() -> None:
    machine = machine_with(committed(1, "a"), committed(2, "b", "a"), committed(3, "c", "b"), committed(4, "d", "b"))
    assert [s.name for s in machine.chain(machine.get("d"))] == ["b", "a"]
    assert {s.name for s in machine.descendants("a")} == {"b", "c", "d"}


def test_one_layer_in_two_namespaces_is_found_until_the_last_goes() -> None:
    labels = {LABEL_TARGET: "sha256:1"}
    machine = machine_with(
        replace(committed(1, "one/1/x"), labels=labels), replace(committed(2, "two/1/x"), labels=labels)
    )
    machine.apply(machine.remove("one/1/x"))
    found = machine.target("sha256:1", "")
    assert found is not None
    assert found.name == "two/1/x"
    machine.apply(machine.remove("two/1/x"))
    assert machine.target("sha256:1", "") is None


def test_keys_are_needed() -> None:
    machine = Machine()
    with pytest.raises(SnapshotKeyMissing):
        machine.create(Kind.ACTIVE, "", "", {}, now_ns=1)
    with pytest.raises(SnapshotKeyMissing):
        machine.commit("key", "", {}, now_ns=1)
