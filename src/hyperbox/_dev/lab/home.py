"""The lab's folder: where it is, who may build in it, and when something in it is built again.

`$HYPERBOX_LAB` names the folder, else it is `~/.cache/hyperbox/lab`. It has to lie on a file system that can be the
upper layer of an overlay (ext4, xfs, btrfs; not itself an overlay), because image layers are made on one.

Everything expensive is made once by `LabHome.once`: built beside its place, renamed into it when complete, stamped with
its recipe, made again when the recipe changes. An interrupted build leaves only a `.part` folder, which the next one
removes. Builds of two processes wait for each other on a file lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

STAMP = ".recipe"


class LabError(RuntimeError):
    """The lab cannot do something on this machine; the message says what is missing and what helps."""


def say(text: str) -> None:
    """Print one line of progress to standard error, at once."""
    print(f"lab: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    """Say that a step begins, and how many seconds it took when it has ended well."""
    say(f"{text} …")
    started = time.monotonic()
    yield
    say(f"{text}: done in {time.monotonic() - started:.1f} s")


def recipe_of(*parts: object) -> str:
    """A short digest of everything that a build depends on."""
    return hashlib.sha256("\0".join(map(repr, parts)).encode()).hexdigest()[:16]


class LabHome:
    """The lab's folder and its lock."""

    def __init__(self, root: Path | None = None) -> None:
        chosen = os.environ.get("HYPERBOX_LAB")
        self.root = (root or (Path(chosen) if chosen else Path.home() / ".cache/hyperbox/lab")).absolute()
        self.root.mkdir(parents=True, exist_ok=True)
        self._turn = threading.Lock()
        self._holders = 0
        self._lock_file: IO[str] | None = None

    def path(self, *parts: str) -> Path:
        """A path in the folder; its parent folder is made."""
        found = self.root.joinpath(*parts)
        found.parent.mkdir(parents=True, exist_ok=True)
        return found

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lab for building. Waits for another process; threads of this one hold it together, and nested."""
        with self._turn:
            if not self._holders:
                self._lock_file = self.path("lock").open("a")
                try:
                    fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    say("another process builds in this lab; waiting for it")
                    fcntl.flock(self._lock_file, fcntl.LOCK_EX)
            self._holders += 1
        try:
            yield
        finally:
            with self._turn:
                self._holders -= 1
                if not self._holders and self._lock_file:
                    self._lock_file.close()

    def is_current(self, target: Path, recipe: str) -> bool:
        """Whether `target` is complete and was made by `recipe`."""
        try:
            return (target / STAMP).read_text() == recipe
        except OSError:
            return False

    def once(self, target: Path, recipe: str, build: Callable[[Path], None], what: str) -> Path:
        """Have `target` made by `build(folder)` unless it is there already; returns `target`.

        Whatever `build` leaves in its folder becomes `target` in one rename, so a target is always complete.
        """
        if self.is_current(target, recipe):
            return target
        with self.lock():
            if self.is_current(target, recipe):
                return target
            part = target.with_name(target.name + ".part")
            remove_tree(part)
            part.mkdir(parents=True)
            with step(what):
                build(part)
            (part / STAMP).write_text(recipe)
            remove_tree(target)
            part.rename(target)
        return target


def remove_tree(folder: Path) -> None:
    """Delete a folder that may not exist. Refuses to descend when something is mounted in it."""
    if not folder.exists():
        return
    inside = f"{folder.resolve()}/"
    with open("/proc/self/mountinfo") as table:
        for line in table:
            if f"{line.split()[4]}/".startswith(inside):
                raise LabError(f"{folder} cannot be deleted: {line.split()[4]} is still mounted")
    shutil.rmtree(folder)
