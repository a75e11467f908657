"""What people do with Docker all day, on HyperBox and on plain overlayfs, with the same assertions."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from hyperbox._dev.fidelity import Scan, differences
from hyperbox._dev.lab.images import run_until_ready
from support.e2e_engines import HOST, System, archive
from support.lab_fixtures import Lab

pytestmark = pytest.mark.engine

CHANGES = """
echo more >> /etc/host.conf
rm /etc/issue.net
rm -r /usr/share/doc
mkdir -p /usr/share/doc/new/deep
echo text > /usr/share/doc/new/deep/file
chmod 600 /etc/passwd
chown 33:33 /etc/group
mv /etc/debian_version /etc/renamed
ln -s renamed /etc/link
ln /etc/renamed /etc/hard
rm /etc/fstab && mkdir /etc/fstab
rm -r /srv && touch /srv
mknod /dev0 c 1 7
mkfifo /fifo
truncate -s 1M /sparse
"""
"""Every kind of change that a layer can hold, over files of the Debian base."""


@pytest.fixture
def base(system: System, lab: Lab) -> str:
    """The Debian base, pulled."""
    _, reference = lab.image("debian-base")
    system.engine.docker("pull", "-q", reference)
    return reference


@pytest.fixture
def busybox(system: System, lab: Lab) -> str:
    """The smallest image with a shell, pulled."""
    _, reference = lab.image("busybox")
    system.engine.docker("pull", "-q", reference)
    return reference


def test_info_names_the_storage_driver(system: System) -> None:
    assert system.out("info", "-f", "{{.Driver}}") == ("hyperbox" if system.hyperbox else "overlayfs")


def test_service_becomes_ready_and_answers(system: System, lab: Lab) -> None:
    image, reference = lab.image("python-web")
    system.engine.docker("pull", "-q", reference)
    started = run_until_ready(system.engine, reference, image.recipe)
    assert '"version": 1' in started.answer
    started.remove()


def test_exec_sees_and_changes_the_containers_tree(system: System, busybox: str) -> None:
    container = system.hold(busybox)
    system.out("exec", container, "sh", "-c", "echo one > /file && rm /etc/group")
    assert system.out("exec", container, "sh", "-c", "cat /file; ls /etc/group 2>&1 | wc -l; id -u") == "one\n1\n0"
    assert system.out("exec", "-u", "65534:65534", "-w", "/tmp", container, "sh", "-c", "id -u; pwd") == "65534\n/tmp"


def test_diff_of_the_same_changes_is_that_of_overlayfs(hyper: System, vanilla: System, lab: Lab) -> None:
    _, reference = lab.image("debian-base")
    seen = []
    for system in (vanilla, hyper):
        system.engine.docker("pull", "-q", reference)
        container = system.hold(reference)
        system.out("exec", container, "sh", "-ec", CHANGES)
        seen.append(set(system.out("diff", container).splitlines()))
        system.engine.docker("rm", "-f", container)
    assert seen[0] == seen[1]
    assert {"C /etc/host.conf", "D /etc/issue.net", "D /usr/share/doc/base-files", "A /fifo", "C /srv"} <= seen[0]


def test_commit_keeps_every_kind_of_change(hyper: System, vanilla: System, lab: Lab) -> None:
    """The committed image is the container it was made of, as the engine itself sees to it on overlayfs."""
    _, reference = lab.image("debian-base")
    trees = []
    for system in (vanilla, hyper):
        system.engine.docker("pull", "-q", reference)
        container = system.hold(reference)
        system.out("exec", container, "sh", "-ec", CHANGES)
        image = system.out("commit", "-c", "ENV MADE=here", container, "committed:latest")
        assert image.startswith("sha256:")
        system.engine.docker("rm", "-f", container)
        system.settle()
        again = system.hold("committed:latest")
        trees.append(system.tree(again))
        assert system.out("exec", again, "printenv", "MADE") == "here"
        system.engine.docker("rm", "-f", again)
        system.engine.docker("rmi", "committed:latest")
    times = _written(*trees)
    assert differences(trees[0], trees[1], made_by_engine=times) == []
    assert trees[0].paths[b"etc/passwd"].mode == 0o600
    assert trees[0].paths[b"dev0"].device == (1, 7)
    assert len(trees[1].devices) == 1


def _written(left: Scan, right: Scan) -> set[bytes]:
    """Paths with a time of the last minutes on both sides: the test made them, at two moments."""
    moment = 1_750_000_000 * 10**9
    return {p for p, f in left.paths.items() if f.mtime_ns > moment and p in right.paths
            and right.paths[p].mtime_ns > moment}  # fmt: skip


def test_build_with_changes_deletions_copies_and_stages(
    system: System, base: str, busybox: str, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text(
        f"FROM {base} AS stage\n"
        "COPY script /script\n"
        "RUN sh -ec 'sh -e /script'\n"
        "RUN rm /etc/link && mv /usr/share/doc/new /usr/share/doc/moved && echo twice >> /etc/hostname.d\n"
        f"FROM {busybox}\n"
        "COPY --from=stage /etc /copied/\n"
        "COPY --from=stage --chown=7:8 /usr/share/doc/moved /moved\n"
        "RUN test ! -e /copied/link && rm -r /moved/deep && echo done > /moved/built\n"
        "CMD cat /moved/built\n"
    )
    (tmp_path / "script").write_text(CHANGES)
    system.engine.docker("build", "--network", "host", "-t", "stage", "--target", "stage", str(tmp_path))
    system.engine.docker("build", "--network", "host", "-t", "built", str(tmp_path))
    look = "stat -c '%A %u %g %n' /etc/passwd /etc/group /fifo /dev0; ls /etc/link /usr/share/doc; stat -c %h /etc/hard"
    for _ in range(2):
        assert system.sh("stage", f"({look}) 2>/dev/null || true; cat /usr/share/doc/moved/deep/file") == (
            "-rw------- 0 0 /etc/passwd\n-rw-r--r-- 33 33 /etc/group\nprw-r--r-- 0 0 /fifo\ncrw-r--r-- 0 0 /dev0\n"
            "/usr/share/doc:\nmoved\n2\ntext"
        )
        assert system.sh("built", "stat -c '%u %g' /moved; ls /moved; cat /copied/renamed | wc -l") == "7 8\nbuilt\n1"
        assert system.out("run", "--rm", *HOST, "built") == "done"
        system.settle()
    system.engine.docker("rmi", "-f", "stage", "built")


def test_what_is_built_can_be_saved_pushed_and_loaded(system: System, lab: Lab, busybox: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {busybox}\nRUN echo built > /built && rm /etc/group\n")
    name = lab.registry.reference(f"built-{'hyper' if system.hyperbox else 'vanilla'}", "1")
    system.engine.docker("build", "--network", "host", "-t", name, str(tmp_path))
    system.engine.docker("push", "-q", name)
    saved = tmp_path / "saved.tar"
    system.engine.docker("save", "-o", str(saved), name)
    look = "cat /built; ls /etc/passwd /etc/group 2>/dev/null || true"
    for bring_back in (("load", "-i", str(saved)), ("pull", "-q", name)):
        system.settle()
        system.engine.docker("rmi", "-f", name)
        assert name not in system.images()
        system.engine.docker(*bring_back)
        assert system.sh(name, look) == "built\n/etc/passwd"
    system.engine.docker("rmi", "-f", name)


def test_load_and_run_before_and_after_compaction(system: System, lab: Lab, tmp_path: Path) -> None:
    image, _ = lab.image("debian-base")
    file = tmp_path / "image.tar"
    lab.images.save(image, file)
    system.engine.docker("load", "-i", str(file))
    before = system.hold(image.key)
    system.settle()
    after = system.hold(image.key)
    tree = system.tree(after)
    assert differences(system.tree(before), tree, made_by_engine={b"", b"etc", b"etc/mtab", b".dockerenv"}) == []
    assert len(tree.devices) == 1
    system.engine.docker("rm", "-f", before, after)
    system.engine.docker("rmi", image.key)


def test_import_and_export_carry_a_tree(system: System, tmp_path: Path) -> None:
    data = archive({"data/a": b"A" * 5000, "b": b"B"})
    system.engine.docker("import", "-c", 'CMD ["/data/a"]', "-", "imported:1", stdin=data)
    for _ in range(2):  # on HyperBox, the second time from the compacted layer
        container = system.out("create", "imported:1")
        system.engine.docker("export", container, "-o", str(tmp_path / "out.tar"))
        with tarfile.open(tmp_path / "out.tar") as tar:
            found = tar.extractfile("data/a")
            assert found is not None
            assert found.read() == b"A" * 5000
            assert tar.getmember("b").mtime == 1_700_000_000
        system.engine.docker("rm", container)
        system.settle()
    system.engine.docker("rmi", "imported:1")


def test_cp_both_ways_also_of_files_from_the_image(system: System, base: str, tmp_path: Path) -> None:
    for container in (system.hold(base), system.out("create", base)):
        (tmp_path / "in").write_bytes(b"x" * 100_000)
        system.engine.docker("cp", str(tmp_path / "in"), f"{container}:/srv/in")
        system.engine.docker("cp", f"{container}:/srv/in", str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == b"x" * 100_000
        system.engine.docker("cp", f"{container}:/etc/passwd", str(tmp_path / "passwd"))
        assert (tmp_path / "passwd").read_text().startswith("root:x:0:0")
        system.engine.docker("cp", "-q", f"{container}:/usr/share/doc/base-files", str(tmp_path / "doc"))
        assert (tmp_path / "doc/copyright").stat().st_size > 1000
        for name in ("in", "back", "passwd"):
            (tmp_path / name).unlink()
        system.engine.docker("rm", "-f", container)
        for file in (tmp_path / "doc").iterdir():
            file.unlink()
        (tmp_path / "doc").rmdir()


def test_data_of_a_container_survives_stop_restart_and_pause(system: System, busybox: str) -> None:
    container = system.hold(busybox)
    system.out("exec", container, "sh", "-c", "echo kept > /kept; echo more >> /etc/passwd; rm /etc/group")
    system.out("restart", "-t", "0", container)
    system.out("stop", "-t", "0", container)
    assert system.out("inspect", "-f", "{{.State.Status}}", container) == "exited"
    system.out("start", container)
    assert system.out("exec", container, "sh", "-c", "cat /kept; tail -n1 /etc/passwd; ls /etc/group 2>&1 | wc -l") == (
        "kept\nmore\n1"
    )
    system.out("pause", container)
    assert system.out("inspect", "-f", "{{.State.Status}}", container) == "paused"
    system.out("unpause", container)
    assert system.out("exec", container, "cat", "/kept") == "kept"


def test_options_of_run_that_touch_the_file_system(system: System, base: str, tmp_path: Path) -> None:
    (tmp_path / "bound").write_text("bound")
    options = ("--read-only", "--tmpfs", "/run:size=1m", "-v", "vol:/var/lib", "-v", f"{tmp_path}/bound:/etc/issue:ro")
    script = (
        "touch /x 2>/dev/null || echo read-only; touch /run/y && echo tmpfs; cat /etc/issue; echo; "
        "ls -d /var/lib/dpkg; touch /var/lib/z; id -un; id -gn"
    )
    assert system.sh(base, script, *options) == "read-only\ntmpfs\nbound\n/var/lib/dpkg\nroot\nroot"
    assert system.sh(base, "ls /var/lib/z", "-v", "vol:/var/lib") == "/var/lib/z"
    assert system.sh(base, "id -u; id -g; touch /x 2>&1 | wc -l; touch /tmp/x", "-u", "www-data") == "33\n33\n1"
    assert system.sh(base, "stat -c %U:%G /home/w", "-w", "/home/w", "-u", "33:33") == "root:root"
    assert json.loads(system.out("volume", "inspect", "vol"))[0]["Driver"] == "local"
    system.out("volume", "rm", "vol")


def test_size_of_a_container_is_what_it_wrote(system: System, busybox: str) -> None:
    container = system.hold(busybox)
    system.out("exec", container, "sh", "-c", "head -c 3000000 /dev/zero > /big; sync")
    size = json.loads(system.out("inspect", "-s", "-f", "{{json .SizeRw}}", container))
    assert 3_000_000 <= size < 3_100_000
