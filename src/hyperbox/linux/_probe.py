"""Finding out what works here by doing it: in a temporary folder beside the state and a mount namespace of its own.

The checks run on a thread that leaves the process's mount namespace (`unshare(CLONE_NEWNS)` is per thread), so the
machine's mount table is never touched, nothing is forked, and all mounts are gone when the thread ends.
"""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from typing import Final

from hyperbox.api.errors.base import HyperBoxError
from hyperbox.linux._binding import StrPath, reason, syscall, translated
from hyperbox.linux._checks import CHECKS, Absent, Bench
from hyperbox.linux._features import DECLARATIONS, Feature, Features
from hyperbox.linux._filesystem import filesystem_usage
from hyperbox.linux._mounts import MountFlag, mount
from hyperbox.linux._process import capabilities

_CLONE_NEWNS: Final = 0x20000


def probe(state_dir: StrPath) -> Features:
    """Try every feature for a state folder at `state_dir` (which need not exist yet); leaves nothing behind.

    Never fails for a missing feature or permission: that is what the result says. `KernelCallFailed` when not even
    the file system can be asked.
    """
    started = time.monotonic()
    place = _existing(os.path.abspath(os.fsdecode(state_dir)))
    filesystem = filesystem_usage(place).type_name
    # A pool of one thread, because it hands on what is raised; the thread ends, and its namespace with it, at the end.
    with concurrent.futures.ThreadPoolExecutor(1, "hyperbox-probe") as pool:
        found = pool.submit(_run, place).result()
    return Features(
        state_dir=os.fsdecode(state_dir),
        kernel_release=os.uname().release,
        capabilities=capabilities(),
        filesystem=filesystem,
        seconds=time.monotonic() - started,
        **found,
    )


def _existing(path: str) -> str:
    while not os.path.isdir(path) and path != "/":
        path = os.path.dirname(path)
    return path


def _run(place: str) -> dict[str, Feature]:
    """All features by name; runs on its own thread, which it moves into another mount namespace for good."""
    mounting = _enter_private_namespace()
    folder, why = None, ""
    try:
        folder = tempfile.mkdtemp(prefix=".hyperbox-probe-", dir=place)
    except OSError as error:
        why = f"cannot write in {place}: {reason(error)}"
    bench = Bench(folder, why, mounting=mounting.present)
    try:
        return {"mounting": mounting} | {name: _tried(name, check, bench) for name, check in CHECKS.items()}
    finally:
        bench.close()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _enter_private_namespace() -> Feature:
    try:
        with translated("unshare(CLONE_NEWNS)"):
            syscall("unshare", _CLONE_NEWNS)
        # Slave, not private: what the machine unmounts meanwhile goes here too, so that we keep nothing busy.
        mount(None, "/", None, MountFlag.REC | MountFlag.SLAVE)
    except HyperBoxError as error:
        return _feature("mounting", False, error.message)
    return _feature("mounting", True, "a private mount namespace was made")


def _tried(name: str, check: Callable[[Bench], str], bench: Bench) -> Feature:
    try:
        return _feature(name, True, check(bench))
    except Absent as error:
        return _feature(name, False, str(error))
    except HyperBoxError as error:
        return _feature(name, False, bench.shorten(error.message))
    except OSError as error:
        return _feature(name, False, reason(error))


def _feature(name: str, present: bool, detail: str) -> Feature:
    declared = DECLARATIONS[name]
    return Feature(name, present, detail, declared.needed_for, declared.since_kernel, declared.remedy)
