"""Docker on HyperBox over the life of a node: compaction, garbage collection, restarts and kills of every daemon."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hyperbox._dev.fidelity import differences
from hyperbox._dev.lab import NEXT, Engine
from hyperbox._dev.lab.images import CI_IMAGES, run_until_ready
from hyperbox._dev.lab.runs import mounts_below, wait_until
from support.e2e_engines import System, archive, assert_sound, cli, events, layers, reconnected, stored
from support.lab_fixtures import Lab

pytestmark = pytest.mark.engine

MADE_BY_ENGINE = {b"", b"etc", b"etc/mtab", b".dockerenv"}


@pytest.fixture(scope="module")
def node(lab: Lab) -> Iterator[System]:
    """An engine and a hyperboxd of this file's own, to be stopped and killed."""
    daemon = lab.hyperboxd("life", engine="life-e")
    engine = lab.engine("life-e", snapshotter=daemon.snapshotter)
    yield System(engine, daemon)
    engine.stop()
    assert mounts_below(daemon.state) == []
    daemon.stop()
    assert mounts_below(daemon.run_folder) == []
    daemon.close()


@pytest.fixture
def system(node: System) -> Iterator[System]:
    """The node, empty before and sound and empty after each test."""
    yield node
    assert_sound(node.client)
    node.clean()
    assert stored(node.client) == (0, 0)


def _pull(system: System, lab: Lab, name: str) -> str:
    _, reference = lab.image(name)
    system.engine.docker("pull", "-q", reference)
    return reference


def _load(system: System, lab: Lab, name: str, folder: Path) -> str:
    image, _ = lab.image(name)
    lab.images.save(image, folder / "image.tar")
    system.engine.docker("load", "-i", str(folder / "image.tar"))
    return image.key


def _folders(system: System) -> set[str]:
    assert system.daemon is not None
    return {entry.name for entry in os.scandir(system.daemon.state / "snapshots") if (Path(entry) / "fs").exists()}


def test_removed_images_leave_nothing_once_collected(system: System, lab: Lab) -> None:
    assert system.daemon is not None
    reference = _pull(system, lab, "debian-base")
    container = system.hold(reference)
    system.engine.ctr("-n", "moby", "images", "rm", "--sync", reference)  # Docker would keep it under another name
    assert json.loads(cli(system.daemon, "store", "gc", "--grace", "0", "--format", "json"))["objects"] == 0
    assert system.out("exec", container, "sh", "-c", "cat /usr/share/doc/base-files/copyright | wc -c") != "0"
    system.engine.docker("rm", "-f", container)
    would = json.loads(cli(system.daemon, "store", "gc", "--grace", "0", "--dry-run", "--format", "json"))
    done = json.loads(cli(system.daemon, "store", "gc", "--grace", "0", "--format", "json"))
    assert (would["objects"], len(would["layers"])) == (done["objects"], len(done["layers"]))
    assert done["bytes"] > 50e6
    assert stored(system.client) == (0, 0)
    left = sum(entry.stat().st_size for entry in (system.daemon.state / "objects").rglob("*") if entry.is_file())
    assert left == 0


def test_containers_from_before_compaction_keep_their_tree(system: System, lab: Lab, tmp_path: Path) -> None:
    key = _load(system, lab, "debian-base", tmp_path)
    before = system.hold(key)
    system.out("exec", before, "sh", "-c", "echo kept > /kept; rm /etc/issue; mv /etc/debian_version /etc/moved")
    wait_until(lambda: [layer.form for layer in layers(system.client, key)] == ["composed"], 60, "compaction")
    assert layers(system.client, key)[0].source == "compacted"
    after = system.hold(key)
    changed = {b"kept", b"etc/issue", b"etc/debian_version", b"etc/moved"}
    tree, fresh = system.tree(before), system.tree(after)
    for path in changed:
        tree.paths.pop(path, None)
        fresh.paths.pop(path, None)
    found = differences(tree, fresh, made_by_engine=MADE_BY_ENGINE)
    # While its folder is in use, a file has one name more: that of its object.
    links = [re.fullmatch(r".*: links: (\d+) and (\d+)", line) for line in found]
    assert [line for line, two in zip(found, links, strict=True) if not two or int(two[1]) != int(two[2]) + 1] == []
    assert len(_folders(system)) == 5, "two containers, each with an init layer, and the folder that one still uses"
    system.out("restart", "-t", "0", before)
    assert system.out("exec", before, "sh", "-c", "cat /kept; cat /etc/moved | wc -l; ls /etc/issue 2>&1 | wc -l") == (
        "kept\n1\n1"
    )
    system.engine.docker("rm", "-f", before, after)
    wait_until(lambda: not _folders(system), 60, "the folder's end")


def test_files_that_two_images_share_are_kept_once(system: System, lab: Lab, tmp_path: Path) -> None:
    _pull(system, lab, "debian-base")
    objects = stored(system.client)[1]
    data = system.engine.docker(
        "run", "--rm", lab.image("debian-base")[1], "cat", "/usr/share/doc/base-files/copyright"
    )
    system.engine.docker("import", "-", "imported:1", stdin=archive({"elsewhere": data.stdout.encode()}))
    wait_until(lambda: bool(events(system.client, "layer.compacted")), 30, "compaction")
    assert stored(system.client)[1] == objects
    assert system.engine.docker("run", "--rm", "imported:1", "/elsewhere", check=False).returncode != 0


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_containers_go_on_without_hyperboxd_and_new_ones_start_after_it(
    system: System, lab: Lab, end: str, tmp_path: Path
) -> None:
    assert system.daemon is not None
    pulled, loaded = _pull(system, lab, "debian-base"), _load(system, lab, "busybox", tmp_path)
    running = [system.hold(pulled), system.hold(loaded)]
    stopped = system.hold(pulled)
    system.out("exec", stopped, "sh", "-c", "echo kept > /kept; chmod 600 /etc/passwd")
    system.out("stop", "-t", "0", stopped)
    (system.daemon.kill if end == "kill" else system.daemon.stop)()
    for container in running:
        # Files that nobody has opened so far, and the writable layer.
        look = "cat /bin/ls /etc/passwd | wc -c; echo new > /etc/new; cat /etc/new"
        assert system.out("exec", container, "sh", "-c", look).endswith("\nnew")
    assert system.engine.docker("run", "--rm", pulled, "true", check=False).returncode != 0
    system.daemon.start()
    reconnected(system)
    system.out("start", stopped)
    assert system.out("exec", stopped, "sh", "-c", "cat /kept; stat -c %a /etc/passwd") == "kept\n600"
    for image, container in zip((pulled, loaded), running, strict=True):
        assert system.sh(image, "cat /etc/new 2>/dev/null || echo none") == "none"
        assert system.out("exec", container, "cat", "/etc/new") == "new"
    system.settle()
    assert system.out("exec", running[1], "cat", "/etc/new") == "new"
    assert system.sh(loaded, "echo runs") == "runs"


def test_containers_survive_a_restart_of_the_engine(system: System, lab: Lab) -> None:
    pulled = _pull(system, lab, "debian-base")
    container = system.hold(pulled)
    system.out("exec", container, "sh", "-c", "echo kept > /kept; rm /etc/issue")
    system.engine.stop_dockerd()
    system.engine.stop_containerd()
    system.engine.start_containerd()
    system.engine.start_dockerd()
    system.out("start", container)
    assert system.out("exec", container, "sh", "-c", "cat /kept; ls /etc/issue 2>&1 | wc -l") == "kept\n1"
    assert system.sh(pulled, "cat /etc/issue | wc -l") == "2"


def test_everything_starts_again_after_hyperboxd_and_engine_were_down(system: System, lab: Lab, tmp_path: Path) -> None:
    assert system.daemon is not None
    pulled, loaded = _pull(system, lab, "debian-base"), _load(system, lab, "busybox", tmp_path)
    container = system.hold(pulled)
    system.out("exec", container, "sh", "-c", "echo kept > /kept")
    system.engine.stop_dockerd()
    system.engine.stop_containerd()
    system.daemon.stop()
    assert mounts_below(system.daemon.run_folder) == [], "nobody uses a mount, so none is left"
    system.daemon.start()
    system.engine.start_containerd()
    system.engine.start_dockerd()
    system.out("start", container)
    assert system.out("exec", container, "cat", "/kept") == "kept"
    assert system.sh(loaded, "echo runs") == "runs"


def test_images_pulled_and_run_all_at_once(system: System, lab: Lab) -> None:
    references = [lab.image(name)[1] for name in CI_IMAGES if name != "pause:v1"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda reference: system.engine.docker("pull", "-q", reference), references * 2))
        held = list(pool.map(system.hold, references * 2))
        assert len(set(held)) == len(held)
        list(pool.map(lambda container: system.engine.docker("rm", "-f", container), held))
    assert {layer.source for reference in references for layer in layers(system.client, reference)} == {"pull"}


@pytest.mark.slow
def test_newer_docker_does_the_same_and_lists_pulled_images(lab: Lab, tmp_path: Path) -> None:
    daemon = lab.hyperboxd("next", engine="next-e")
    engine: Engine = lab.engine("next-e", snapshotter=daemon.snapshotter, release=NEXT)
    system = System(engine, daemon)
    image, reference = lab.image("python-web")
    engine.docker("pull", "-q", reference)
    assert [(layer.form, layer.source) for layer in layers(system.client, reference)] == [("composed", "pull")] * 3
    assert reference in system.out("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").splitlines()
    run_until_ready(engine, reference, image.recipe).remove()
    (tmp_path / "Dockerfile").write_text(f"FROM {reference}\nRUN echo built > /built && rm -r /srv/app/static\n")
    engine.docker("build", "--network", "host", "-t", "built", str(tmp_path))
    look = "cat /built; ls -d /srv/app/static 2>/dev/null || echo gone"
    assert system.out("run", "--rm", "--network", "host", "--entrypoint", "sh", "built", "-c", look) == "built\ngone"
    system.settle()
    assert system.out("run", "--rm", "--network", "host", "--entrypoint", "sh", "built", "-c", look) == "built\ngone"
    container = system.hold(reference)
    system.out("exec", container, "sh", "-c", "echo x > /x; rm /etc/issue")
    assert {"A /x", "D /etc/issue"} <= set(system.out("diff", container).splitlines())
    system.out("commit", container, "committed")
    system.clean()
    assert stored(system.client) == (0, 0)
    engine.stop()
    daemon.close()
