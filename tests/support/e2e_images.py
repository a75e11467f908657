"""Images made by tests: layers from tar archives of any content, on the lab's busybox."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hyperbox._dev.lab.images import LabImage, Layer
from support.layer_archives import END, file, header, pax

_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


def make_image(folder: Path, base: LabImage, name: str, layers: Sequence[bytes]) -> LabImage:
    """An image of uncompressed tar archives on the layers of a lab image, in an OCI folder of its own."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    for layer in base.layers:
        _link(base.blob(layer.digest), blobs)
    made = [*base.layers, *(_layer(blobs, data) for data in layers)]
    config = json.loads(base.blob(base.config).read_bytes())
    config["rootfs"]["diff_ids"] = [layer.diff_id for layer in made]
    config["history"] = [{"created_by": name} for _ in made]
    manifest = json.loads(base.blob(base.manifest).read_bytes())
    data = json.dumps(config).encode()
    manifest["config"] |= {"digest": _write(blobs, data), "size": len(data)}
    manifest["layers"] = [{"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size} for layer in made]
    digest = _write(blobs, json.dumps(manifest).encode())
    return replace(
        base, name=name, manifest=digest, config=manifest["config"]["digest"], layers=tuple(made), folder=folder
    )


def _link(source: Path, folder: Path) -> None:
    target = folder / source.name
    if not target.exists():
        target.write_bytes(source.read_bytes())


def _layer(blobs: Path, data: bytes) -> Layer:
    packed = gzip.compress(data, 1, mtime=0)
    return Layer(
        digest=_write(blobs, packed), diff_id=f"sha256:{hashlib.sha256(data).hexdigest()}", size=len(packed),
        uncompressed_size=len(data), media_type=_GZIP,
    )  # fmt: skip


def _write(blobs: Path, data: bytes) -> str:
    name = hashlib.sha256(data).hexdigest()
    (blobs / name).write_bytes(data)
    return f"sha256:{name}"


def odd_layers(folder: Path) -> list[bytes]:
    """Two layers that hold everything odd that a layer may: the first packed by GNU tar from a real folder."""
    return [_first(folder), _second()]


IMPLICIT = {b"implicit", b"implicit/deep", b"odd", b"odd/kept"}
"""Folders that the upper layer does not name: their times are those of the unpacking on overlayfs."""
BEFORE_1970 = {b"odd/a/large", b"odd/a/b/large", b"odd/other/large"}
"""Times that containerd makes 1970 when it unpacks. (It also takes the capabilities from a file with hard links.)"""


def _first(folder: Path) -> bytes:
    top = folder / "odd"
    for name in ("a/b", "other", "whole", "opaque/below", "kept", "becomes-file", "\udcff\udcfe"):
        (top / name).mkdir(parents=True)
    (top / "a/large").write_bytes(os.urandom(300_000))
    (top / "a/tiny").write_bytes(b"tiny")
    for source, target in (("a/large", "other/large"), ("other/large", "a/b/large"), ("a/tiny", "other/tiny")):
        os.link(top / source, top / target)
    os.mknod(top / "a/null", 0o020666, os.makedev(1, 3))
    os.mknod(top / "a/block", 0o060640, os.makedev(259, 70_000))
    os.mkfifo(top / "a/fifo", 0o600)
    os.link(top / "a/fifo", top / "other/fifo")
    os.symlink("../" * 20 + "etc/passwd", top / "a/out")
    os.symlink("x" * 4000, top / "a/long-target")
    for name in ("user.one", "user.empty", "trusted.kept", "user.binary"):
        for path in ("a/large", "a", "a/tiny"):
            os.setxattr(top / path, name, {"user.empty": b"", "user.binary": bytes(range(256))}.get(name, b"value"))
    (top / "a/capable").write_bytes(b"program" * 500)
    os.setxattr(top / "a/capable", "security.capability", b"\x01\x00\x00\x02" + b"\xff\x20\x00\x00" * 2 + bytes(8))
    (top / ("n" * 255)).write_bytes(b"n" * 2000)
    deep = top.joinpath(*["d" * 200] * 6)
    deep.mkdir(parents=True)
    (deep / "end").write_bytes(b"e" * 3000)
    (top / "\udcff\udcfe/\udc80").write_bytes(b"not UTF-8" * 500)
    (top / "a/colon:comma,back\\slash new\nline").write_bytes(b":" * 2000)
    with open(top / "sparse", "wb") as sparse:
        for position in (0, 1 << 20, 5 << 20):
            sparse.seek(position)
            sparse.write(b"s" * 5000)
        sparse.truncate(9 << 20)
    for name in ("whole/one", "whole/two", "opaque/hidden", "opaque/below/too", "kept/gone", "kept/stays"):
        (top / name).write_bytes(name.encode() * 300)
    (top / "becomes-file/inside").write_bytes(b"inside" * 500)
    (top / "becomes-folder").write_bytes(b"file" * 500)
    (top / "empty").write_bytes(b"")
    os.chmod(top / "other/large", 0o6755)
    os.chmod(top / "other", 0o1777)
    os.chown(top / "sparse", 3_000_000_000, 4_000_000_000, follow_symlinks=False)
    os.chown(top / "a/out", 1000, 65_534, follow_symlinks=False)
    times = {"a/large": -1_500_000_001, "a/tiny": 1_234_567_890_123_456_789, "empty": 5_000_000_000 * 10**9}
    for name, moment in times.items():
        os.utime(top / name, ns=(moment, moment))
    for name in ("a", "kept", "opaque", "other", "."):
        os.utime(top / name, ns=(10**18 + 1, 10**18 + 1))
    return subprocess.run(
        ["tar", "-C", str(folder), "--format=posix", "--sparse", "--xattrs", "--xattrs-include=*", "--numeric-owner",
         "--pax-option=delete=atime,delete=ctime", "-cf", "-", "odd"],
        stdout=subprocess.PIPE, check=True,
    ).stdout  # fmt: skip


def _folder(name: bytes) -> bytes:
    return header(name, b"5", mode=b"0000750\0", uid=b"0000007\0", mtime=b"07346545000\0")


def _second() -> bytes:
    return b"".join((
        file(b"odd/.wh.whole"),
        _folder(b"odd/opaque/"),
        file(b"odd/opaque/.wh..wh..opq"),
        file(b"odd/opaque/new", b"new" * 700),
        file(b"odd/kept/.wh.gone"),
        file(b"odd/.wh.becomes-file"),
        file(b"odd/becomes-file", b"file now" * 300),
        _folder(b"odd/becomes-folder/"),
        file(b"odd/becomes-folder/inside", b"inside" * 300),
        file(b"implicit/deep/file", b"no entry for its folders" * 100),
        file(b"odd/twice", b"first" * 300),
        file(b"odd/twice", b"last wins" * 300),
        header(b"odd/hard", b"1", link=b"odd/twice"),
        pax({b"path": b"odd/\xc3\xa9", b"mtime": b"1700000000.25", b"SCHILY.xattr.user.pax": b"p"}),
        file(b"short", b"by PAX" * 300),
        END,
    ))  # fmt: skip
