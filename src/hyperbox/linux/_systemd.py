"""What a service tells systemd and gets from it, spoken directly (sd_notify(3), sd_listen_fds(3))."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

from hyperbox.linux._binding import translated

_FIRST_FD: Final = 3


def notify_systemd(
    *,
    ready: bool = False,
    reloading: bool = False,
    stopping: bool = False,
    watchdog: bool = False,
    status: str | None = None,
    extend_timeout_seconds: float | None = None,
    main_pid: int | None = None,
    environ: Mapping[str, str] = os.environ,
) -> bool:
    """Send the given facts in one message; `False` when no service manager listens (no NOTIFY_SOCKET).

    `KernelCallFailed` when the socket is named but cannot be reached.
    """
    name = environ.get("NOTIFY_SOCKET", "")
    message = encode_notification(
        ready=ready,
        reloading=reloading,
        stopping=stopping,
        watchdog=watchdog,
        status=status,
        extend_timeout_seconds=extend_timeout_seconds,
        main_pid=main_pid,
    )
    if not name or not message:
        return False
    # "@" stands for the zero byte of the abstract socket namespace.
    address = "\0" + name[1:] if name.startswith("@") else name
    with translated("notifying systemd"), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as end:
        end.connect(address)
        end.sendall(message)
    return True


def encode_notification(
    *,
    ready: bool = False,
    reloading: bool = False,
    stopping: bool = False,
    watchdog: bool = False,
    status: str | None = None,
    extend_timeout_seconds: float | None = None,
    main_pid: int | None = None,
) -> bytes:
    """The text of a notification: one `KEY=value` a line; a line break in `status` becomes a space."""
    lines = [
        "READY=1" if ready else "",
        "RELOADING=1" if reloading else "",
        "STOPPING=1" if stopping else "",
        "WATCHDOG=1" if watchdog else "",
        "" if status is None else "STATUS=" + " ".join(status.splitlines()),
        "" if extend_timeout_seconds is None else f"EXTEND_TIMEOUT_USEC={round(extend_timeout_seconds * 1e6)}",
        "" if main_pid is None else f"MAINPID={main_pid}",
    ]
    return "\n".join(line for line in lines if line).encode()


def listen_fds(environ: Mapping[str, str] = os.environ, pid: int | None = None) -> dict[str, list[int]]:
    """The descriptors that systemd passed to this process, by `FileDescriptorName=` (`unknown` without one).

    Sockets of socket activation and descriptors of the store (FDSTORE) come the same way. They are set to close on
    exec. Empty when the variables are meant for another process.
    """
    if environ.get("LISTEN_PID") != str(os.getpid() if pid is None else pid):
        return {}
    count = environ.get("LISTEN_FDS", "0")
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, list[int]] = {}
    for index in range(int(count) if count.isascii() and count.isdigit() else 0):
        fd = _FIRST_FD + index
        with translated("taking descriptors from systemd"):
            os.set_inheritable(fd, False)
        name = names[index] if index < len(names) and names[index] else "unknown"
        found.setdefault(name, []).append(fd)
    return found


def watchdog_seconds(environ: Mapping[str, str] = os.environ, pid: int | None = None) -> float | None:
    """How often systemd wants to hear `watchdog` at the latest; `None` when it does not watch this process."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    wanted = environ.get("WATCHDOG_PID", "")
    if wanted not in ("", str(os.getpid() if pid is None else pid)):
        return None
    if not (microseconds.isascii() and microseconds.isdigit()) or int(microseconds) == 0:
        return None
    return int(microseconds) / 1e6
