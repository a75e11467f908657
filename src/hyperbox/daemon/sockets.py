"""Unix sockets of the daemon: made with the right owner before anybody can connect."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from hyperbox.api.errors.daemon import GroupUnknown, SocketInUse


def group_id(name: str) -> int:
    """Return a group's number.

    Raises:
        GroupUnknown: There is no such group.
    """
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise GroupUnknown(group=name) from None


@contextlib.contextmanager
def claimed(run: Path) -> Iterator[None]:
    """Have a run folder to ourselves: its mounts and sockets are ours to make, take over and take away.

    Raises:
        SocketInUse: Another daemon, on whatever state folder, serves from it.
    """
    lock = os.open(run / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SocketInUse(socket=run / "snapshotter.sock") from None
        yield
    finally:
        os.close(lock)


def clear_socket(path: Path) -> None:
    """Remove what a dead process left at `path`.

    Raises:
        SocketInUse: Somebody answers there.
    """
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.settimeout(2)
    try:
        probe.connect(str(path))
    except FileNotFoundError:
        return
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        return
    finally:
        probe.close()
    raise SocketInUse(socket=path)


@contextlib.contextmanager
def private_umask() -> Iterator[None]:
    """Let new sockets be closed to others from their first moment."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def listen(path: Path, group: str) -> socket.socket:
    """Listen on a unix socket that root and, if one is named, a group may use.

    Raises:
        SocketInUse: Somebody answers there already.
        GroupUnknown: There is no such group.
    """
    gid = group_id(group) if group else -1
    clear_socket(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with private_umask():
        listener.bind(str(path))
    if group:
        os.chown(path, -1, gid)
        os.chmod(path, 0o660)
    listener.listen(128)
    return listener
