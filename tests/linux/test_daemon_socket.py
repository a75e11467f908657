"""The control socket of a real daemon: who may use it, and that it serves what is declared."""

from __future__ import annotations

import grp
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperbox.api.metrics import METRICS
from hyperbox.api.operations import OPERATIONS

pytestmark = pytest.mark.root
GROUP = grp.getgrgid(1).gr_name


@pytest.fixture(scope="module")
def api() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hb-") as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "hyperbox.daemon.main", "--state", f"{folder}/state", "--run", str(run)]
        process = subprocess.Popen(
            command, env={**os.environ, "HYPERBOX_DAEMON_API_GROUP": GROUP}, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        for line in process.stderr:
            if "daemon.started" in line:
                break
        yield run / "api.sock"
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        process.stderr.close()
        assert process.wait(30) == 0, rest
        assert not (run / "api.sock").exists()


def get(api: Path, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("localhost", timeout=30)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(api))
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_the_group_may_use_it_and_nobody_else(api: Path):
    status = api.stat()
    assert (status.st_mode & 0o777, status.st_gid) == (0o660, 1)
    assert api.parent.stat().st_mode & 0o777 == 0o711
    assert (api.parent / "snapshotter.sock").stat().st_mode & 0o777 == 0o600


def test_it_serves_the_declared_operations_and_no_others(api: Path):
    served = json.loads(get(api, "/openapi.json")[1])["paths"]
    calls = [(path, method, call) for path, methods in served.items() for method, call in methods.items()]
    routes = {(path, method.upper(), call["operationId"]) for path, method, call in calls}
    assert routes == {(operation.path, operation.method, operation.name) for operation in OPERATIONS}


def test_probes_and_metrics(api: Path):
    assert get(api, "/healthz") == (200, "ok\n")
    assert get(api, "/readyz") == (200, "ready\n")
    text = get(api, "/metrics")[1]
    assert {metric.name for metric in METRICS} <= {name.split()[2] for name in text.splitlines() if "# TYPE" in name}


@pytest.mark.parametrize("path", ["/v1/events?limit=0", "/v1/images/inspect", "/v1/events?colour=red"])
def test_a_wrong_request_is_a_named_problem(api: Path, path: str):
    status, body = get(api, path)
    assert (status, json.loads(body)["code"]) == (422, "HB-DAEMON-005")
