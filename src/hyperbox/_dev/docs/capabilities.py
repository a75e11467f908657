"""What a code block may need, and how to find out whether this machine has it.

A capability is tested, not assumed; the reason for its absence is what a skipped test shows. Some capabilities are also
provided: `daemon` starts a fresh `hyperboxd` for the page, and the tests' own fixtures add `lab`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

Missing = Callable[[], str]
"""Says why a capability is absent; empty when it is there."""
Provider = Callable[[Path, str], AbstractContextManager[Mapping[str, str]]]
"""Starts what a capability stands for and gives the environment variables that lead to it. Takes a folder of the page
and what stands behind the colon of the need (`image:nginx`), empty for most."""


class CapabilityAbsent(Exception):
    """A provider finds that this machine lacks what it would need to start; the blocks are skipped."""


class ProviderFailed(AssertionError):
    """A provider could not start what it should: the page fails, for a daemon that does not start is a defect."""


def root() -> str:
    """Root, with all capabilities of the kernel."""
    return "" if os.geteuid() == 0 else "not root"


def systemd() -> str:
    """A running systemd as process 1."""
    return "" if Path("/run/systemd/system").is_dir() else "systemd does not run here"


def cluster() -> str:
    """A Kubernetes cluster that KUBECONFIG leads to, and kubectl."""
    if not os.environ.get("KUBECONFIG"):
        return "KUBECONFIG names no cluster"
    return program("kubectl")


def program(name: str) -> str:
    """A program on the PATH."""
    return "" if shutil.which(name) else f"no {name} on this machine"


def composed() -> str:
    """A kernel on which containers are built from shared objects; the tests' own folder is tried."""
    if root():
        return root()
    from hyperbox.linux import probe

    missing = [feature.name for feature in probe(tempfile.gettempdir()).missing_for_composed]
    return f"the kernel lacks {', '.join(missing)}" if missing else ""


def daemon() -> str:
    """Whether `hyperboxd` can be started here."""
    return root()


CAPABILITIES: Final[dict[str, Missing]] = {
    "root": root,
    "systemd": systemd,
    "cluster": cluster,
    "composed": composed,
    "daemon": daemon,
    "lab": root,
    "image": root,
    "curl": lambda: program("curl"),
}
"""Known capabilities. `lab` (a private engine, registry and daemon) and `image:<name>` (one of the
lab's images, in that registry) are provided by the tests' fixtures."""


def absent(needs: tuple[str, ...]) -> str:
    """Name the first needed capability that is absent with the reason, or give an empty text.

    Raises:
        KeyError: A page needs a capability that nobody declares.
    """
    for need in needs:
        name = need.partition(":")[0]
        if name not in CAPABILITIES:
            raise KeyError(f"unknown capability {need!r}; known are {', '.join(sorted(CAPABILITIES))}")
        reason = CAPABILITIES[name]()
        if reason:
            return f"needs {need}: {reason}"
    return ""


@contextlib.contextmanager
def fresh_daemon(folder: Path, argument: str = "") -> Iterator[Mapping[str, str]]:
    """Run a `hyperboxd` with its own state and run folders; `hyperbox` finds it through HYPERBOX_SOCKET."""
    del argument
    state, run, log = folder / "state", folder / "run", folder / "hyperboxd.log"
    command = [sys.executable, "-m", "hyperbox.daemon.main", "--state", str(state), "--run", str(run)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        wait_for_socket(run / "api.sock", process, log)
        yield {
            "HYPERBOX_SOCKET": str(run / "api.sock"),
            "HYPERBOX_DAEMON_STATE": str(state),
            "HYPERBOX_DAEMON_RUN": str(run),
        }
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_socket(path: Path, process: subprocess.Popen[bytes], log: Path, timeout: float = 30.0) -> None:
    """Wait until a socket takes connections.

    Raises:
        ProviderFailed: The process ended, or did not listen within `timeout` seconds; its log is in the message.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket(socket.AF_UNIX) as client:
            if client.connect_ex(str(path)) == 0:
                return
        time.sleep(0.05)
    state = "does not listen" if process.poll() is None else f"ended with status {process.returncode}"
    raise ProviderFailed(f"hyperboxd {state}:\n{log.read_text(errors='replace')[-4000:]}")


PROVIDERS: Final[dict[str, Provider]] = {"daemon": fresh_daemon}
"""Capabilities that are started for a page. The tests add theirs to a copy of this table."""
