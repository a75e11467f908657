"""Facts about processes and this boot."""

from __future__ import annotations

import os
import re
from typing import Final

from hyperbox.linux._binding import translated

_CAPABILITIES: Final = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
"""Names of the capabilities in the order of their numbers."""


def boot_id() -> str:
    """The random id of this boot of the kernel; another one means that all mounts and page cache are gone."""
    with translated("reading the boot id"), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def rss_bytes(pid: int | str = "self") -> int:
    """Resident memory of a process, shared pages included; `KernelCallFailed` when it is gone."""
    with translated(f"reading /proc/{pid}/statm"), open(f"/proc/{pid}/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def kernel_version(release: str | None = None) -> tuple[int, int]:
    """Major and minor of a kernel release (default: the running one); (0, 0) when it does not start with numbers."""
    match = re.match(r"(\d{1,5})\.(\d{1,5})", os.uname().release if release is None else release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def parse_capabilities(status: bytes) -> frozenset[str]:
    """The effective capabilities in the text of /proc/PID/status, as `CAP_…`; new ones without a name as `CAP_<n>`."""
    match = re.search(rb"^CapEff:\s*([0-9a-f]{1,32})\s*$", status, re.MULTILINE)
    bits = int(match[1], 16) if match else 0
    names = _CAPABILITIES.split()
    numbers = (number for number in range(bits.bit_length()) if bits >> number & 1)
    return frozenset(f"CAP_{names[n] if n < len(names) else n}" for n in numbers)


def capabilities(pid: int | str = "thread-self") -> frozenset[str]:
    """Effective capabilities of a process, by default of the calling thread."""
    with translated(f"reading /proc/{pid}/status"), open(f"/proc/{pid}/status", "rb") as file:
        return parse_capabilities(file.read())
