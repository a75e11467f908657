"""Work for a daemon that is going to be killed: several threads of real `docker` commands, each to be done again."""

from __future__ import annotations

import contextlib
import functools
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hyperbox._dev.lab import LabError
from hyperbox._dev.lab.runs import wait_until
from hyperbox.api.errors.base import HyperBoxError
from support.fault_images import SmallImage, small_image
from support.fault_place import BACKOFF, Place

Job = Callable[[], None]


@dataclass
class Outcome:
    """What came of the jobs of one round."""

    done: int = 0
    interrupted: list[tuple[str, Job]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Jobs that failed although nobody had touched the daemon."""


class Workload:
    """Jobs that use every way in which something gets into the store or out of it."""

    def __init__(self, place: Place, scratch: Path, medium: dict[str, str], seed: int) -> None:
        """`medium` are references of larger images of the lab, by a name of their own."""
        self._place = place
        self._scratch = scratch
        self._medium = medium
        self._dice = random.Random(seed)
        self._numbers = iter(range(seed * 1000, 1 << 60))
        self._lock = threading.Lock()
        self._killed = threading.Event()
        self._stop = threading.Event()

    def image(self) -> SmallImage:
        """A new small image."""
        with self._lock:
            return small_image(self._place.base, next(self._numbers))

    # The jobs. Each can be done again from its beginning, however far it came.

    def _pull(self, image: SmallImage) -> None:
        reference = image.push(self._place.lab.registry, self._scratch)
        self._docker("pull", "-q", reference)
        self._place.see(reference, image.files)
        self._docker("rmi", "-f", reference)

    def _pull_medium(self, reference: str) -> None:
        self._docker("pull", "-q", reference)
        self._docker("run", "--rm", "--network", "none", "--entrypoint", "cat", reference, "/etc/debian_version")
        self._docker("rmi", "-f", reference)

    def _load(self, image: SmallImage) -> None:
        name = f"loaded/small{image.seed}:v1"
        self._docker("load", "-q", stdin=image.archive(f"docker.io/{name}"))
        self._place.see(name, image.files)
        self._docker("rmi", "-f", name)

    def _commit(self, image: SmallImage) -> None:
        """Load, change a file, commit, and run what was committed."""
        name, changed, container = f"parent{image.seed}", f"changed{image.seed}", f"writer{image.seed}"
        self._docker("rm", "-f", container)
        self._docker("load", "-q", stdin=image.archive(f"docker.io/library/{name}:v1"))
        script = "cp /seeded/1/0 /seeded/1/copy; echo new > /seeded/1/2; rm /seeded/1/3; chmod 700 /seeded/0/0"
        self._docker("run", "--name", container, "--network", "none", f"{name}:v1", "sh", "-c", script)
        self._docker("commit", container, changed)
        self._docker("rm", "-f", container)
        # What was changed: the copy is there, the first file only got another mode.
        files = {path: value for path, value in image.files.items() if path not in ("seeded/1/2", "seeded/1/3")}
        self._place.see(changed, {**files, "seeded/1/copy": image.files["seeded/1/0"]})
        self._docker("rmi", "-f", changed, f"{name}:v1")

    def _gc(self) -> None:
        self._place.gc()

    def _docker(self, *args: str, stdin: bytes | None = None) -> None:
        self._place.engine.docker(*args, stdin=stdin, timeout=90)

    def _jobs(self, kind: str) -> Iterator[tuple[str, Job]]:
        while True:
            if kind == "pull":
                small = self.image()
                yield f"pull {small.seed}", functools.partial(self._pull, small)
            elif kind == "medium":
                name = self._dice.choice(sorted(self._medium))
                yield f"pull {name}", functools.partial(self._pull_medium, self._medium[name])
            elif kind == "raw":
                small = self.image()
                name, job = self._dice.choice([("load", self._load), ("commit", self._commit)])
                yield f"{name} {small.seed}", functools.partial(job, small)
            else:
                time.sleep(0.3)
                yield "gc", self._gc

    # One round

    @contextlib.contextmanager
    def running(self, kinds: tuple[str, ...]) -> Iterator[Outcome]:
        """Have the jobs run in threads until `kill` was called, or the block ends."""
        self._killed.clear()
        self._stop.clear()
        outcome = Outcome()
        threads = [threading.Thread(target=self._run, args=(kind, outcome), name=kind) for kind in kinds]
        for thread in threads:
            thread.start()
        try:
            yield outcome
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def kill(self) -> None:
        """SIGKILL for the daemon; from now on jobs may fail."""
        self._stop.set()
        self._killed.set()
        self._place.daemon.kill()

    def start(self, *, killed_after: float | None = None) -> None:
        """Start the daemon again; with `killed_after`, kill it so many seconds into that, and start it once more."""
        daemon = self._place.daemon
        if killed_after is not None:
            first = threading.Thread(target=self._begin)
            first.start()
            wait_until(lambda: daemon.pid != 0 or not first.is_alive(), 10, "the process")
            first.join(killed_after)
            daemon.kill()
            first.join()
        daemon.start()

    def _begin(self) -> None:
        with contextlib.suppress(LabError):  # it says that the process was killed
            self._place.daemon.start()

    def _run(self, kind: str, outcome: Outcome) -> None:
        for name, job in self._jobs(kind):
            if self._stop.is_set():
                return
            try:
                job()
                outcome.done += 1
            except (LabError, HyperBoxError, AssertionError, OSError) as error:
                if self._killed.is_set() and not isinstance(error, AssertionError):
                    outcome.interrupted.append((name, job))
                else:
                    outcome.failures.append(f"{name}: {error}")

    def finish(self, outcome: Outcome) -> None:
        """Do what was interrupted again; each has to come to its end now."""
        for name, job in outcome.interrupted:
            deadline = time.monotonic() + BACKOFF
            while True:
                try:
                    job()
                    break
                except (LabError, HyperBoxError) as error:
                    if time.monotonic() > deadline:
                        raise AssertionError(f"{name}, interrupted by the kill, fails for good: {error}") from error
                    time.sleep(0.1)  # the engine's own wait before it tries the socket again has no event
