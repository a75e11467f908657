"""`hyperbox setup` on configuration files with which containerd and dockerd are really started, and `doctor`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hyperbox._dev.lab import NEXT, STABLE, Engine, Hyperboxd, Release, toolbox
from hyperbox._dev.lab.runs import accepts
from support.e2e_engines import System, layers
from support.lab_fixtures import Lab

pytestmark = pytest.mark.engine

VERSIONS = [
    pytest.param((STABLE, 2), id="containerd-1 version 2"),
    pytest.param((NEXT, 2), id="containerd-2 version 2", marks=pytest.mark.slow),
    pytest.param((NEXT, 3), id="containerd-2 version 3", marks=pytest.mark.slow),
]


@dataclass
class Host:
    """A machine's configuration files, and an engine that is started with them."""

    lab: Lab
    daemon: Hyperboxd
    release: Release
    folder: Path
    engines: list[Engine] = field(default_factory=list)

    @property
    def config_toml(self) -> Path:
        return self.folder / "etc/containerd/config.toml"

    @property
    def daemon_json(self) -> Path:
        return self.folder / "etc/docker/daemon.json"

    def hyperbox(self, *args: str, status: int = 0) -> str:
        """What a `hyperbox` command prints, with the lab's containerd and dockerd there to check files."""
        env: Mapping[str, str] = {
            **toolbox(self.lab.run.home, self.release).environment(),
            "HYPERBOX_DAEMON_STATE": str(self.daemon.state),
            "HYPERBOX_DAEMON_RUN": str(self.daemon.run_folder),
            "HYPERBOX_ENGINE_CONTAINERD_ADDRESS": str(self.daemon.run.sockets / "setup-e" / "containerd.sock"),
        }
        command = [sys.executable, "-c", "from hyperbox.cli.main import main; main()", *args]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == status, done.stderr + done.stdout
        return done.stdout + done.stderr

    def setup(self, what: str, *args: str, status: int = 0) -> str:
        """`hyperbox setup docker` or `containerd` on the files of this host."""
        files = ["--config-toml", str(self.config_toml)]
        if what == "docker":
            files += ["--daemon-json", str(self.daemon_json)]
        return self.hyperbox("setup", what, *files, *args, status=status)


@pytest.fixture
def host(request: pytest.FixtureRequest, lab: Lab, tmp_path: Path) -> Iterator[Host]:
    """A host with files as packages bring them; the parameters are release and version of config.toml."""
    release, version = request.param
    daemon = lab.hyperboxd("setup", engine="setup-e")
    host = Host(lab, daemon, release, tmp_path)
    host.config_toml.parent.mkdir(parents=True)
    host.daemon_json.parent.mkdir(parents=True)
    host.config_toml.write_text(
        f"# as the machine's owner wrote it\nversion = {version}\n\n[debug]\n  level = 'info' # stays\n"
    )
    host.daemon_json.write_text('{"log-level": "warn", "features": {"buildkit": true}}\n')
    yield host
    for engine in host.engines:
        engine.stop()
    daemon.close()


@pytest.mark.parametrize("host", VERSIONS, indirect=True)
def test_docker_runs_on_hyperbox_with_the_files_that_setup_wrote(host: Host) -> None:
    before = host.config_toml.read_text(), host.daemon_json.read_text()
    shown = host.setup("docker")
    assert "+[proxy_plugins.hyperbox]" in shown
    assert '+  "storage-driver": "hyperbox"' in shown
    assert (host.config_toml.read_text(), host.daemon_json.read_text()) == before
    applied = host.setup("docker", "--apply")
    assert str(host.daemon_json) in applied
    assert "nothing to change" in host.setup("docker", "--apply")
    assert "# as the machine's owner wrote it" in host.config_toml.read_text()
    system = _start(host)
    _, reference = host.lab.image("busybox")
    assert system.out("info", "-f", "{{.Driver}}") == "hyperbox"
    system.engine.docker("pull", "-q", reference)
    assert [(layer.form, layer.source) for layer in layers(system.client, reference)] == [("composed", "pull")]
    assert system.sh(reference, "echo runs") == "runs"
    system.engine.ctr("images", "pull", "--plain-http", "--snapshotter", "hyperbox", reference)
    host.setup("docker", "--undo")
    assert (host.config_toml.read_text(), host.daemon_json.read_text()) == before


def _start(host: Host) -> System:
    """An engine on the files of the host, with only folders and sockets of its own put in."""

    class Configured(Engine):
        def _containerd_config(self) -> str:
            text = host.config_toml.read_text()
            head, _, rest = text.partition("version = ")
            version, _, rest = rest.partition("\n")
            disabled = [*map(json.dumps, ("io.containerd.nri.v1.nri", "io.containerd.internal.v1.tracing"))]
            places = (
                f"root = '{self.root}/containerd'\nstate = '{self.sockets}/containerd'\n"
                f"disabled_plugins = [{', '.join(disabled)}]\n"
                f"[grpc]\naddress = '{self.containerd_socket}'\n[ttrpc]\naddress = '{self.containerd_socket}.ttrpc'\n"
                f"[plugins.'io.containerd.internal.v1.opt']\npath = '{self.root}/opt'\n"
            )
            return f"{head}version = {version}\n{places}{rest}"

        def start_dockerd(self, extra: Mapping[str, object] | None = None) -> None:
            # The lab's own settings for these two would hide what setup wrote.
            written = json.loads(host.daemon_json.read_text())
            assert written["features"] == {"buildkit": True, "containerd-snapshotter": True}
            super().start_dockerd({**(extra or {}), **written})

    engine = Configured(host.lab.run, "setup-e", release=host.release)
    host.engines.append(engine)
    return System(engine, host.daemon)


@pytest.mark.parametrize("host", [pytest.param((STABLE, 2), id="containerd-1")], indirect=True)
def test_what_the_engine_refuses_is_not_written(host: Host) -> None:
    host.daemon_json.write_text('{"log-level": "warn", "no-such-setting": 1}\n')
    before = host.config_toml.read_text(), host.daemon_json.read_text()
    refused = host.hyperbox(
        "setup", "docker", "--config-toml", str(host.config_toml), "--daemon-json", str(host.daemon_json), "--apply",
        status=1,
    )  # fmt: skip
    assert "HB-" in refused
    assert "no-such-setting" in refused
    assert (host.config_toml.read_text(), host.daemon_json.read_text()) == before


@pytest.mark.parametrize("host", [pytest.param((STABLE, 2), id="containerd-1")], indirect=True)
def test_doctor_says_what_this_machine_allows(host: Host) -> None:
    found = json.loads(host.hyperbox("doctor", "--format", "json"))
    rows = {row["name"]: row for row in found["features"]}
    assert rows["root"]["present"]
    assert not rows["containerd"]["present"]
    assert "engine.containerd_address" in rows["containerd"]["remedy"]
    assert found["data_path"] == "composed"
    assert all(row["remedy"] for row in found["features"] if not row["present"])
    engine = Engine(host.lab.run, "setup-e", snapshotter=host.daemon.snapshotter, docker=False)
    host.engines.append(engine)
    assert accepts(engine.containerd_socket)
    again = json.loads(host.hyperbox("doctor", "--format", "json"))
    present = {row["name"]: row for row in again["features"]}["containerd"]
    assert present["present"], present
    assert present["detail"].startswith("version ")
