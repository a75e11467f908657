"""Random histories of leases, layers, snapshots and collections; a model says what must still be there."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from hyperbox.store import Lease, Store

CONTENTS = st.integers(0, 15).map(lambda number: b"content %d" % number * 20)


class StoreMachine(RuleBasedStateMachine):
    """The model: what live leases hold, and what layers of snapshots name."""

    leases = Bundle("leases")
    snapshots = Bundle("snapshots")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="hyperbox-machine-"))
        self.store = Store.open(self.folder / "state")
        self.held: dict[Lease, set[bytes]] = {}
        self.named: dict[str, set[bytes]] = {}
        self.count = 0

    @rule(target=leases)
    def begin(self) -> Lease:
        lease = self.store.objects.lease("machine")
        self.held[lease] = set()
        return lease

    @rule(lease=leases, content=CONTENTS)
    def put(self, lease: Lease, content: bytes) -> None:
        self.held[lease].add(lease.put(content))

    @rule(lease=leases, content=CONTENTS)
    def stream(self, lease: Lease, content: bytes) -> None:
        with lease.writer() as writer:
            writer.write(content)
            self.held[lease].add(writer.commit()[0])

    @rule(lease=leases, content=CONTENTS)
    def take(self, lease: Lease, content: bytes) -> None:
        with self.store.objects.lease("digest") as other:
            digest = other.put(content)
        if lease.take(digest, len(content)):
            self.held[lease].add(digest)

    @rule(target=snapshots, lease=leases)
    def add_layer(self, lease: Lease) -> str:
        digests = self.held[lease]
        objects = {digest: self.store.objects.size(digest) or 0 for digest in digests}
        image = b"".join(sorted(digests))
        record = self.store.layers.add(image, objects, entries=len(objects), size=0, source="test")
        self.count += 1
        key = f"snapshot {self.count}"
        self.store.catalogue.snapshots.insert(key, kind="committed", layer_id=record.layer_id)
        self.named[key] = set(digests)
        return key

    @rule(lease=consumes(leases))
    def release(self, lease: Lease) -> None:
        lease.release()
        del self.held[lease]

    @rule(key=consumes(snapshots))
    def remove(self, key: str) -> None:
        self.store.catalogue.snapshots.delete(key)
        del self.named[key]

    @rule(dry_run=st.booleans())
    def collect(self, dry_run: bool) -> None:
        wanted = set().union(*self.held.values(), *self.named.values())
        self.store.gc(grace=0, dry_run=dry_run)
        if not dry_run:
            walked = self.store.stats(walk=True).walked
            assert walked is not None
            assert walked.objects == len(wanted)

    @rule(target=leases, lease=consumes(leases))
    def hand_over(self, lease: Lease) -> Lease:
        other = self.store.objects.lease("successor")
        self.held[other] = self.held.pop(lease)
        assert all(other.take(digest, self.store.objects.size(digest) or 0) for digest in self.held[other])
        lease.release()
        return other

    @precondition(lambda self: not self.held)
    @rule(boot=st.sampled_from(["one", "two"]))
    def reopen(self, boot: str) -> None:
        self.store.close()
        self.store = Store.open(self.folder / "state", boot_id=boot)
        assert self.store.recovered.clean

    @rule()
    def verify(self) -> None:
        assert self.store.verify().ok

    @invariant()
    def everything_wanted_is_here(self) -> None:
        for digests in (*self.held.values(), *self.named.values()):
            assert all(self.store.objects.has(digest) for digest in digests)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
