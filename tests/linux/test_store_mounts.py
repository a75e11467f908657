"""Objects as the data-only layer of a real overlay: who may read them, and what a mount sees when they go."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperbox.api.errors.linux import FeatureMissing, MountFailed
from hyperbox.linux import mount_overlay, umount
from hyperbox.store import Store

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]

SCRIPT = b"#!/bin/sh\necho from an object\n" + b"# filler\n" * 200
NOBODY = 65534


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:  # an ordinary user has to reach the mount
        if parent.stat().st_mode & 0o055 != 0o055 and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    with Store.open(tmp_path / "state") as opened:
        yield opened


@pytest.fixture
def rootfs(store: Store, tmp_path: Path) -> Iterator[Path]:
    """An overlay with the file `script`, whose content is an object of the store."""
    with store.objects.lease("test") as lease:
        digest = lease.put(SCRIPT)
        store.layers.add(b"image", {digest: len(SCRIPT)}, entries=1, size=len(SCRIPT), source="test")
    lower = tmp_path / "lower"
    lower.mkdir(mode=0o755)
    file = lower / "script"
    file.touch(mode=0o755)
    file.chmod(0o755)
    os.truncate(file, len(SCRIPT))
    path = store.objects.path(digest)
    os.setxattr(file, "trusted.overlay.metacopy", b"")
    os.setxattr(file, "trusted.overlay.redirect", f"/{path.parent.name}/{path.name}".encode())
    target = tmp_path / "rootfs"
    target.mkdir()
    options = ["metacopy=on", "redirect_dir=on"]
    try:
        mount_overlay(target, lowers=[lower], datas=[store.objects.root], options=options, readonly=True)
    except (MountFailed, FeatureMissing) as error:
        pytest.skip(f"no data-only layers here: {error}")
    yield target
    umount(target)


def test_an_ordinary_user_reads_and_executes_what_only_root_can_reach(store: Store, rootfs: Path) -> None:
    [digest] = store.layers.objects_of(store.layers.list()[0].layer_id)
    direct: list[str | Path] = ["cat", store.objects.path(digest)]
    refused = subprocess.run(direct, check=False, user=NOBODY, group=NOBODY, capture_output=True)
    assert b"Permission denied" in refused.stderr
    done = subprocess.run([rootfs / "script"], check=True, user=NOBODY, group=NOBODY, capture_output=True)
    assert done.stdout == b"from an object\n"
    read = subprocess.run(["cat", rootfs / "script"], check=True, user=NOBODY, group=NOBODY, capture_output=True)
    assert read.stdout == SCRIPT


def test_an_open_file_of_a_mount_outlives_collection(store: Store, rootfs: Path) -> None:
    with (rootfs / "script").open("rb") as file:
        assert store.gc(grace=0).objects == 1
        assert file.read() == SCRIPT


def test_an_object_that_a_mount_has_not_seen_fails_when_it_is_gone(store: Store, rootfs: Path) -> None:
    [digest] = store.layers.objects_of(store.layers.list()[0].layer_id)
    store.objects.path(digest).chmod(0o600)
    store.objects.path(digest).write_bytes(b"damage")
    assert store.verify().damaged == (digest,)
    with pytest.raises(OSError) as caught:  # noqa: PT011 (the errno is what is checked)
        (rootfs / "script").read_bytes()
    # ENOENT on kernel 6.18; what matters is that the open fails and gives neither zeros nor the damaged bytes.
    assert caught.value.errno in (errno.ENOENT, errno.EIO)
