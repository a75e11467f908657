"""Making file trees: a Debian base by mmdebstrap, and what packages and scripts change, on an overlay over it.

Every mount is made in a mount name space of its own, with a process name space in it: when the command ends, or is
killed, nothing of it stays mounted or running; it is killed with the process that builds.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ..apt import PrivateApt, codename
from ..home import LabError, LabHome
from ..packages import toolbox

_ISOLATED = (
    "setpriv", "--pdeathsig", "KILL",
    "unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private",
)  # fmt: skip
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "HOME": "/root",
}
SLIM = (
    "path-exclude=/usr/share/man/*", "path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/locale/*", "path-exclude=/usr/share/info/*",
)  # fmt: skip

_MOUNT = """
set -eu
M={merged}
mount -t overlay overlay -o lowerdir={lowers},upperdir={upper},workdir={work},{options} $M
mount -t proc proc $M/proc
mount -t tmpfs -o mode=755 dev $M/dev
for node in null zero full random urandom tty; do : >$M/dev/$node; mount --bind /dev/$node $M/dev/$node; done
ln -s /proc/self/fd $M/dev/fd
mkdir $M/dev/shm $M/dev/pts
mount --bind {lists} $M/var/lib/apt/lists
mount --bind {archives} $M/var/cache/apt/archives
mount -o remount,bind,ro $M/var/lib/apt/lists
mount -o remount,bind,ro $M/var/cache/apt/archives
mount --bind {script} $M/tmp
chroot $M /bin/sh -eu /tmp/script
"""
_running: set[subprocess.Popen[bytes]] = set()
_OPTIONS = "redirect_dir=off,metacopy=off,index=off,xino=off"

_INSTALL = """
printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
{before}
apt-get -qq -y --no-install-recommends -o DPkg::Options::=--force-unsafe-io -o APT::Keep-Downloaded-Packages=true \\
  -o Dpkg::Use-Pty=0 -o Debug::NoLocking=true -o APT::Sandbox::User=root install {packages} </dev/null
rm -f /usr/sbin/policy-rc.d /var/cache/apt/*.bin /var/cache/ldconfig/aux-cache
"""


def _run(command: Sequence[str], what: str, env: dict[str, str]) -> None:
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    _running.add(process)
    try:
        output, _ = process.communicate()
    finally:
        process.kill()  # with everything in its process name space; harmless when it has ended
        process.wait()
        _running.discard(process)
    if process.returncode:
        tail = output.decode(errors="replace").strip()[-1500:]
        raise LabError(f"{what} failed with status {process.returncode}:\n{tail}")


def abort_builds() -> None:
    """Kill what other threads build: their builds fail at once. For a process that is interrupted."""
    for process in list(_running):
        process.kill()


def bootstrap(home: LabHome, tree: Path, *, include: Sequence[str] = (), slim: bool = False) -> None:
    """Make a minimal Debian of this machine's release in `tree` (about 12 s; downloads 35 MB the first time)."""
    apt, tools = PrivateApt(home, codename()), toolbox(home)
    cache = home.path("apt", "base-archives")
    cache.mkdir(exist_ok=True)
    kept = shlex.quote(str(cache))
    command = [
        *_ISOLATED,
        tools.program("mmdebstrap"), "--mode=root", "--variant=minbase", "--quiet",
        "--dpkgopt=force-unsafe-io",
        "--skip=download/empty", "--skip=essential/unlink",
        f'--setup-hook=mkdir -p "$1/var/cache/apt/archives" && cp -t "$1/var/cache/apt/archives" {kept}/*.deb || :',
        f'--customize-hook=cp -u -t {kept} "$1"/var/cache/apt/archives/*.deb || :',
        '--customize-hook=rm -f "$1/etc/resolv.conf" "$1/etc/hostname" "$1/var/cache/ldconfig/aux-cache"',
        *(f"--dpkgopt={rule}" for rule in (SLIM if slim else ())),
        # usr-is-merged in place of usrmerge, which would bring all of perl along: as in Debian's own images
        f"--hook-dir={tools.folder}/machine/usr/share/mmdebstrap/hooks/merged-usr",
        f"--include={','.join(('usr-is-merged', *include))}",
        apt.suite, str(tree), apt.uri,
    ]  # fmt: skip
    env = {name: value for name, value in tools.environment().items() if name != "APT_CONFIG"}
    _run(command, f"mmdebstrap {apt.suite}", {**env, "LC_ALL": "C.UTF-8", "TMPDIR": str(tree.parent)})


class Overlay:
    """Upper folders over a base tree, made one after the other; `folder` holds them until the layers are packed."""

    def __init__(self, home: LabHome, base: Path, folder: Path) -> None:
        self._home = home
        self._folder = folder
        self._lowers = [base]
        self._apt = PrivateApt(home, codename())

    def install(self, packages: Sequence[str], before: str = "") -> Path:
        """Install packages as the next layer; `before` is shell run in the chroot first. Returns the upper folder."""
        status = self._lowers[-1] / "var/lib/dpkg/status"
        archives = self._apt.download_for(packages, status)
        return self._apply(_INSTALL.format(before=before, packages=shlex.join(packages)), archives)

    def script(self, text: str) -> Path:
        """Run shell in the chroot as the next layer. Returns the upper folder."""
        return self._apply(text, None)

    def _apply(self, text: str, archives: Path | None) -> Path:
        place = self._folder / f"layer-{len(self._lowers)}"
        parts = {name: place / name for name in ("upper", "work", "merged", "script", "empty")}
        for part in parts.values():
            part.mkdir(parents=True)
        (parts["script"] / "script").write_text(text)
        parts["script"].chmod(0o1777)
        mounting = _MOUNT.format(
            merged=shlex.quote(str(parts["merged"])),
            lowers=":".join(str(lower) for lower in reversed(self._lowers)),
            upper=parts["upper"], work=parts["work"], options=_OPTIONS,
            lists=shlex.quote(str(self._apt.lists if archives else parts["empty"])),
            archives=shlex.quote(str(archives or parts["empty"])),
            script=shlex.quote(str(parts["script"])),
        )  # fmt: skip
        _run([*_ISOLATED, "sh", "-c", mounting], f"making a layer in {place}", _ENVIRONMENT)
        self._lowers.append(parts["upper"])
        return parts["upper"]
