"""Layer trees for tests: a hypothesis strategy, and a large one that looks like an image."""

from __future__ import annotations

import hashlib
import random

from hypothesis import strategies as st

from hyperbox.images.tree import Inode, Kind, Tree

SECOND = 1_000_000_000

_names = st.one_of(
    st.binary(min_size=1, max_size=12),
    st.binary(min_size=250, max_size=255),
    st.sampled_from([b"!", b"-", b"...", b"..a", b".wh.x", b"a", b"A", b"\xff", b"a b\n"]),
).filter(lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b".."))
_times = st.one_of(
    st.sampled_from([0, SECOND, 1_700_000_000 * SECOND, -1, -SECOND - 5]),
    st.integers(-(1 << 62), 1 << 62),
)
_owners = st.one_of(st.sampled_from([0, 1000]), st.integers(0, (1 << 32) - 2))
_values = st.one_of(st.binary(max_size=40), st.sampled_from([b"system_u:object_r:bin_t:s0", b"x" * 3000]))
_any_names = st.sampled_from([b"trusted.a", b"trusted.long.name", b"security.selinux", b"security.x"])
_file_names = st.one_of(_any_names, st.sampled_from([b"user.a", b"user.overlay", b"user." + b"n" * 250]))
_digests = st.one_of(st.binary(min_size=32, max_size=32), st.sampled_from([bytes(32), b"\xab" * 32]))
_sizes = st.one_of(st.integers(1, 1 << 20), st.integers(1, 1 << 46))


@st.composite
def inodes(draw: st.DrawFn) -> Inode:
    """An inode of any kind, possible on a real kernel (so no `user.` attributes on links and devices)."""
    kind = draw(st.sampled_from(Kind))
    names = _file_names if kind in (Kind.FILE, Kind.DIRECTORY) else _any_names
    inode = Inode(
        kind,
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(_owners),
        gid=draw(_owners),
        mtime_ns=draw(_times),
        xattrs=draw(st.dictionaries(names, _values, max_size=4)),
    )
    if kind is Kind.FILE:
        if draw(st.booleans()):
            inode.digest, inode.size = draw(_digests), draw(_sizes)
        else:
            inode.data = draw(st.one_of(st.binary(max_size=1024), st.just(b"p" * 4096), st.just(b"q" * 9000)))
            inode.size = len(inode.data)
    elif kind is Kind.SYMLINK:
        inode.target = draw(st.one_of(st.just(b"t" * 4095), st.binary(min_size=1, max_size=90))).replace(b"\0", b"0")
    elif kind is Kind.DIRECTORY:
        inode.opaque = draw(st.booleans())
    elif kind in (Kind.CHARACTER, Kind.BLOCK):
        inode.rdev = (draw(st.integers(1, (1 << 12) - 1)), draw(st.integers(0, (1 << 20) - 1)))
    return inode


@st.composite
def trees(draw: st.DrawFn, max_size: int = 25) -> Tree:
    """A tree with hard links and deep and wide directories; no implicit ones."""
    tree = Tree()
    tree.inodes[b""] = Inode(Kind.DIRECTORY, draw(st.integers(0, 0o7777)), mtime_ns=draw(_times))
    folders = [b""]
    links: list[Inode] = []
    for name in draw(st.lists(_names, max_size=max_size)):
        parent = draw(st.sampled_from(folders))
        path = parent + b"/" + name if parent else name
        if path in tree or len(path) > 4095:
            continue
        inode = draw(st.sampled_from(links)) if links and draw(st.integers(0, 5)) == 0 else draw(inodes())
        tree.inodes[path] = inode
        if inode.kind is Kind.DIRECTORY:
            folders.append(path)
        else:
            links.append(inode)
    return tree


def image_like(count: int, seed: int = 1) -> Tree:
    """A tree of `count` entries in the proportions of a distribution's image: 70 % files with a digest."""
    dice = random.Random(seed)
    tree = Tree()
    tree.inodes[b""].implicit = False
    folders = [b""]
    for number in range(count):
        parent = dice.choice(folders[-200:])
        path = (parent + b"/" if parent else b"") + b"name%06d.py" % number
        mtime = (1_700_000_000 + dice.randrange(100)) * SECOND
        share = dice.random()
        if share < 0.7:
            digest = hashlib.sha256(b"%d" % number).digest()
            inode = Inode(Kind.FILE, 0o644, mtime_ns=mtime, size=dice.randrange(1025, 10**6), digest=digest)
        elif share < 0.8:
            data = dice.randbytes(dice.randrange(0, 1024))
            inode = Inode(Kind.FILE, 0o644, mtime_ns=mtime, size=len(data), data=data)
        elif share < 0.9:
            inode = Inode(Kind.DIRECTORY, 0o755, mtime_ns=mtime)
            folders.append(path)
        else:
            inode = Inode(Kind.SYMLINK, 0o777, mtime_ns=mtime, target=b"../somewhere/else%d" % number)
        tree.inodes[path] = inode
    return tree
