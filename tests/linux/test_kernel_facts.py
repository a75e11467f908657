"""Page cache, file system facts and the probe, on the real kernel."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from hyperbox.api.errors.linux import KernelCallFailed
from hyperbox.linux import (
    boot_id,
    cache_use,
    capabilities,
    drop_file_cache,
    filesystem_usage,
    probe,
    read_ahead,
    resident_bytes,
    syncfs,
)
from hyperbox.linux._binding import mincore
from hyperbox.linux._features import DECLARATIONS

PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    if filesystem_usage(tmp_path).type_name in ("tmpfs", "overlay"):
        pytest.skip("the page cache of tmpfs cannot be dropped, that of an overlay belongs to its layers")
    path = tmp_path / "file"
    path.write_bytes(b"x" * (5 * PAGE + 1))
    return path


def test_resident_bytes_follow_what_is_read_and_dropped(file: Path) -> None:
    assert resident_bytes(file) == 6 * PAGE
    drop_file_cache(file)
    assert cache_use(file).resident == 0
    assert cache_use(file).dirty == 0
    file.read_bytes()
    assert resident_bytes(str(file)) == resident_bytes(os.fsencode(file)) == 6 * PAGE


def test_mincore_agrees(file: Path) -> None:
    with file.open("rb") as opened:
        assert sum(mincore(opened.fileno(), 5 * PAGE + 1)) == 6
        drop_file_cache(file)
        assert sum(mincore(opened.fileno(), 5 * PAGE + 1)) == 0


def test_read_ahead_and_empty_file(file: Path, tmp_path: Path) -> None:
    drop_file_cache(file)
    read_ahead(file)
    (tmp_path / "empty").touch()
    assert resident_bytes(tmp_path / "empty") == 0
    with pytest.raises(KernelCallFailed, match="ENOENT"):
        resident_bytes(tmp_path / "none")


def test_syncfs_by_path_and_descriptor(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as opened:
        opened.write("x")
        syncfs(opened.fileno())
    syncfs(tmp_path)
    with pytest.raises(KernelCallFailed):
        syncfs(tmp_path / "none")


def test_filesystem_usage_agrees_with_the_library(tmp_path: Path) -> None:
    usage, stat = filesystem_usage(tmp_path), os.statvfs(tmp_path)
    assert usage.total_bytes == stat.f_blocks * stat.f_frsize
    assert usage.total_inodes == stat.f_files
    assert filesystem_usage("/proc").type_name == "proc"
    with pytest.raises(KernelCallFailed):
        filesystem_usage(tmp_path / "none")


def test_boot_id_is_stable() -> None:
    assert boot_id() == boot_id()
    assert len(boot_id()) == 36


def test_probe_leaves_nothing_and_says_everything(tmp_path: Path) -> None:
    before, threads = Path("/proc/self/mountinfo").read_bytes(), threading.active_count()
    features = probe(tmp_path / "not" / "yet" / "there")
    assert Path("/proc/self/mountinfo").read_bytes() == before
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == threads
    found = {feature.name: feature for feature in features}
    assert set(found) == set(DECLARATIONS)
    assert all(feature.detail for feature in features)
    assert features.d_type.present
    assert features.data_path_reason
    assert features.data_path == ("vanilla" if features.missing_for_composed else "composed")
    assert features.mounting.present == ("CAP_SYS_ADMIN" in capabilities())


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="most features need root")
def test_probe_is_consistent(tmp_path: Path) -> None:
    features = probe(tmp_path)
    if not features.mounting.present:
        pytest.skip(features.mounting.detail)
    assert features.erofs.present == (features.file_backed_erofs.present or features.loop_erofs.present)
    assert not (features.metacopy.present and not features.data_only_layers.present)
    version = tuple(int(part) for part in features.kernel_release.split(".")[:2])
    if version < (6, 5):
        assert not features.data_only_layers.present
    if version < (6, 15):
        assert not features.pre_access.present
    if features.data_only_layers.present and features.fanotify_permission.present:
        assert "through an overlay" in features.fanotify_permission.detail


def test_probe_of_a_folder_that_takes_nothing() -> None:
    features = probe("/proc/hyperbox")
    assert "cannot write in /proc" in features.d_type.detail
    assert features.data_path == "vanilla"
    assert features.psi.detail
