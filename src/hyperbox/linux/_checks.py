"""The single checks of a probe: each does the thing and looks at what came out.

A check returns what it saw, or raises: `Absent`, an error of this room or `OSError`. Checks share mounts through the
`Bench`, so their order matters: what later ones build on comes first.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import threading
from collections.abc import Callable
from typing import Final

from hyperbox.api.errors.base import HyperBoxError
from hyperbox.linux._binding import clone_sleeper, reap
from hyperbox.linux._erofs import Backing, mount_erofs
from hyperbox.linux._fanotify import FAN_EVENT_ON_CHILD, FAN_OPEN_PERM, FAN_PRE_ACCESS, PermissionGroup
from hyperbox.linux._filesystem import filesystem_usage
from hyperbox.linux._idmap import clone_idmapped
from hyperbox.linux._mountapi import FsContext
from hyperbox.linux._mounts import UmountFlag, umount
from hyperbox.linux._overlay import mount_overlay
from hyperbox.linux._process import kernel_version
from hyperbox.linux._tinyerofs import PROBE_CONTENT, PROBE_NAME, tiny_erofs

_FICLONE: Final = 0x40049409
_ENABLE_VERITY: Final = 0x40806685
VERITY_FORMAT: Final = "=IIIIQIIQ11Q"
"""`struct fsverity_enable_arg`: version, hash, block size, salt size and place, signature size, 0, place, reserved."""
_SHIFTED: Final = 100_000
_OBJECT: Final = b"one object of many, over several blocks " * 1024


class Absent(Exception):
    """The feature does not work here; the message says how that showed."""


class Bench:
    """The temporary folder of one probe and what is mounted in it; `why` says why there is no folder."""

    def __init__(self, folder: str | None, why: str, *, mounting: bool) -> None:
        self._folder = folder
        self._why = why
        self.mounting = mounting
        self.erofs: str | None = None
        self.composed: str | None = None
        self._mounted: list[str] = []

    @property
    def folder(self) -> str:
        """The temporary folder; `Absent` without one."""
        if self._folder is None:
            raise Absent(self._why)
        return self._folder

    def shorten(self, text: str) -> str:
        """`text` without the name of the temporary folder, which tells nobody anything."""
        return text if self._folder is None else text.replace(f"{self._folder}/", "").replace(self._folder, "here")

    def make(self, name: str) -> str:
        """A new folder on the bench."""
        path = os.path.join(self.folder, name)
        os.makedirs(path)
        return path

    def write(self, name: str, content: bytes) -> str:
        """A new file on the bench."""
        path = os.path.join(self.folder, name)
        with open(path, "xb") as file:
            file.write(content)
        return path

    def mount_target(self, name: str) -> str:
        """A folder to mount on, unmounted by `close`; `Absent` when this process may not mount."""
        if not self.mounting:
            raise Absent("not tried: mounting is not allowed here")
        target = self.make(name)
        self._mounted.append(target)
        return target

    def close(self) -> None:
        """Unmount everything; the namespace would do it too, but the folder is to be removed before."""
        while self._mounted:
            with contextlib.suppress(HyperBoxError):
                umount(self._mounted.pop(), UmountFlag.DETACH | UmountFlag.NOFOLLOW)


def _trusted_xattrs(bench: Bench) -> str:
    path = bench.write("xattr", b"")
    os.setxattr(path, "trusted.overlay.probe", b"y")
    return "set and read" if os.getxattr(path, "trusted.overlay.probe") == b"y" else "set"


def _d_type(bench: Bench) -> str:
    folder = bench.make("d_type")
    os.mkdir(os.path.join(folder, "folder"))
    # An entry whose type readdir did not tell is looked at when asked, and then it is gone: "no folder".
    with os.scandir(folder) as entries:
        entry = next(entries)
    os.rmdir(entry.path)
    if not entry.is_dir(follow_symlinks=False):
        raise Absent("readdir tells no file types")
    return "readdir tells file types"


def _hard_links(bench: Bench) -> str:
    path = bench.write("link-source", b"")
    os.link(path, path + "-2")
    return "made one"


def _tmpfile(bench: Bench) -> str:
    fd = os.open(bench.folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        # A folder descriptor, though it is not used, makes Python follow the link in /proc.
        os.link(f"/proc/self/fd/{fd}", os.path.join(bench.folder, "tmpfile"), src_dir_fd=fd)
    finally:
        os.close(fd)
    return "made and linked"


def _reflink(bench: Bench) -> str:
    with open(bench.write("reflink", b"x" * 8192), "rb") as source, open(bench.folder + "/reflink-2", "xb") as copy:
        fcntl.ioctl(copy.fileno(), _FICLONE, source.fileno())
    return "cloned"


def _fs_verity(bench: Bench) -> str:
    argument = struct.pack(VERITY_FORMAT, 1, 1, 4096, 0, 0, 0, 0, 0, *([0] * 11))
    fd = os.open(bench.write("verity", b"x" * 8192), os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _ENABLE_VERITY, argument)
    finally:
        os.close(fd)
    return "enabled on a file"


def _overlay(bench: Bench) -> str:
    target = bench.mount_target("plain")
    lower, upper, work = bench.make("p-lower"), bench.make("p-upper"), bench.make("p-work")
    # "volatile" (5.10): unmounting must not wait for a sync of the whole file system.
    mount_overlay(target, lowers=[lower], upper=upper, work=work, options=["volatile"])
    with open(target + "/new", "xb"):
        pass
    return f"mounted with its upper layer on {filesystem_usage(bench.folder).type_name}"


def _fsconfig_layers(bench: Bench) -> str:
    if not bench.mounting:
        raise Absent("not tried: mounting is not allowed here")
    with FsContext.open("overlay") as context:
        try:
            for key in ("lowerdir+", "datadir+"):
                context.set(key, bench.make(f"fsconfig-{key}"))
            context.set("metacopy", "on")
            # Before 6.5 the context takes any option, and says no only now.
            context.create()
        except OSError as error:
            raise Absent("; ".join(context.log()) or str(error.strerror)) from error
    return "lowerdir+ and datadir+ are known"


def _data_only_layers(bench: Bench) -> str:
    target = bench.mount_target("composed")
    meta, objects = bench.make("meta"), bench.make("objects")
    upper, work = bench.make("c-upper"), bench.make("c-work")
    os.mkdir(objects + "/ab")
    bench.write("objects/ab/cd", _OBJECT)
    for name in ("file", "gated"):
        with open(f"{meta}/{name}", "xb") as file:
            file.truncate(len(_OBJECT))
            os.setxattr(file.fileno(), "trusted.overlay.metacopy", b"")
            os.setxattr(file.fileno(), "trusted.overlay.redirect", b"/ab/cd")
    options = ["index=off", "metacopy=on", "redirect_dir=on", "volatile"]
    mount_overlay(target, lowers=[meta], datas=[objects], upper=upper, work=work, options=options)
    with open(target + "/file", "rb") as file:
        if file.read() != _OBJECT:
            raise Absent("mounted, but a file read through it has other bytes")
    bench.composed = target
    return "a file was read through a data-only layer"


def _metacopy(bench: Bench) -> str:
    if bench.composed is None:
        raise Absent("not tried: needs data_only_layers")
    os.chmod(bench.composed + "/file", 0o600)
    copied = os.path.join(bench.folder, "c-upper", "file")
    # Not zero: the attributes themselves may need a block.
    if os.stat(copied).st_blocks * 512 >= len(_OBJECT):
        raise Absent("chmod copied the file's data up")
    os.getxattr(copied, "trusted.overlay.metacopy")
    return "chmod copied no data"


def _erofs(bench: Bench, backing: Backing) -> str:
    target = bench.mount_target(f"erofs-{backing}")
    image = bench.write(f"{backing}.erofs", tiny_erofs())
    mount_erofs(image, target, backing=backing)
    with open(f"{target}/{PROBE_NAME}", "rb") as file:
        if file.read() != PROBE_CONTENT:
            raise Absent("mounted, but a file in it has other bytes")
    bench.erofs = bench.erofs or target
    return "an image was mounted and read"


def _file_backed_erofs(bench: Bench) -> str:
    return _erofs(bench, "file")


def _loop_erofs(bench: Bench) -> str:
    return _erofs(bench, "loop")


def _erofs_at_all(bench: Bench) -> str:
    if bench.erofs is None:
        raise Absent("neither a file nor a loop device could be mounted as EROFS")
    return "an image was mounted and read"


def _xino(bench: Bench) -> str:
    if bench.erofs is None:
        raise Absent("not tried: needs erofs")
    target = bench.mount_target("xino")
    upper, work = bench.make("x-upper"), bench.make("x-work")
    mount_overlay(target, lowers=[bench.erofs], upper=upper, work=work, options=["xino=on", "volatile"])
    if os.stat(f"{target}/{PROBE_NAME}").st_dev != os.stat(target).st_dev:
        raise Absent("files of a lower layer show another device than the folder they are in")
    return "one device number for EROFS and upper layer"


def _user_namespaces(bench: Bench) -> str:
    del bench
    reap(clone_sleeper(0x10000000, 5))
    return "made one"


def _idmapped_mounts(bench: Bench) -> str:
    maps = [(0, _SHIFTED, 65536)]
    for name, source in (("state folder", bench.folder), ("EROFS", bench.erofs)):
        if source is None:
            raise Absent("works for the state folder, not tried for EROFS")
        target = bench.mount_target(f"idmapped-{name}")
        clone_idmapped(source, target, maps, maps)
        # What root made on disk, or what the image says belongs to root.
        if os.stat(target).st_uid != os.stat(source).st_uid + _SHIFTED:
            raise Absent(f"{name}: mounted, but the owners are not mapped")
    return "works for the state folder and EROFS"


def _fanotify_permission(bench: Bench) -> str:
    folder = os.path.join(bench.folder, "objects", "ab")
    if bench.composed is None:
        folder = bench.make("fanotify")
        bench.write("fanotify/file", b"x")
        opened = folder + "/file"
    else:
        opened = bench.composed + "/gated"
    with PermissionGroup.open() as group:
        group.mark(folder, FAN_OPEN_PERM | FAN_EVENT_ON_CHILD)
        seen = _answer_one(group, opened)
    if not seen:
        raise Absent("an open raised no event")
    return "an open waited for us" + (", through an overlay" if bench.composed else "; not tried through an overlay")


def _answer_one(group: PermissionGroup, path: str) -> bool:
    """Open `path` on another thread and let it go on; whether the group was asked."""

    def opener() -> None:
        with contextlib.suppress(OSError), open(path, "rb"):
            pass

    thread = threading.Thread(target=opener, name="hyperbox-probe-open")
    thread.start()
    seen = False
    try:
        while select.select([group], [], [], 0.002)[0] or (thread.is_alive() and not seen):
            for event in group.read():
                seen = True
                group.allow(event)
    finally:
        # Closing the group lets whatever still waits go on.
        group.close()
        thread.join()
    return seen


def _pre_access(bench: Bench) -> str:
    path = bench.write("pre-access", b"x" * 4096)
    with PermissionGroup.open() as group:
        group.mark(path, FAN_PRE_ACCESS)
    # 6.14 has the event, but its page-fault hooks were taken out before the release.
    if kernel_version() < (6, 15):
        raise Absent("there, but not usable for mapped files before 6.15")
    return "a mark was set"


def _cgroup_v2(bench: Bench) -> str:
    del bench
    kind = filesystem_usage("/sys/fs/cgroup").type_name
    if kind != "cgroup2":
        hybrid = os.path.ismount("/sys/fs/cgroup/unified")
        if kind == "sysfs":
            raise Absent("no cgroup tree is mounted")
        raise Absent("cgroup v1 with a v2 tree beside it (hybrid)" if hybrid else f"cgroup v1 ({kind})")
    with open("/sys/fs/cgroup/cgroup.controllers", "rb") as file:
        controllers = file.read().split()
    if b"memory" not in controllers:
        raise Absent("cgroup v2 without the memory controller")
    return "unified, with the memory controller"


def _psi(bench: Bench) -> str:
    del bench
    with open("/proc/pressure/memory", "rb") as file:
        return file.readline().decode().strip()


CHECKS: Final[dict[str, Callable[[Bench], str]]] = {
    "trusted_xattrs": _trusted_xattrs,
    "d_type": _d_type,
    "hard_links": _hard_links,
    "tmpfile": _tmpfile,
    "reflink": _reflink,
    "fs_verity": _fs_verity,
    "overlay": _overlay,
    "fsconfig_layers": _fsconfig_layers,
    "data_only_layers": _data_only_layers,
    "metacopy": _metacopy,
    "file_backed_erofs": _file_backed_erofs,
    "loop_erofs": _loop_erofs,
    "erofs": _erofs_at_all,
    "xino": _xino,
    "user_namespaces": _user_namespaces,
    "idmapped_mounts": _idmapped_mounts,
    "fanotify_permission": _fanotify_permission,
    "pre_access": _pre_access,
    "cgroup_v2": _cgroup_v2,
    "psi": _psi,
}
