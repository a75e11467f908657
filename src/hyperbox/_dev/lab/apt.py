"""Packages of Debian suites that the machine itself does not use.

A private apt configuration has its own sources, lists, cache and package status, so that reading another suite neither
needs nor changes anything of the machine. The archive's address and the keyring come from the machine's own sources.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .home import LabError, LabHome

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

_turn = threading.Lock()
"""apt locks its folders and does not wait; threads that build images take turns."""


@dataclass(frozen=True)
class Archive:
    """One archive of the machine's sources."""

    uri: str
    suites: tuple[str, ...]


def codename() -> str:
    """The release name of this machine (`bookworm`)."""
    text = Path("/etc/os-release").read_text()
    found = re.search(r"^VERSION_CODENAME=\"?(\w+)", text, re.MULTILINE)
    if found is None or "ID=debian" not in text:
        raise LabError(
            "the lab is made of Debian packages and needs a Debian machine (/etc/os-release names no codename)"
        )
    return found.group(1)


def _one_line(text: str) -> Iterator[Archive]:
    for line in text.splitlines():
        found = re.match(r"\s*deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)", line)
        if found:
            yield Archive(found.group(1).rstrip("/"), (found.group(2),))


def _deb822(text: str) -> Iterator[Archive]:
    for stanza in re.split(r"\n\s*\n", text):
        lines = [line for line in stanza.splitlines() if not line.startswith("#")]
        fields: dict[str, str] = {}
        name = ""
        for line in lines:
            if line[:1] in " \t":
                fields[name] = f"{fields.get(name, '')} {line.strip()}"
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" in fields.get("types", "").split() and fields.get("enabled", "yes").lower() not in ("no", "false"):
            for uri in fields.get("uris", "").split():
                yield Archive(uri.rstrip("/"), tuple(fields.get("suites", "").split()))


def machine_archives(etc: Path = Path("/etc/apt")) -> list[Archive]:
    """All binary package archives in the machine's sources, in the order apt reads them."""
    found: list[Archive] = []
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    for file in files:
        if file.is_file() and file.suffix in (".list", ".sources"):
            text = file.read_text(errors="replace")
            found += _deb822(text) if file.suffix == ".sources" else _one_line(text)
    return found


def debian_archive() -> str:
    """The address from which this machine takes its own Debian release."""
    release = codename()
    for archive in machine_archives():
        if release in archive.suites:
            return archive.uri
    raise LabError(f"no apt source of this machine offers {release}; add Debian's archive to /etc/apt/sources.list.d")


class PrivateApt:
    """apt for one suite, in a folder of the lab.

    With `known_installed` it sees the packages of the machine as installed and resolves only what is missing.
    """

    def __init__(self, home: LabHome, suite: str, *, known_installed: bool = False) -> None:
        self.suite = suite
        self.uri = debian_archive()
        self.folder = home.path("apt", suite + ("-missing" if known_installed else ""))
        self._lists = home.path("apt", suite, "lists")
        self._known_installed = known_installed
        self._updated = False

    @property
    def lists(self) -> Path:
        """The folder with the suite's package lists."""
        return self._lists

    @property
    def archives(self) -> Path:
        """The folder with downloaded packages."""
        return self.folder / "cache/archives"

    def environment(self) -> Mapping[str, str]:
        """Variables with which apt programs use this configuration alone."""
        return {**os.environ, "APT_CONFIG": str(self.folder / "apt.conf"), "LC_ALL": "C.UTF-8"}

    def _write(self) -> None:
        for part in (self._lists / "partial", self.archives / "partial", self.folder / "sources", self.folder / "none"):
            part.mkdir(parents=True, exist_ok=True)
        sources = f"Types: deb\nURIs: {self.uri}\nSuites: {self.suite}\nComponents: main\nSigned-By: {KEYRING}\n"
        (self.folder / "sources/lab.sources").write_text(sources)
        status = self.folder / "status"
        if self._known_installed:
            shutil.copyfile("/var/lib/dpkg/status", status)
        else:
            status.write_text("")
        options = {
            "Dir::Etc::SourceList": "/dev/null",
            "Dir::Etc::SourceParts": self.folder / "sources",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": self.folder / "none",
            "Dir::State": self.folder,
            "Dir::State::Lists": self._lists,
            "Dir::State::status": status,
            "Dir::Cache": self.folder / "cache",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "APT::Sandbox::User": "root",
            "APT::Install-Recommends": "false",
        }
        text = "".join(f'{name} "{value}";\n' for name, value in options.items())
        (self.folder / "apt.conf").write_text(text)

    def _run(self, *command: str, cwd: Path | None = None) -> str:
        done = subprocess.run(command, env=self.environment(), cwd=cwd, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(
                f"{' '.join(command)} failed for {self.suite}: {(done.stderr or done.stdout).strip()[-800:]}"
            )
        return done.stdout

    def update(self) -> None:
        """Read the suite's package lists, once per object."""
        with _turn:
            self._update()

    def _update(self) -> None:
        if not self._updated:
            self._write()
            self._run("apt-get", "-q", "update", "--error-on=any")
            self._updated = True

    def download(self, packages: Iterable[str], folder: Path) -> list[Path]:
        """Fetch exactly these packages (no dependencies) into `folder`; returns the files."""
        self.update()
        folder.mkdir(parents=True, exist_ok=True)
        self._run("apt-get", "-q", "download", *packages, cwd=folder)
        return sorted(folder.glob("*.deb"))

    def download_missing(self, packages: Iterable[str], folder: Path) -> list[Path]:
        """Fetch these packages and what they depend on that the machine does not have."""
        self.update()
        simulated = self._run("apt-get", "-s", "--reinstall", "install", *packages)
        names = re.findall(r"^Inst (\S+)", simulated, re.MULTILINE)
        return self.download(names, folder)

    def download_for(self, packages: Iterable[str], status: Path) -> Path:
        """Fetch packages and what they need beyond a tree's package status; returns the folder with the files."""
        self.update()
        options = ("-o", f"Dir::State::status={status}", "-o", "APT::Keep-Downloaded-Packages=true")
        with _turn:
            self._run("apt-get", "-q", "-y", "-d", *options, "install", *packages)
        return self.archives


def unpack(files: Iterable[Path], root: Path) -> None:
    """Unpack packages into `root` without running anything of theirs."""
    root.mkdir(parents=True, exist_ok=True)
    for file in files:
        subprocess.run(["dpkg-deb", "-x", str(file), str(root)], check=True, stdout=subprocess.DEVNULL)
