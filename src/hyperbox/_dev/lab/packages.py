"""The programs of the lab, unpacked from Debian packages into its folder; nothing is installed on the machine.

The engine's programs come from a newer Debian release than the machine (bookworm's docker.io knows no containerd image
store) and run there because they are linked statically or against old symbols only. runc and mmdebstrap come from the
machine's own release, with whatever they need that the machine does not have.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .apt import PrivateApt, codename, debian_archive, unpack
from .home import LabError, LabHome, recipe_of

_RECIPE = 1  # raise when the way of unpacking changes
_PROGRAMS = ("usr/bin", "usr/sbin", "usr/libexec/docker/cli-plugins")
_LIBRARIES = "usr/lib/x86_64-linux-gnu"

_PERL = ("usr/share/perl/5.*", "usr/share/perl5", f"{_LIBRARIES}/perl/5.*", f"{_LIBRARIES}/perl5/5.*")


@dataclass(frozen=True)
class Release:
    """Which Debian suite an engine comes from.

    `suite` is asked for by name: the versions in it move with Debian's updates.
    """

    name: str
    suite: str
    packages: tuple[str, ...] = ("docker.io", "docker-cli", "containerd", "docker-registry", "docker-buildx", "tini")


STABLE = Release("stable", "trixie")
"""docker.io 26.1 and containerd 1.7."""
NEXT = Release("next", "unstable")
"""docker.io 28 or newer and containerd 2.x."""
RELEASES = {release.name: release for release in (STABLE, NEXT)}

_MACHINE_PACKAGES = ("runc", "mmdebstrap")
_CNI_PACKAGES = ("containernetworking-plugins",)


@dataclass(frozen=True)
class Toolbox:
    """Unpacked programs: `bin` holds links to all of them, `root` the packages' trees."""

    release: Release
    folder: Path

    @property
    def bin(self) -> Path:
        """The folder to put first in PATH."""
        return self.folder / "bin"

    def program(self, name: str) -> str:
        """The absolute path of one program."""
        found = self.bin / name
        if not found.exists():
            raise LabError(f"{name} is not among the lab's programs in {self.bin}; delete the folder and set up again")
        return str(found)

    def environment(self) -> dict[str, str]:
        """Variables for the lab's programs: PATH, and libraries that the machine lacks, if there are any."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "CONTAINERD_"))}
        env["PATH"] = f"{self.bin}:{os.environ.get('PATH', '/usr/bin')}:/usr/sbin:/usr/bin:/sbin:/bin"
        libraries = self.folder / "machine" / _LIBRARIES
        if libraries.is_dir():
            env["LD_LIBRARY_PATH"] = str(libraries)
        modules = [str(path) for place in _PERL for path in sorted((self.folder / "machine").glob(place))]
        if modules:
            env["PERL5LIB"] = ":".join(modules)
        return env


def _link_programs(folder: Path, trees: Iterable[str]) -> None:
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    for tree in trees:
        for place in _PROGRAMS:
            for program in sorted((folder / tree / place).glob("*")):
                link = bin_folder / program.name
                if not link.is_symlink():
                    link.symlink_to(os.path.relpath(program, bin_folder))
    (bin_folder / "docker-init").unlink(missing_ok=True)
    (bin_folder / "docker-init").symlink_to("tini-static")


def _check_runs(folder: Path) -> None:
    for command in (("containerd", "--version"), ("dockerd", "--version"), ("runc", "--version")):
        program = folder / "bin" / command[0]
        libraries = {"LD_LIBRARY_PATH": str(folder / "machine" / _LIBRARIES)}
        done = subprocess.run(
            [str(program), *command[1:]], env={**os.environ, **libraries}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise LabError(f"{command[0]} does not run on this machine: {done.stderr.strip()[-400:]}")


def toolbox(home: LabHome, release: Release = STABLE) -> Toolbox:
    """Have the programs of an engine; fetches and unpacks them (about 85 MB) on first use.

    Raises `LabError` when this is not a Debian machine, the archive does not answer, or a program does not run here.
    """
    machine = codename()

    def build(folder: Path) -> None:
        debs = folder / "debs"
        unpack(PrivateApt(home, release.suite).download(release.packages, debs), folder / "engine")
        own = PrivateApt(home, machine, known_installed=True)
        unpack(own.download_missing(_MACHINE_PACKAGES, debs / "machine"), folder / "machine")
        for file in debs.rglob("*.deb"):
            file.unlink()
        _link_programs(folder, ("engine", "machine"))
        _check_runs(folder)

    recipe = recipe_of(_RECIPE, release, _MACHINE_PACKAGES, machine, debian_archive())
    target = home.path("programs", release.name)
    home.once(target, recipe, build, f"fetching {', '.join(release.packages)} from Debian {release.suite}")
    return Toolbox(release, target)


def cni_plugins(home: LabHome) -> Path:
    """Have the CNI plugins for CRI pods; returns the folder with their programs."""

    def build(folder: Path) -> None:
        apt = PrivateApt(home, codename())
        unpack(apt.download(_CNI_PACKAGES, folder / "debs"), folder / "root")

    target = home.path("programs", "cni")
    home.once(target, recipe_of(_RECIPE, _CNI_PACKAGES, codename()), build, "fetching the CNI plugins")
    return target / "root/usr/lib/cni"
