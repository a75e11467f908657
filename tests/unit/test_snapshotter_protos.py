"""The committed protobuf modules are what the `.proto` files say, and speak containerd's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperbox.snapshotter.proto import mount_pb2
from hyperbox.snapshotter.proto import snapshots_pb2 as pb


def test_generated_modules_are_current(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="needs grpcio-tools")
    from hyperbox._dev import protos

    for source in protos.generate(tmp_path):
        for ending in ("_pb2.py", "_pb2.pyi"):
            name = source.with_name(source.stem + ending)
            assert (tmp_path / name).read_text() == (protos.ROOT / name).read_text(), (
                f"run hyperbox._dev.protos: {name}"
            )


def test_numbers_on_the_wire() -> None:
    """Bytes as containerd's generated code writes them."""
    mount = mount_pb2.Mount(type="bind", source="/s", target="/t", options=["ro"])
    assert mount.SerializeToString() == b"\x0a\x04bind\x12\x02/s\x1a\x02/t\x22\x02ro"
    prepare = pb.PrepareSnapshotRequest(snapshotter="s", key="k", parent="p", labels={"a": "b"})
    assert prepare.SerializeToString() == b"\x0a\x01s\x12\x01k\x1a\x01p\x22\x06\x0a\x01a\x12\x01b"
    commit = pb.CommitSnapshotRequest(snapshotter="s", name="n", key="k", labels={"a": "b"}, parent="p")
    assert commit.SerializeToString() == b"\x0a\x01s\x12\x01n\x1a\x01k\x22\x06\x0a\x01a\x12\x01b\x2a\x01p"
    info = pb.Info(name="n", parent="p", kind=pb.COMMITTED, labels={"a": "b"})
    info.created_at.seconds, info.updated_at.nanos = 1, 2
    assert (
        info.SerializeToString()
        == b"\x0a\x01n\x12\x01p\x18\x03\x22\x02\x08\x01\x2a\x02\x10\x02\x32\x06\x0a\x01a\x12\x01b"
    )
    assert (pb.VIEW, pb.ACTIVE, pb.COMMITTED) == (1, 2, 3)
    update = pb.UpdateSnapshotRequest(snapshotter="s", info={"name": "n"}, update_mask={"paths": ["labels"]})
    assert update.SerializeToString() == b"\x0a\x01s\x12\x03\x0a\x01n\x1a\x08\x0a\x06labels"
    assert pb.UsageResponse(size=1, inodes=2).SerializeToString() == b"\x08\x01\x10\x02"
    assert pb.ListSnapshotsRequest(snapshotter="s", filters=["f"]).SerializeToString() == b"\x0a\x01s\x12\x01f"
