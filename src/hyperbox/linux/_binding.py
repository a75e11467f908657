"""The binding layer: declarations of system calls, and the one place where errno becomes an exception.

Everything above this module sees `OSError` with the name of the call in `filename`; `translated` turns that into the
errors of `hyperbox.api.errors.linux` at the edge of the room. Calls go through libc's `syscall(2)`, because glibc 2.35
and older has no wrappers for the mount API. ctypes releases the GIL for the time of a call.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import signal
from collections.abc import Iterator
from typing import Final

from hyperbox.api.errors.base import HyperBoxError
from hyperbox.api.errors.linux import FeatureMissing, KernelCallFailed, NotPrivileged

StrPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]

AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000

# libc says 0, because open(2) of a 64-bit program implies it; calls that open files for us do not.
O_LARGEFILE: Final = 0o400000 if platform.machine() == "aarch64" else 0o100000

_GENERIC: Final = {
    # Since 5.x all architectures number new calls alike.
    "open_tree": 428,  # 5.2
    "move_mount": 429,  # 5.2
    "fsopen": 430,  # 5.2
    "fsconfig": 431,  # 5.2
    "fsmount": 432,  # 5.2
    "pidfd_open": 434,  # 5.3
    "mount_setattr": 442,  # 5.12
    "cachestat": 451,  # 6.5
}
_BY_MACHINE: Final = {
    "x86_64": {"mount": 165, "umount2": 166, "unshare": 272, "fanotify_init": 300, "fanotify_mark": 301, "syncfs": 306},
    "aarch64": {"mount": 40, "umount2": 39, "unshare": 97, "fanotify_init": 262, "fanotify_mark": 263, "syncfs": 267},
}

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.statfs.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *([ctypes.c_int] * 3), ctypes.c_long]
_libc.clone.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]

Argument = int | bytes | None


def number(name: str) -> int:
    """The number of the system call `name` on this machine; `OSError(ENOSYS)` for a machine we have no table of."""
    if name in _GENERIC:
        return _GENERIC[name]
    table = _BY_MACHINE.get(platform.machine())
    if table is None:
        raise OSError(errno.ENOSYS, f"no system call table for {platform.machine()}", name)
    return table[name]


def syscall(name: str, *arguments: Argument) -> int:
    """Make the system call `name`; `OSError` with the name in `filename` when it fails.

    Integers are passed as C longs (an address of a buffer is an integer, and the caller keeps the buffer alive),
    bytes as zero-terminated strings, `None` as the null pointer. Calls that a signal interrupted start again.
    """
    call = number(name)
    while True:
        result: int = _libc.syscall(
            ctypes.c_long(call), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
        )
        if result != -1:
            return result
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code), name)


def mallopt(parameter: int, value: int) -> bool:
    """Set a parameter of glibc's allocator; False where libc has none (musl)."""
    return hasattr(_libc, "mallopt") and bool(_libc.mallopt(parameter, value))


def malloc_trim() -> bool:
    """Give free memory of the heap back to the kernel; False where libc cannot or there is none."""
    return hasattr(_libc, "malloc_trim") and bool(_libc.malloc_trim(ctypes.c_size_t(0)))


def struct_bytes(size: int, content: bytes = b"") -> ctypes.Array[ctypes.c_char]:
    """A buffer of `size` bytes for the kernel to read or write; pass `address(buffer)` to `syscall`."""
    return ctypes.create_string_buffer(content, size)


def address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    """The address of `buffer`, valid as long as the caller holds on to it."""
    return ctypes.addressof(buffer)


def clone_sleeper(flags: int, seconds: int) -> int:
    """Start a process that only sleeps, in the new namespaces that `flags` name, and return its pid.

    The child runs libc's `sleep` and nothing of Python, so this is safe in a process with threads, where forking the
    interpreter is not. It has no exit signal: the caller reaps it with `reap`. It ends by itself after `seconds`, so
    that it does not keep our files open for long if we die before that.
    """
    stack = struct_bytes(65536)
    entry = ctypes.cast(_libc.sleep, ctypes.c_void_p).value
    pid: int = _libc.clone(entry, (address(stack) + len(stack)) & ~15, flags, seconds)
    if pid == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "clone")
    return pid


def reap(pid: int) -> None:
    """Kill and wait for a process of `clone_sleeper`."""
    os.kill(pid, signal.SIGKILL)
    # __WCLONE: children without an exit signal are seen by no other wait.
    os.waitpid(pid, 0x80000000 - (1 << 32))


def statfs(path: bytes) -> bytes:
    """The raw `struct statfs` (120 bytes, the same on x86-64 and aarch64) of the file system that holds `path`."""
    buffer = struct_bytes(120)
    if _libc.statfs(path, address(buffer)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "statfs")
    return buffer.raw


def mincore(fd: int, length: int) -> bytes:
    """One byte for each page of the first `length` bytes of a file, bit 0 set when it is in memory."""
    # PROT_NONE mappings are enough for mincore and fault nothing in.
    start = _libc.mmap(None, length, 0, 1, fd, 0)
    if start in (None, ctypes.c_void_p(-1).value):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "mmap")
    try:
        vector = struct_bytes((length + os.sysconf("SC_PAGE_SIZE") - 1) // os.sysconf("SC_PAGE_SIZE"))
        if _libc.mincore(start, length, address(vector)) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), "mincore")
        return vector.raw
    finally:
        _libc.munmap(start, length)


def reason(error: OSError) -> str:
    """What an error says, with the name of its errno: `Invalid argument (EINVAL)`."""
    name = errno.errorcode.get(error.errno or 0, str(error.errno))
    return f"{error.strerror} ({name})"


def translate(error: OSError, call: str, capability: str = "CAP_SYS_ADMIN") -> HyperBoxError:
    """The error of this room for what the kernel said about `call`, where nothing more precise is known."""
    if error.errno == errno.EPERM:
        return NotPrivileged(call=call, capability=capability)
    if error.errno == errno.ENOSYS:
        return FeatureMissing(feature=call)
    return KernelCallFailed(call=call, reason=reason(error))


@contextlib.contextmanager
def translated(call: str, capability: str = "CAP_SYS_ADMIN") -> Iterator[None]:
    """Turn every `OSError` of the block into the error of this room."""
    try:
        yield
    except OSError as error:
        raise translate(error, call, capability) from error
