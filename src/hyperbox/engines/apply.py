"""Applies a change to an engine's configuration with a backup, checks it with the engine, and takes it back."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hyperbox.api.errors.engines import BackupMissing, ConfigChangedSince, EngineConfigUnreadable, SetupCheckFailed
from hyperbox.store.writes import atomic_replace

_CHECK_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Change:
    """A file of the engine: what is in it, and what shall be. `old` is None where there is no file yet."""

    file: Path
    old: str | None
    new: str

    @property
    def needed(self) -> bool:
        """Whether the file does not say so already."""
        return self.old != self.new

    def diff(self) -> str:
        """The change as a unified diff."""
        old = (self.old or "").splitlines(keepends=True)
        name = str(self.file)
        return "".join(difflib.unified_diff(old, self.new.splitlines(keepends=True), name, name))


def plan(file: Path, edit: Callable[[str | None, Path], str]) -> Change:
    """Read a configuration file (or none) and compute its new text.

    Raises:
        EngineConfigUnreadable: The file cannot be read or understood.
    """
    try:
        old: str | None = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        old = None
    except (OSError, UnicodeDecodeError) as error:
        raise EngineConfigUnreadable(file=file, form="text", reason=error) from None
    return Change(file, old, edit(old, file))


def backup_of(file: Path) -> Path:
    """Where the text before the set-up is kept."""
    return file.with_name(file.name + ".before-hyperbox")


def _record_of(file: Path) -> Path:
    return file.with_name(f".{file.name}.hyperbox.json")


def apply(change: Change) -> None:
    """Write a change, keeping what was there, and let the engine check it; a refused file is put back.

    A backup of an earlier set-up stays: it is what was there before HyperBox.

    Raises:
        SetupCheckFailed: The engine refuses the new file.
    """
    record = _record_of(change.file)
    change.file.parent.mkdir(parents=True, exist_ok=True)
    mode = change.file.stat().st_mode & 0o777 if change.old is not None else 0o644
    original = json.loads(record.read_text()) if record.exists() else {"existed": change.old is not None}
    check(change)
    if not record.exists() and change.old is not None:
        atomic_replace(backup_of(change.file), change.old.encode(), mode=mode)
    state = {"existed": original["existed"], "sha256": hashlib.sha256(change.new.encode()).hexdigest()}
    atomic_replace(record, json.dumps(state).encode())
    atomic_replace(change.file, change.new.encode(), mode=mode)


def undo(file: Path) -> None:
    """Put back what was there before the set-up, or remove a file that the set-up made.

    Raises:
        BackupMissing: No set-up is recorded for the file.
        ConfigChangedSince: The file was changed after it; the backup stays where it is.
    """
    record, backup = _record_of(file), backup_of(file)
    if not record.exists():
        raise BackupMissing(file=file)
    state = json.loads(record.read_text())
    present = file.read_bytes() if file.exists() else b""
    if hashlib.sha256(present).hexdigest() != state["sha256"]:
        raise ConfigChangedSince(file=file, backup=backup if state["existed"] else "absent: there was no file")
    if state["existed"]:
        os.replace(backup, file)
    else:
        file.unlink()
    record.unlink()


def check(change: Change) -> None:
    """Ask the engine's own program, where it is installed, whether it understands the new file.

    Raises:
        SetupCheckFailed: It does not.
    """
    dockerd = change.file.suffix == ".json"
    program = shutil.which("dockerd" if dockerd else "containerd")
    if program is None:
        return
    with tempfile.NamedTemporaryFile("w", suffix=change.file.suffix, encoding="utf-8") as file:
        file.write(change.new)
        file.flush()
        command = (
            [program, "--validate", f"--config-file={file.name}"]
            if dockerd
            else [program, f"--config={file.name}", "config", "dump"]
        )
        done = subprocess.run(command, capture_output=True, text=True, timeout=_CHECK_SECONDS, check=False)
    if done.returncode != 0:
        reason = (done.stderr or done.stdout).strip().splitlines()
        raise SetupCheckFailed(
            engine=Path(program).name, file=change.file, reason=reason[-1] if reason else "no reason"
        )
