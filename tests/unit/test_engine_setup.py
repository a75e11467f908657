"""Engine set-up: the change, its backup, its undoing, and files that are left alone."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from hyperbox.api.errors.engines import (
    BackupMissing,
    ConfigChangedSince,
    EngineConfigUnreadable,
    EngineConfigVersion,
    SetupCheckFailed,
)
from hyperbox.engines.apply import apply, backup_of, plan, undo
from hyperbox.engines.setup import Wiring, containerd_config, docker_config

FILE = Path("config.toml")
WIRING = Wiring(Path("/run/hyperbox/snapshotter.sock"), Path("/var/lib/hyperbox"), cri=True)


def containerd(text: str | None, wiring: Wiring = WIRING) -> dict:
    return tomllib.loads(containerd_config(text, FILE, wiring))


@pytest.mark.parametrize(
    ("version", "cri"),
    [
        (2, ("io.containerd.grpc.v1.cri", "containerd")),
        (3, ("io.containerd.cri.v1.images",)),
        (4, ("io.containerd.cri.v1.images",)),
    ],
)
def test_each_version_gets_plugin_and_cri_where_it_expects_them(version, cri):
    config = containerd(f"version = {version}\nroot = '/r'\n")
    plugin = config["proxy_plugins"]["hyperbox"]
    assert plugin["type"] == "snapshot"
    assert plugin["address"] == "/run/hyperbox/snapshotter.sock"
    assert plugin["exports"]["root"] == "/var/lib/hyperbox"
    assert plugin["exports"]["enable_remote_snapshot_annotations"] == "true"
    table = config["plugins"]
    for name in cri:
        table = table[name]
    assert table == {"snapshotter": "hyperbox", "disable_snapshot_annotations": False, "discard_unpacked_layers": False}
    assert config["root"] == "/r"


def test_without_cri_the_plugins_are_left_alone():
    config = containerd("version = 3\n", Wiring(WIRING.socket, WIRING.state))
    assert list(config["plugins"]) == ["io.containerd.transfer.v1.local"], "which has to know the snapshotter"


def test_comments_other_plugins_and_a_second_run_change_nothing():
    text = "# ours\nversion = 2\n[proxy_plugins.other]\n  type = 'snapshot' # theirs\n"
    once = containerd_config(text, FILE, WIRING)
    assert "# ours" in once
    assert "# theirs" in once
    assert tomllib.loads(once)["proxy_plugins"]["other"]["type"] == "snapshot"
    assert containerd_config(once, FILE, WIRING) == once


def test_the_file_of_dockers_own_package_has_no_version():
    config = containerd('disabled_plugins = ["cri"]\n', Wiring(WIRING.socket, WIRING.state))
    assert config["version"] == 2
    assert config["disabled_plugins"] == ["io.containerd.grpc.v1.cri"]


@pytest.mark.parametrize("text", ["version = 1\n", "version = 5\n", "[plugins.cri]\nx = 1\n"])
def test_other_versions_are_refused(text):
    with pytest.raises(EngineConfigVersion):
        containerd(text)


@pytest.mark.parametrize("text", ["version = ", "version = 2\nproxy_plugins = 3\n"])
def test_a_broken_file_is_refused(text):
    with pytest.raises(EngineConfigUnreadable):
        containerd(text)


def test_docker_keeps_what_it_had():
    new = json.loads(docker_config('{"data-root": "/d", "features": {"buildkit": true}}', Path("daemon.json")))
    assert new == {
        "data-root": "/d",
        "features": {"buildkit": True, "containerd-snapshotter": True},
        "storage-driver": "hyperbox",
    }


@pytest.mark.parametrize("text", ["[]", "{", '{"features": 1}'])
def test_docker_refuses_what_is_no_configuration(text):
    with pytest.raises(EngineConfigUnreadable):
        docker_config(text, Path("daemon.json"))


def test_apply_and_undo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no engine that could check
    file = tmp_path / "daemon.json"
    file.write_text('{"debug": true}')
    file.chmod(0o640)
    change = plan(file, docker_config)
    assert '+  "storage-driver": "hyperbox"' in change.diff()
    apply(change)
    assert json.loads(file.read_text())["debug"] is True
    assert file.stat().st_mode & 0o777 == 0o640
    assert backup_of(file).read_text() == '{"debug": true}'
    assert not plan(file, docker_config).needed
    undo(file)
    assert file.read_text() == '{"debug": true}'
    assert [p.name for p in tmp_path.iterdir()] == ["daemon.json"]
    with pytest.raises(BackupMissing):
        undo(file)


def test_undo_of_a_file_that_was_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    file = tmp_path / "etc" / "daemon.json"
    apply(plan(file, docker_config))
    undo(file)
    assert list((tmp_path / "etc").iterdir()) == []


def test_undo_does_not_lose_a_later_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    file = tmp_path / "daemon.json"
    file.write_text("{}")
    apply(plan(file, docker_config))
    file.write_text(file.read_text() + "\n")
    with pytest.raises(ConfigChangedSince):
        undo(file)
    assert backup_of(file).exists()


def test_a_refused_file_is_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "bin" / "dockerd"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho unable to configure: no >&2; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    file = tmp_path / "daemon.json"
    file.write_text("{}")
    with pytest.raises(SetupCheckFailed, match="unable to configure: no"):
        apply(plan(file, docker_config))
    assert file.read_text() == "{}"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bin", "daemon.json"]
