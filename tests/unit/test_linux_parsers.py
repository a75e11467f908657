"""The parsers of the kernel room: pure functions of bytes, also of hostile ones."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbox.linux import IdMap, kernel_version, parse_id_maps, parse_mountinfo, parse_statfs
from hyperbox.linux._checks import VERITY_FORMAT
from hyperbox.linux._fanotify import METADATA_FORMAT, RESPONSE_FORMAT, parse_events
from hyperbox.linux._filesystem import STATFS_FORMAT
from hyperbox.linux._loop import LOOP_CONFIG_FORMAT
from hyperbox.linux._mountapi import MOUNT_ATTR_FORMAT
from hyperbox.linux._pagecache import CACHESTAT_FORMAT, RANGE_FORMAT, parse_cachestat
from hyperbox.linux._process import parse_capabilities
from hyperbox.linux._tinyerofs import BLOCK, INODE_FORMAT, SUPERBLOCK_FORMAT, tiny_erofs

GOOD = rb"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue"


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        (MOUNT_ATTR_FORMAT, 32),
        (LOOP_CONFIG_FORMAT, 304),
        (STATFS_FORMAT, 120),
        (CACHESTAT_FORMAT, 40),
        (RANGE_FORMAT, 16),
        (METADATA_FORMAT, 24),
        (RESPONSE_FORMAT, 8),
        (VERITY_FORMAT, 128),
        (SUPERBLOCK_FORMAT, 128),
        (INODE_FORMAT, 32),
    ],
)
def test_structs_are_as_large_as_the_kernels(layout: str, size: int) -> None:
    assert struct.calcsize(layout) == size


def test_mountinfo_line_of_the_manual() -> None:
    (entry,) = parse_mountinfo(GOOD + b"\n")
    assert (entry.mount_id, entry.parent_id, entry.major, entry.minor) == (36, 35, 98, 0)
    assert (entry.root, entry.target, entry.fstype, entry.source) == ("/mnt1", "/mnt2", "ext3", "/dev/root")
    assert entry.options == ("rw", "noatime")
    assert entry.propagation == ("master:1", "shared:7")
    assert entry.shared
    assert entry.super_options == ("rw", "errors=continue")
    assert entry.device == os.makedev(98, 0)


@pytest.mark.parametrize(
    ("line", "target"),
    [
        (rb"1 0 0:1 / /a\040b\011c\012d\134e rw - tmpfs none rw", "/a b\tc\nd\\e"),
        (rb"1 0 0:1 / /- rw - tmpfs none rw", "/-"),
        (b"1 0 0:1 / /\xff\xfe rw - tmpfs none rw", "/\udcff\udcfe"),
        (rb"1 0 0:1 / /not\999octal rw - tmpfs none rw", "/not\\999octal"),
        (rb"1 0 0:1 / /empty-source rw unbindable - tmpfs  rw", "/empty-source"),
    ],
)
def test_mountinfo_odd_but_good_lines(line: bytes, target: str) -> None:
    (entry,) = parse_mountinfo(line)
    assert entry.target == target


@pytest.mark.parametrize(
    "line",
    [b"", b"-", b"1 2 3", b"x 0 0:1 / /a rw - tmpfs none rw", b"1 0 01 / /a rw - tmpfs none rw", GOOD[:40], GOOD[:-30]],
)
def test_mountinfo_leaves_out_what_is_no_mount(line: bytes) -> None:
    assert len(parse_mountinfo(line + b"\n" + GOOD)) == 1


@given(st.binary())
def test_mountinfo_takes_any_bytes(content: bytes) -> None:
    assert len(parse_mountinfo(content)) <= content.count(b"\n") + 1


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_mountinfo_gives_any_path_back(name: bytes) -> None:
    escaped = b"".join(b"\\%03o" % byte if byte in b" \t\n\\#" else bytes([byte]) for byte in name)
    (entry,) = parse_mountinfo(b"1 0 0:1 / /" + escaped + b" rw shared:1 - overlay overlay rw,lowerdir=/a:/b,xino=on\n")
    assert os.fsencode(entry.target) == b"/" + name
    assert entry.super_options == ("rw", "lowerdir=/a:/b", "xino=on")


def test_mountinfo_keeps_escaped_commas_of_options() -> None:
    (entry,) = parse_mountinfo(rb"1 0 0:1 / /a rw - overlay overlay rw,lowerdir=/x\054y,index=off")
    assert entry.super_options == ("rw", "lowerdir=/x,y", "index=off")


def test_statfs() -> None:
    usage = parse_statfs(struct.pack(STATFS_FORMAT, 0xEF53, 4096, 100, 50, 40, 30, 20, 1, 2, 255, 4096, 1, 0, 0, 0, 0))
    assert (usage.type_name, usage.total_bytes, usage.free_bytes) == ("ext4", 409600, 163840)
    assert (usage.total_inodes, usage.free_inodes, usage.readonly) == (30, 20, True)


def test_statfs_names_unknown_types_by_number() -> None:
    content = struct.pack(STATFS_FORMAT, 0x1234, 512, 0, 0, 0, 0, 0, 1, 2, 255, 512, 0, 0, 0, 0, 0)
    assert parse_statfs(content).type_name == "0x1234"


def test_cachestat() -> None:
    use = parse_cachestat(struct.pack(CACHESTAT_FORMAT, 3, 2, 1, 9, 9), 4096)
    assert (use.resident, use.dirty, use.writeback) == (12288, 8192, 4096)


@given(st.lists(st.tuples(st.integers(0, 2**32 - 2), st.integers(0, 2**32 - 2), st.just(1)), min_size=1))
def test_id_maps_round_trip(maps: list[tuple[int, int, int]]) -> None:
    text = ",".join(":".join(map(str, entry)) for entry in maps)
    assert parse_id_maps(text) == [IdMap(*entry) for entry in maps]


@pytest.mark.parametrize("text", ["", "0", "0:1", "0:1:0", "0:-1:1", "0:1:1,", "a:b:c", "0:4294967295:2", "٣:1:1"])
def test_id_maps_refuse(text: str) -> None:
    with pytest.raises(ValueError, match="id map"):
        parse_id_maps(text)


@given(st.binary(max_size=200))
def test_fanotify_events_parse_or_refuse(content: bytes) -> None:
    try:
        events = parse_events(content)
    except ValueError:
        return
    assert len(events) * 24 <= len(content)


def test_fanotify_events() -> None:
    one = struct.pack(METADATA_FORMAT, 24, 3, 0, 24, 0x10000, 7, 99)
    longer = struct.pack(METADATA_FORMAT, 32, 3, 0, 24, 0x100000, 8, 98) + bytes(8)
    assert parse_events(longer + one) == [(0x100000, 8, 98), (0x10000, 7, 99)]


def test_capabilities() -> None:
    assert parse_capabilities(b"Name:\tx\nCapEff:\t0000000000200001\n") == {"CAP_CHOWN", "CAP_SYS_ADMIN"}
    assert parse_capabilities(b"CapEff:\t0000040000000000\n") == {"CAP_42"}
    assert parse_capabilities(b"nothing") == frozenset()


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.18.44", (6, 18)), ("5.14.0-427.el9.x86_64", (5, 14)), ("odd", (0, 0)), ("6", (0, 0))],
)
def test_kernel_version(release: str, version: tuple[int, int]) -> None:
    assert kernel_version(release) == version


def test_tiny_erofs_is_one_block_with_the_magic() -> None:
    image = tiny_erofs()
    assert len(image) == BLOCK
    assert image[1024:1028] == bytes.fromhex("e2e1f5e0")
