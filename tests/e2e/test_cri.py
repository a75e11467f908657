"""A pod as the kubelet would start it: containerd's CRI plugin on HyperBox, pause container included."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hyperbox._dev.lab import NEXT, STABLE, Cri, LabError, Release, free_port
from hyperbox._dev.lab.images import ask
from hyperbox._dev.lab.packages import cni_plugins
from hyperbox._dev.lab.runs import mounts_below, wait_until
from hyperbox.api.messages import GcRequest
from hyperbox.api.operations import STORE_GC
from support.e2e_cri import CONTAINER, NODE, CriClient
from support.e2e_engines import System, assert_sound, layers, stored
from support.lab_fixtures import Lab

pytestmark = pytest.mark.engine

RELEASES = [pytest.param(STABLE, id="containerd-1"), pytest.param(NEXT, id="containerd-2", marks=pytest.mark.slow)]
HOST_NETWORK = {"namespace_options": {"network": NODE, "pid": CONTAINER}}


@dataclass(frozen=True)
class Node:
    """What the kubelet has of a node."""

    system: System
    cri: CriClient
    logs: Path

    def pod(self, name: str) -> dict[str, Any]:
        """The configuration of a pod on the node's own network."""
        return {
            "metadata": {"name": name, "uid": f"uid-{name}", "namespace": "test"},
            "log_directory": str(self.logs),
            "linux": {"cgroup_parent": f"/{self.system.engine.run.cgroup}/pods", "security_context": HOST_NETWORK},
        }

    def start(self, sandbox: str, pod: dict[str, Any], name: str, image: str, **more: Any) -> str:
        """Create and start a container of a pod; returns its id."""
        config = {
            "metadata": {"name": name}, "image": {"image": image}, "log_path": f"{name}.log",
            "linux": {"security_context": HOST_NETWORK}, **more,
        }  # fmt: skip
        made = self.cri.call("CreateContainer", pod_sandbox_id=sandbox, config=config, sandbox_config=pod)
        self.cri.call("StartContainer", container_id=made.container_id)
        return str(made.container_id)


@pytest.fixture(params=RELEASES)
def node(request: pytest.FixtureRequest, lab: Lab, tmp_path: Path) -> Iterator[Node]:
    """A containerd with the CRI plugin, whose pods and pause containers are on HyperBox."""
    release: Release = request.param
    try:
        cni_plugins(lab.run.home)
    except LabError as error:
        pytest.skip(f"the CNI plugins cannot be had here: {error}")
    _, pause = lab.image("pause")
    daemon = lab.hyperboxd("cri", engine="cri-e")
    engine = lab.engine(
        "cri-e",
        snapshotter=daemon.snapshotter,
        release=release,
        docker=False,
        cri=Cri(pause_image=pause, registry=lab.registry.host),
    )
    with CriClient(engine.containerd_socket) as client:
        yield Node(System(engine, daemon), client, tmp_path)
    engine.stop()
    assert mounts_below(daemon.state) == []
    daemon.stop()
    assert mounts_below(daemon.run_folder) == []
    daemon.close()


def test_a_pod_from_pull_to_removal(node: Node, lab: Lab) -> None:
    cri, client = node.cri, node.system.client
    image, reference = lab.image("python-web")
    pulled = cri.call("PullImage", image={"image": reference}).image_ref
    assert {(layer.form, layer.source) for layer in layers(client, reference)} == {("composed", "pull")}
    pod = node.pod("web")
    sandbox = cri.call("RunPodSandbox", config=pod).pod_sandbox_id
    port = free_port()
    web = node.start(sandbox, pod, "web", pulled, envs=[{"key": "PORT", "value": str(port)}])
    wait_until(lambda: _answers(image.recipe, port), 60, "the service's answer")
    assert cri.run_in(web, "python3", "-c", "print(6 * 7)") == "42"
    other = node.start(sandbox, pod, "other", pulled, command=["sh", "-c", "echo to the log; sleep 1000"])
    cri.run_in(other, "sh", "-c", "echo kept > /kept; rm /etc/issue")
    assert cri.run_in(other, "sh", "-c", "cat /kept; stat -f -c %T /; df / | tail -n1 | cut -d' ' -f1") == (
        "kept\noverlayfs\noverlay"
    )
    wait_until(lambda: "stdout F to the log" in (node.logs / "other.log").read_text(), 10, "the line in the log")
    wait_until(lambda: _used(cri).used_bytes.value > 30e6, 20, "the sizes of all snapshots")
    assert _used(cri).inodes_used.value > 1000
    for container in (web, other):
        cri.call("StopContainer", container_id=container, timeout=1)
        cri.call("RemoveContainer", container_id=container)
    cri.call("StopPodSandbox", pod_sandbox_id=sandbox)
    cri.call("RemovePodSandbox", pod_sandbox_id=sandbox)
    for one in cri.call("ListImages").images:
        cri.call("RemoveImage", image={"image": one.id})
    node.system.settle()
    client.call(STORE_GC, GcRequest(grace_seconds=0))
    assert_sound(client)
    assert stored(client) == (0, 0)


def _used(cri: CriClient) -> Any:
    return cri.call("ImageFsInfo").image_filesystems[0]


def _answers(recipe: Any, port: int) -> bool:
    try:
        return recipe.probe.expect in ask(recipe, port)
    except (OSError, http.client.HTTPException):
        return False


def test_pods_go_on_when_hyperboxd_is_killed(node: Node, lab: Lab) -> None:
    assert node.system.daemon is not None
    _, reference = lab.image("busybox")
    node.cri.call("PullImage", image={"image": reference})
    pod = node.pod("life")
    sandbox = node.cri.call("RunPodSandbox", config=pod).pod_sandbox_id
    first = node.start(sandbox, pod, "first", reference, command=["sleep", "1000"])
    node.system.daemon.kill()
    assert node.cri.run_in(first, "sh", "-c", "echo a > /a; cat /a /etc/passwd | wc -l") == "2"
    node.system.daemon.start()
    look = ("-n", "k8s.io", "snapshots", "--snapshotter", "hyperbox", "ls")
    wait_until(lambda: node.system.engine.ctr(*look, check=False).returncode == 0, 15, "containerd finding hyperboxd")
    second = node.start(sandbox, pod, "second", reference, command=["sleep", "1000"])
    assert node.cri.run_in(second, "cat", "/etc/passwd") == node.cri.run_in(first, "cat", "/etc/passwd")
    assert node.cri.run_in(first, "cat", "/a") == "a"
    node.cri.call("StopPodSandbox", pod_sandbox_id=sandbox)
    node.cri.call("RemovePodSandbox", pod_sandbox_id=sandbox)
