"""Checks of files that people copy: `examples/`, and data fences of pages.

A file is checked by what it is for, which its name says; every file has a checker, or the tests fail.
"""

from __future__ import annotations

import fnmatch
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import yaml

Checker = Callable[[str], str]
"""Takes a file's text and gives what is wrong with it, or an empty text."""


class ToolMissing(Exception):
    """The program that checks this kind of file is not on this machine; the message names it."""


def check_config(text: str) -> str:
    """Check a configuration file of the daemon with its own parser."""
    from hyperbox.api.errors import HyperBoxError
    from hyperbox.api.settings import parse_settings

    try:
        parse_settings(text)
    except HyperBoxError as error:
        return str(error)
    return ""


def check_toml(text: str) -> str:
    """Check that a text is TOML."""
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return str(error)
    return ""


def check_yaml(text: str) -> str:
    """Check that a text is YAML of one or more documents."""
    try:
        list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        return str(error)
    return ""


def check_json(text: str) -> str:
    """Check that a text is JSON."""
    try:
        json.loads(text)
    except ValueError as error:
        return str(error)
    return ""


def check_python(text: str) -> str:
    """Run a Python program in a folder of its own, warnings being errors."""
    with tempfile.TemporaryDirectory() as folder:
        return _outcome([sys.executable, "-W", "error", "-c", text], folder)


def check_shell(text: str) -> str:
    """Check a shell program's syntax; what it does is for a page's console blocks to run."""
    return _outcome(["bash", "-n", "-c", text], "/")


def check_unit(text: str) -> str:
    """Check a systemd unit with systemd's own verifier.

    Raises:
        ToolMissing: There is no systemd-analyze here.
    """
    if shutil.which("systemd-analyze") is None:
        raise ToolMissing("systemd-analyze")
    kind = "socket" if "[Socket]" in text else "service"
    with tempfile.TemporaryDirectory() as folder:
        # The verifier wants the programs of a unit to exist; the installed ones stand in for those of a package.
        path = Path(folder) / f"example.{kind}"
        path.write_text(text.replace("/usr/bin/hyperboxd", str(Path(sys.executable).parent / "hyperboxd")))
        return _outcome(["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(path)], folder)


def _outcome(command: list[str], folder: str) -> str:
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
    )
    return "" if done.returncode == 0 else (done.stdout + done.stderr).strip() or f"exit status {done.returncode}"


BY_NAME: Final[tuple[tuple[str, Checker], ...]] = (
    ("hyperbox*.conf", check_config),
    ("hyperbox*.toml", check_config),
    ("*.toml", check_toml),
    ("*.yaml", check_yaml),
    ("*.yml", check_yaml),
    ("*.json", check_json),
    ("*.py", check_python),
    ("*.sh", check_shell),
    ("*.service", check_unit),
    ("*.socket", check_unit),
)
"""The first pattern that a file's name matches says how it is checked."""

BY_OPTION: Final[dict[str, Checker]] = {"config": check_config, "unit": check_unit}
"""Checks that a data fence may ask for: ```` ```toml check="config" ````."""

BY_LANGUAGE: Final[dict[str, Checker]] = {"toml": check_toml, "yaml": check_yaml, "json": check_json}
"""What a data fence is checked for when it asks for nothing else."""


def checker_for(name: str) -> Checker | None:
    """Find the checker of a file by its name."""
    return next((checker for pattern, checker in BY_NAME if fnmatch.fnmatchcase(name, pattern)), None)
