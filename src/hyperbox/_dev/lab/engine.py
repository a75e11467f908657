"""A private container engine: containerd and dockerd of the lab, beside whatever engine the machine has.

What is shared with the machine, and why:

- *Network.* Containers use the machine's network (`--network host`) or none. dockerd makes no bridge and touches no
  packet filter, so nothing of the machine's network changes and nothing has to be put back. Two containers that run
  at the same time need two ports: the lab's images take theirs from the variable `PORT`.
- *Mounts* are in the machine's mount name space, because HyperBox mounts there too, and mounts of one process have to
  be visible to the others. They all lie below the run's folders and are unmounted at the end.
- *cgroups* of Docker's containers are below one cgroup that has the run's name; `ctr` puts its own below one named
  after the containerd name space. Both are removed.
- `/run/containerd/s`, where shims have their sockets whatever is configured; it is removed if it is empty then.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .home import LabError, remove_tree
from .packages import STABLE, Release, cni_plugins, toolbox
from .runs import Child, Run, accepts, cgroups_named, kill_leftovers, remove_cgroup, unmount_below

_LONGEST_SOCKET = 107


@dataclass(frozen=True)
class Cri:
    """Settings for containerd's CRI plugin: the pause image, and whether pods go through HyperBox."""

    pause_image: str
    registry: str | None = None
    """`host:port` of a registry to be reached by plain HTTP."""


class Engine:
    """One containerd and, unless `docker=False`, one dockerd on it. Started by the constructor; a context manager.

    `snapshotter` is the name and socket of a proxy snapshotter that Docker then uses as its storage driver; without it
    Docker uses containerd's overlayfs. Stopping removes all containers, processes, mounts, cgroups and folders of the
    engine, and also happens when the run closes.
    """

    def __init__(
        self,
        run: Run,
        name: str = "engine",
        *,
        snapshotter: tuple[str, Path] | None = None,
        release: Release = STABLE,
        docker: bool = True,
        cri: Cri | None = None,
        insecure_registries: tuple[str, ...] = (),
        remote_annotations: bool = True,
    ) -> None:
        self.run = run
        self.name = name
        self.snapshotter = snapshotter
        self.tools = toolbox(run.home, release)
        self.root = run.data / name
        self.sockets = run.sockets / name
        self.containerd_socket = self.sockets / "containerd.sock"
        self.docker_socket = self.sockets / "docker.sock"
        self.insecure_registries = insecure_registries
        self._cri = cri
        self._remote_annotations = remote_annotations
        self._cgroup = f"{run.cgroup}/{name}"
        self._containerd: Child | None = None
        self._dockerd: Child | None = None
        self._stopped = False
        if len(str(self.containerd_socket) + ".ttrpc") > _LONGEST_SOCKET:
            raise LabError(f"the socket path {self.containerd_socket} is too long; use a shorter engine name")
        self.root.mkdir()
        self.sockets.mkdir(mode=0o711)
        self._cgroups_before = {group for space in ("default", "k8s.io", "moby") for group in cgroups_named(space)}
        run.on_close(self.stop)
        try:
            self.start_containerd()
            if docker:
                self.start_dockerd()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def docker_host(self) -> str:
        """The value for `DOCKER_HOST`."""
        return f"unix://{self.docker_socket}"

    @property
    def storage_driver(self) -> str:
        """The snapshotter that Docker uses."""
        return self.snapshotter[0] if self.snapshotter else "overlayfs"

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which `docker` and `ctr` of the lab use this engine."""
        return {
            **self.tools.environment(),
            "DOCKER_HOST": self.docker_host,
            "DOCKER_CONFIG": str(self.root / "docker-client"),
            "DOCKER_CLI_HINTS": "false",
            "CONTAINERD_ADDRESS": str(self.containerd_socket),
        }

    # Starting

    def _containerd_version(self) -> int:
        text = subprocess.run(
            [self.tools.program("containerd"), "--version"],
            env=self.tools.environment(), capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        return int(text.split()[2].lstrip("v").split(".")[0])

    def _containerd_config(self) -> str:
        major = self._containerd_version()
        disabled = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.tracing"]
        if self._cri is None:
            disabled += ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]
        lines = [
            f"version = {2 if major < 2 else 3}",
            f"root = '{self.root}/containerd'",
            f"state = '{self.sockets}/containerd'",
            f"disabled_plugins = {json.dumps(disabled)}",
            f"[grpc]\naddress = '{self.containerd_socket}'",
            f"[ttrpc]\naddress = '{self.containerd_socket}.ttrpc'",
            f"[plugins.'io.containerd.internal.v1.opt']\npath = '{self.root}/opt'",
        ]
        if self.snapshotter:
            name, address = self.snapshotter
            lines.append(f"[proxy_plugins.{name}]\ntype = 'snapshot'\naddress = '{address}'")
            if major >= 2:
                lines.append(f"[proxy_plugins.{name}.exports]\nenable_remote_snapshot_annotations = 'true'")
                transfer = "plugins.'io.containerd.transfer.v1.local'"
                lines += [f"[[{transfer}.unpack_config]]\nplatform = 'linux'\nsnapshotter = '{one}'"
                          for one in ("overlayfs", name)]  # fmt: skip
        if self._cri:
            lines += self._cri_config(self._cri, major)
        return "\n".join(lines) + "\n"

    def _cri_config(self, cri: Cri, major: int) -> list[str]:
        cni = self._cni_config()
        annotations = f"disable_snapshot_annotations = {str(not self._remote_annotations).lower()}"
        snapshotter = f"snapshotter = '{self.storage_driver}'"
        hosts = f"config_path = '{self.root}/certs.d'"
        if cri.registry:
            folder = self.root / "certs.d" / cri.registry
            folder.mkdir(parents=True)
            (folder / "hosts.toml").write_text(f'server = "http://{cri.registry}"\n')
        oom = "restrict_oom_score_adj = true"  # the pause container's is below ours, which takes CAP_SYS_RESOURCE
        often = "stats_collect_period = 1"  # seconds between looks at the snapshots' sizes
        if major < 2:
            plugin = "plugins.'io.containerd.grpc.v1.cri'"
            return [
                f"[{plugin}]\nsandbox_image = '{cri.pause_image}'\ndisable_tcp_service = true\n{oom}\n{often}",
                f"[{plugin}.containerd]\n{snapshotter}\n{annotations}",
                f"[{plugin}.cni]\n{cni}",
                f"[{plugin}.registry]\n{hosts}",
            ]
        images, runtime = "plugins.'io.containerd.cri.v1.images'", "plugins.'io.containerd.cri.v1.runtime'"
        return [
            f"[{images}]\n{snapshotter}\n{annotations}\n{often}",
            f"[{images}.pinned_images]\nsandbox = '{cri.pause_image}'",
            f"[{images}.registry]\n{hosts}",
            f"[{runtime}]\n{oom}",
            f"[{runtime}.cni]\n{cni}",
        ]

    def _cni_config(self) -> str:
        """A network that is a loopback device only, which pods with host networking do not even use."""
        folder = self.root / "cni"
        folder.mkdir()
        network = {"cniVersion": "0.4.0", "name": "lab", "plugins": [{"type": "loopback"}]}
        (folder / "10-lab.conflist").write_text(json.dumps(network))
        return f"bin_dir = '{cni_plugins(self.run.home)}'\nconf_dir = '{folder}'"

    def start_containerd(self) -> None:
        """Start containerd (again, after `stop_containerd`) and wait until it answers."""
        config = self.root / "containerd.toml"
        if not config.exists():
            config.write_text(self._containerd_config())
        self._containerd = self.run.spawn(
            f"{self.name}-containerd",
            [self.tools.program("containerd"), "--config", str(config)],
            env=self.tools.environment(),
        )
        self._containerd.wait_for(lambda: accepts(self.containerd_socket) and self._answers("version"))

    def _answers(self, *command: str) -> bool:
        return self.ctr(*command, check=False).returncode == 0

    def start_dockerd(self, extra: Mapping[str, object] | None = None) -> None:
        """Start dockerd (again, after `stop_dockerd`) and wait until it answers; `extra` goes into its daemon.json."""
        settings: dict[str, object] = {
            "features": {"containerd-snapshotter": True},
            "storage-driver": self.storage_driver,
            "data-root": f"{self.root}/docker",
            "exec-root": f"{self.sockets}/docker",
            "pidfile": f"{self.sockets}/docker.pid",
            "hosts": [self.docker_host],
            "containerd": str(self.containerd_socket),
            "cgroup-parent": f"/{self._cgroup}",
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "bridge": "none",
            "iptables": False,
            "ip6tables": False,
            "ip-forward": False,
            "ip-masq": False,
            "userland-proxy": False,
            "insecure-registries": ["127.0.0.0/8", *self.insecure_registries],
            **(extra or {}),
        }
        config = self.root / "daemon.json"
        config.write_text(json.dumps(settings, indent=2))
        client = self.root / "docker-client"
        (client / "cli-plugins").mkdir(parents=True, exist_ok=True)
        plugin = client / "cli-plugins/docker-buildx"
        if not plugin.is_symlink():
            plugin.symlink_to(self.tools.program("docker-buildx"))
        self._dockerd = self.run.spawn(
            f"{self.name}-dockerd",
            [self.tools.program("dockerd"), "--config-file", str(config)],
            env=self.tools.environment(),
        )
        self._dockerd.wait_for(lambda: accepts(self.docker_socket), 60)
        self._dockerd.wait_for(lambda: self.docker("version", check=False).returncode == 0, 30)

    # Use

    def docker(
        self, *args: str, check: bool = True, timeout: float = 600, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `docker` on this engine and return what it printed; raises `LabError` with its errors when it fails."""
        return self._client("docker", args, check, timeout, stdin)

    def ctr(
        self, *args: str, check: bool = True, timeout: float = 600, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `ctr` on this engine's containerd, as `docker` does."""
        return self._client("ctr", args, check, timeout, stdin)

    def _client(
        self, program: str, args: tuple[str, ...], check: bool, timeout: float, data: bytes | None
    ) -> subprocess.CompletedProcess[str]:
        command = [self.tools.program(program), *args]
        try:
            done = subprocess.run(
                command, env=self.environment, input=data or b"", capture_output=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            raise LabError(f"{program} {' '.join(args)} did not end within {timeout:g} s") from None
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        if check and done.returncode:
            raise LabError(f"{program} {' '.join(args)}: exit status {done.returncode}: {err.strip()[-2000:]}")
        return subprocess.CompletedProcess(command, done.returncode, out, err)

    def pids(self) -> dict[str, int]:
        """Process ids of the running daemons, by name."""
        both = {"containerd": self._containerd, "dockerd": self._dockerd}
        return {name: child.pid for name, child in both.items() if child and child.process.poll() is None}

    # Stopping

    def stop_dockerd(self) -> None:
        """Stop dockerd alone; containers end with it, as Docker does without live restore."""
        if self._dockerd:
            self._dockerd.stop(30)
            self._dockerd = None

    def stop_containerd(self) -> None:
        """Stop containerd alone; containers go on under their shims."""
        if self._containerd:
            self._containerd.stop()
            self._containerd = None

    def _remove_containers(self) -> None:
        with contextlib.suppress(LabError, subprocess.SubprocessError):
            if self._dockerd and self._dockerd.process.poll() is None:
                ids = self.docker("ps", "-aq", timeout=20).stdout.split()
                if ids:
                    self.docker("rm", "-f", "-v", *ids, timeout=60)
        with contextlib.suppress(LabError, subprocess.SubprocessError):
            if self._containerd and self._containerd.process.poll() is None:
                for space in self.ctr("namespaces", "ls", "-q", timeout=20).stdout.split():
                    for task in self.ctr("-n", space, "tasks", "ls", "-q", timeout=20).stdout.split():
                        self.ctr("-n", space, "tasks", "rm", "-f", task, timeout=30, check=False)

    def stop(self) -> None:
        """End the engine and everything in it, and delete its folders. May be called twice."""
        if self._stopped:
            return
        self._stopped = True
        self._remove_containers()
        self.stop_dockerd()
        self.stop_containerd()
        kill_leftovers(f"{self.run.id}/{self.name}", self.sockets, self.run.home.path("programs"))
        for folder in (self.sockets, self.root):
            unmount_below(folder)
        remove_cgroup(self._cgroup)
        for space in ("default", "k8s.io", "moby"):
            if not any(group.name == space for group in self._cgroups_before):
                remove_cgroup(space)
        remove_tree(self.sockets)
        remove_tree(self.root)
