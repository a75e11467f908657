"""Starting a lab image in an engine and seeing that it is ready and answers."""

from __future__ import annotations

import http.client
import socket
import time
from dataclasses import dataclass

from ..engine import Engine
from ..home import LabError
from ..registry import free_port
from .recipes import Recipe


@dataclass
class Started:
    """A container that has become ready. Times in seconds from the `docker run` command's start."""

    engine: Engine
    container: str
    port: int | None
    seconds: float
    answer: str

    def remove(self) -> None:
        """Kill and remove the container."""
        self.engine.docker("rm", "-f", "-v", self.container)


def _http(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        body = answer.read().decode(errors="replace")
        return body if answer.status == 200 else f"status {answer.status}: {body}"
    finally:
        connection.close()


def _tcp(port: int, send: bytes) -> str:
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(send)
        return connection.recv(4096).decode(errors="replace")


def ask(recipe: Recipe, port: int) -> str:
    """One question to a service; raises `OSError` or `http.client.HTTPException` while it does not answer."""
    return _http(port) if recipe.probe.kind == "http" else _tcp(port, recipe.probe.send)


def run_until_ready(
    engine: Engine, reference: str, recipe: Recipe, *, seconds: float = 60, options: tuple[str, ...] = ()
) -> Started:
    """`docker run` an image and wait until its probe is satisfied; the container of a service goes on running.

    `options` are further options of `docker run`. Raises `LabError` with the container's log when it fails.
    """
    probe = recipe.probe
    began = time.perf_counter()
    if probe.kind == "output":
        out = engine.docker("run", "--rm", "--network", "host", *options, reference, timeout=seconds).stdout
        if probe.expect not in out:
            raise LabError(f"{reference} printed {out[-500:]!r}, not {probe.expect!r}")
        return Started(engine, "", None, time.perf_counter() - began, out)
    port = free_port()
    container = engine.docker(
        "run", "-d", "--network", "host", "-e", f"PORT={port}", *options, reference
    ).stdout.strip()
    answer, error = "", "no answer"
    while probe.kind != "none" and probe.expect not in answer:
        if time.perf_counter() - began > seconds or not _is_running(engine, container, began):
            logs = engine.docker("logs", "--tail", "20", container, check=False)
            engine.docker("rm", "-f", "-v", container)
            raise LabError(f"{reference} is not ready: {answer or error}\n{logs.stdout}{logs.stderr}")
        try:
            answer = ask(recipe, port)
        except (OSError, http.client.HTTPException) as failure:
            error = str(failure)
            time.sleep(0.005)
    ready = time.perf_counter() - began
    if probe.exec:
        out = engine.docker("exec", container, *probe.exec).stdout
        if probe.exec_expect not in out:
            raise LabError(f"{reference} answered {out!r}, not {probe.exec_expect!r}")
    return Started(engine, container, port, ready, answer)


_looked: dict[str, float] = {}


def _is_running(engine: Engine, container: str, began: float) -> bool:
    """Whether a container runs; asks Docker once a second at most, so that asking does not slow what is timed."""
    now = time.perf_counter()
    if now - _looked.get(container, began) < 1:
        return True
    _looked[container] = now
    return engine.docker("inspect", "-f", "{{.State.Running}}", container).stdout.strip() == "true"
