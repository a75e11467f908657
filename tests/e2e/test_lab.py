"""The lab itself: what the other end-to-end tests stand on."""

from __future__ import annotations

import functools
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from hyperbox._dev.lab import Engine, LabError, LabHome, Registry, Run, sweep
from hyperbox._dev.lab.apt import Archive, machine_archives
from hyperbox._dev.lab.images import resolve, run_until_ready
from hyperbox._dev.lab.images.layer_tar import pack, repack
from hyperbox._dev.lab.runs import SOCKETS, cgroups_named, mounts_below, wait_until
from support.lab_fixtures import Lab

_OWNER = """
import sys
from hyperbox._dev.lab import Engine, LabHome, Registry, Run
run = Run(LabHome())
registry = Registry(run)
engine = Engine(run, docker=False)
print(run.id, *engine.pids().values(), flush=True)
sys.stdin.read()
"""


def test_sources_are_read_in_both_forms(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("#deb http://no/ x main\ndeb [arch=amd64] http://one/debian bookworm main\n")
    (tmp_path / "sources.list.d/two.sources").write_text(
        "Types: deb\n# comment\nURIs: http://two/debian/\nSuites: bookworm\n bookworm-updates\nComponents: main\n\n"
        "Types: deb\nEnabled: no\nURIs: http://three/\nSuites: bookworm\nComponents: main\n"
    )
    assert machine_archives(tmp_path) == [
        Archive("http://one/debian", ("bookworm",)),
        Archive("http://two/debian", ("bookworm", "bookworm-updates")),
    ]


def test_an_interrupted_build_is_begun_again_and_a_new_recipe_builds_anew(tmp_path: Path) -> None:
    home = LabHome(tmp_path / "lab")
    target = home.path("thing")

    def fail(folder: Path) -> None:
        (folder / "half").write_text("")
        raise LabError("interrupted")

    with pytest.raises(LabError, match="interrupted"):
        home.once(target, "1", fail, "failing")
    assert not target.exists()
    for recipe in ("1", "1", "2"):
        home.once(target, recipe, functools.partial(_write, recipe), "building")
        assert (target / "made").read_text() == recipe
        assert not (target / "half").exists()


def _write(text: str, folder: Path) -> None:
    (folder / "made").write_text(text)


@pytest.mark.root
def test_layers_carry_what_an_overlay_upper_has(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    long = "n" * 150
    (tree / "dir").mkdir(parents=True)
    (tree / "dir" / long).write_bytes(b"x" * 1000)
    os.link(tree / "dir" / long, tree / "hard")
    os.symlink("dir/" + long, tree / "soft")
    os.mkfifo(tree / "fifo")
    try:
        os.mknod(tree / "gone", 0o020600, os.makedev(0, 0))
    except PermissionError:
        pytest.skip("the temporary folder's file system cannot have whiteouts (it is an overlay itself)")
    os.mknod(tree / "null", 0o020666, os.makedev(1, 3))
    os.setxattr(tree / "hard", "security.capability", b"\x01\x00\x00\x02" + b"\xff\x20\x00\x00" * 4)
    os.setxattr(tree / "dir", "trusted.overlay.opaque", b"y")
    blobs = tmp_path / "blobs"
    layer = pack(tree, blobs)
    again = pack(tree, blobs)
    assert again == layer
    with tarfile.open(blobs / layer.digest[7:], "r:gz") as archive:
        members = {member.name: member for member in archive}
        content = archive.extractfile(members[f"dir/{long}"])
        assert content is not None
        assert content.read() == b"x" * 1000
    assert set(members) == {"dir", f"dir/{long}", "hard", "soft", "fifo", ".wh.gone", "null", "dir/.wh..wh..opq"}
    assert members["hard"].islnk()
    assert members["hard"].linkname == f"dir/{long}"
    assert (members["null"].devmajor, members["null"].devminor) == (1, 3)
    assert "SCHILY.xattr.security.capability" in members[f"dir/{long}"].pax_headers
    assert "SCHILY.xattr.trusted.overlay.opaque" not in members["dir"].pax_headers
    for variant in ("plain", "zstd"):
        other = repack(layer, blobs, variant)
        assert (other.diff_id, other.uncompressed_size) == (layer.diff_id, layer.uncompressed_size)
        assert other.digest != layer.digest


@pytest.mark.engine
def test_docker_pulls_and_runs_from_the_registry(lab: Lab, vanilla_engine: Engine) -> None:
    image, reference = lab.image("busybox")
    vanilla_engine.docker("pull", "-q", reference)
    started = run_until_ready(vanilla_engine, reference, image.recipe)
    assert started.answer == "hello\n"
    assert vanilla_engine.docker("info", "-f", "{{.Driver}}").stdout.strip() == "overlayfs"


@pytest.mark.engine
def test_what_is_pushed_can_be_pulled(lab: Lab, registry: Registry, vanilla_engine: Engine) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("only"), io.BytesIO(b""))
    reference = registry.reference("pushed", "1")
    vanilla_engine.docker("import", "-", reference, stdin=buffer.getvalue())
    vanilla_engine.docker("push", "-q", reference)
    vanilla_engine.docker("rmi", reference)
    vanilla_engine.docker("pull", "-q", reference)
    status, headers, _ = registry.get("/v2/pushed/manifests/1")
    assert status == 200
    assert headers["docker-content-digest"].startswith("sha256:")


@pytest.mark.engine
def test_distance_costs_its_round_trips_and_its_bandwidth(lab: Lab, registry: Registry) -> None:
    image, _ = lab.image("busybox")
    layer = image.layers[0]
    path = f"/v2/busybox/blobs/{layer.digest}"
    with lab.distance(0.05, 8 * layer.size / 0.5) as distance:
        near, far = _timed_get(registry.port, path), _timed_get(distance.port, path)
    assert far - near > 0.9 * (2 * 0.05 + 0.5), "a handshake, a request and half a second of bytes"
    assert far - near < 3, "nothing else comes on top"


def _timed_get(port: int, path: str) -> float:
    import http.client

    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    assert connection.getresponse().read()
    connection.close()
    return time.perf_counter() - began


@pytest.mark.engine
def test_start_and_stop_leave_no_trace(lab: Lab) -> None:
    _, reference = lab.image("busybox")
    for _ in range(3):
        with Run(lab.run.home) as run, Engine(run) as engine:
            engine.docker("pull", "-q", reference)
            engine.docker("run", "-d", "--network", "host", reference, "sleep", "1000")
            engine.ctr("-n", "moby", "tasks", "ls")
            pids = list(engine.pids().values())
            shims = [pid for pid in os.listdir("/proc") if pid.isdigit() and _names(pid, run.id)]
            assert len(shims) > len(pids)
            assert cgroups_named(run.cgroup)
        assert not run.data.exists()
        assert not run.sockets.exists()
        assert not mounts_below(run.data) + mounts_below(run.sockets)
        assert not cgroups_named(run.cgroup)
        assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and _names(pid, run.id)]


def _names(pid: str, run_id: str) -> bool:
    try:
        return run_id.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.engine
def test_a_run_whose_owner_was_killed_is_swept(lab: Lab) -> None:
    owner = subprocess.Popen([sys.executable, "-c", _OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdin is not None
    assert owner.stdout is not None
    run_id, *pids = owner.stdout.readline().split()
    assert run_id not in sweep(lab.run.home), "its owner lives"
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdin.close()
    owner.stdout.close()
    assert all(_names(pid, run_id) for pid in pids)
    assert run_id in sweep(lab.run.home)
    wait_until(lambda: not any(_names(pid, run_id) for pid in pids), 5, "the end of containerd")
    assert not lab.run.home.path("runs", run_id).exists()
    assert not (SOCKETS / run_id).exists()


@pytest.mark.engine
def test_interrupted_commands_clear_up(lab: Lab) -> None:
    command = [sys.executable, "-m", "hyperbox._dev.lab", "up", "busybox"]
    up = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert up.stdout is not None
    host = ""
    for line in up.stdout:
        if line.startswith("export DOCKER_HOST="):
            host = line.strip().partition("unix://")[2]
        if line.startswith("# containers"):
            break
    assert Path(host).is_socket()
    up.terminate()
    assert up.wait(60) == 130
    up.stdout.close()
    assert not Path(host).parent.exists()


def test_every_service_has_a_port_and_a_probe() -> None:
    for name in ("python-web:v1", "python-web:v2", "nginx", "redis", "node-app", "postgres", "jre"):
        recipe = resolve(name)
        assert recipe.port
        assert recipe.probe.expect
