"""A snapshotter in a folder of its own, for tests that look at its insides and restart it."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.snapshots_client import Entry, mounted, tree
from hyperbox.linux import mountinfo, probe
from hyperbox.snapshotter import Snapshotter
from hyperbox.snapshotter.folders import detach_below
from hyperbox.store import Store


class Place:
    """State and run folder, a store and a snapshotter on them."""

    def __init__(self, root: Path, **arguments: Any) -> None:
        self.root = root
        self.mount = root / "m"
        self.arguments = arguments
        self._open()

    def _open(self) -> None:
        self.store = Store.open(self.root / "state")
        self.snapshotter = Snapshotter(self.store, self.root / "run", **self.arguments)

    def restart(self, **arguments: Any) -> None:
        self.close()
        self.arguments.update(arguments)
        self._open()

    def close(self) -> None:
        self.snapshotter.close()
        self.store.close()

    def settle(self) -> None:
        assert self.snapshotter.settle(60.0)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Hold background work back; it goes on at the end."""
        gate = threading.Event()
        running = threading.Event()

        def wait() -> None:
            running.set()
            gate.wait(60)

        self.snapshotter.worker.submit("pause", wait)
        assert running.wait(10)
        try:
            yield
        finally:
            gate.set()

    def layer(self, name: str, parent: str, fill: Callable[[Path], object], *, settle: bool = True) -> None:
        with mounted(self.snapshotter.prepare(f"{name}-prepare", parent), self.mount) as root:
            fill(root)
        self.snapshotter.commit(name, f"{name}-prepare")
        if settle:
            self.settle()

    def view_tree(self, name: str) -> dict[str, Entry]:
        with mounted(self.snapshotter.view(f"{name}-look", name), self.mount) as root:
            found = tree(root)
        self.snapshotter.remove(f"{name}-look")
        return found

    def failures(self) -> dict[str, str]:
        return {s.name: s.extra["compaction_failed"] for s in self.snapshotter.walk() if "compaction_failed" in s.extra}

    def mounts(self) -> list[str]:
        return [entry.target for entry in mountinfo() if entry.target.startswith(f"{self.root}/run")]


def _unless_gone(_call: object, _path: str, failure: tuple[type[BaseException], BaseException, object]) -> None:
    if not isinstance(failure[1], FileNotFoundError):
        raise failure[1]


@contextlib.contextmanager
def place_for(data_path: str, **arguments: Any) -> Iterator[Place]:
    """Make a place, and prove at the end that it left nothing mounted. Skips where the kernel cannot."""
    root = Path(tempfile.mkdtemp(prefix="hb-"))
    try:
        if data_path == "composed" and (missing := probe(root).missing_for_composed):
            pytest.skip(f"the kernel lacks {', '.join(feature.name for feature in missing)}")
        place = Place(root, **{"data_path": data_path, "compaction_minimum": 0, **arguments})
        yield place
        place.close()
        left = [entry.target for entry in mountinfo() if entry.target.startswith(f"{root}/")]
        assert left == []
    finally:
        detach_below(str(root))
        # A thread that has just read the catalogue may take its -shm file away at this moment.
        shutil.rmtree(root, onerror=_unless_gone)
