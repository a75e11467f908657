"""The package itself: lazy names, cheap import, options of overlays, what systemd is told."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import hyperbox.linux as room
from hyperbox.api.errors.linux import KernelCallFailed, MountFailed
from hyperbox.linux import listen_fds, mount, notify_systemd, overlay_options, rss_bytes, watchdog_seconds
from hyperbox.linux._features import DECLARATIONS
from hyperbox.linux._systemd import encode_notification


def test_every_exported_name_loads() -> None:
    assert [name for name in room.__all__ if getattr(room, name, None) is None] == []
    assert dir(room) == sorted(room.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = room.nothing


def test_importing_the_package_loads_no_ctypes() -> None:
    code = "import sys, hyperbox.linux; print('ctypes' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_overlay_options_escape_what_the_kernel_unescapes() -> None:
    options = overlay_options(["/a:b", "/c,d"], ["/o\\p"], "/u:p,q", "/w", ["metacopy=on"])
    assert options == ["lowerdir=/a\\:b:/c\\,d::/o\\\\p", "upperdir=/u:p\\,q", "workdir=/w", "metacopy=on"]


def test_mount_refuses_options_that_the_kernel_would_cut() -> None:
    with pytest.raises(MountFailed, match="4095"):
        mount("none", "/nowhere", "tmpfs", data="x" * 4096)


def test_rss_of_a_process() -> None:
    assert rss_bytes() > 1 << 20
    with pytest.raises(KernelCallFailed):
        rss_bytes(0)


def test_notification_text() -> None:
    text = encode_notification(ready=True, status="two\nlines", extend_timeout_seconds=1.5, main_pid=7)
    assert text == b"READY=1\nSTATUS=two lines\nEXTEND_TIMEOUT_USEC=1500000\nMAINPID=7"
    assert encode_notification(stopping=True, watchdog=True, reloading=True) == b"RELOADING=1\nSTOPPING=1\nWATCHDOG=1"


@pytest.mark.parametrize("abstract", [False, True])
def test_notification_arrives(tmp_path: Path, abstract: bool) -> None:
    name = f"@hyperbox-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind("\0" + name[1:] if abstract else name)
        assert notify_systemd(ready=True, environ={"NOTIFY_SOCKET": name})
        assert end.recv(100) == b"READY=1"


def test_notification_without_systemd(tmp_path: Path) -> None:
    assert not notify_systemd(ready=True, environ={})
    with pytest.raises(KernelCallFailed):
        notify_systemd(ready=True, environ={"NOTIFY_SOCKET": str(tmp_path / "gone")})


def test_listen_fds_are_named_and_closed_on_exec() -> None:
    code = (
        "import os, hyperbox.linux as l\n"
        "fds = l.listen_fds({'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '2', 'LISTEN_FDNAMES': 'api'})\n"
        "print(fds, os.get_inheritable(3), os.get_inheritable(4))"
    )
    first, second = os.pipe()
    try:
        # The numbers are fixed by systemd's protocol: a shell puts the descriptors where it would.
        shell = f'exec 3<&{first} 4<&{first}; exec "$0" -c "$1"'
        result = subprocess.run(
            ["bash", "-c", shell, sys.executable, code], pass_fds=[first], capture_output=True, text=True, check=True
        )
    finally:
        os.close(first)
        os.close(second)
    assert result.stdout == "{'api': [3], 'unknown': [4]} False False\n"


def test_listen_fds_of_somebody_else() -> None:
    assert listen_fds({"LISTEN_PID": "1", "LISTEN_FDS": "3"}, pid=2) == {}
    assert listen_fds({"LISTEN_PID": "2", "LISTEN_FDS": "many"}, pid=2) == {}


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "20000000"}, 20.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "7"}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
    ],
)
def test_watchdog(environ: dict[str, str], seconds: float | None) -> None:
    assert watchdog_seconds(environ, pid=7) == seconds


def test_every_feature_says_what_for_and_what_to_do() -> None:
    assert all(declared.needed_for and declared.remedy.endswith((".", ")")) for declared in DECLARATIONS.values())
