"""Sessions of HyperBox. `nox -l` lists them; each prints what it installs.

`nox -s demo` needs a Debian 12 machine, root and Debian's archive; so do the engine tests of `nox -s tests`. What a
session brings along lies in its own folder (`HYPERBOX_LAB`, by default ~/.cache/hyperbox/lab).
"""

from __future__ import annotations

import os
import sys

import nox

nox.needs_version = ">=2022.11.21"  # the version of Debian 12
nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_external_run = True

# Debian's nox names the interpreter that it runs on; HyperBox needs 3.11 or newer.
PYTHON = None if sys.version_info >= (3, 11) else "3.11"


def install(session: nox.Session, *extras: str) -> None:
    target = f".[{','.join(extras)}]" if extras else "."
    session.log(f"installs HyperBox with {', '.join(extras) or 'no extras'} into {session.virtualenv.location}")
    session.install("-e", target)


@nox.session(python=PYTHON)
def lint(session: nox.Session) -> None:
    """Check style (ruff) and the arrows between rooms (import-linter)."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session(python=PYTHON)
def types(session: nox.Session) -> None:
    """Check types (mypy, strict)."""
    install(session, "types", "docs")
    session.run("mypy")


@nox.session(python=PYTHON)
def tests(session: nox.Session) -> None:
    """Run the tests, with real engines and containers where this machine allows them (about 20 minutes).

    What takes longer is in the sessions `e2e` and `faults`.
    """
    install(session, "tests", "docs")
    session.run("python", "-m", "hyperbox._dev.lab", "setup", "--for-tests")
    session.run("pytest", *(session.posargs or ["-m", "not slow"]))


@nox.session(python=PYTHON)
def e2e(session: nox.Session) -> None:
    """Run every end-to-end test: all lab images, second engine release, CRI (about 20 minutes)."""
    install(session, "tests", "docs")
    session.run("python", "-m", "hyperbox._dev.lab", "setup", "--all")
    session.run("pytest", "tests/e2e", *session.posargs)


@nox.session(python=PYTHON)
def demo(session: nox.Session) -> None:
    """Run two real images with HyperBox and without, side by side, and print one table."""
    install(session)
    session.run("python", "-m", "hyperbox._dev.demo", *session.posargs)


@nox.session(python=PYTHON)
def docs(session: nox.Session) -> None:
    """Build the site, strictly, into ./site; `nox -s docs -- serve` serves it instead."""
    install(session, "docs")
    command = session.posargs or ["build"]
    session.run("mkdocs", *command, "--strict")


@nox.session(python=PYTHON)
def reference(session: nox.Session) -> None:
    """Write the generated reference pages; `nox -s reference -- --check` only compares."""
    install(session, "docs")
    session.run("python", "-m", "hyperbox._dev.reference", *session.posargs)


@nox.session(python=PYTHON)
def bench(session: nox.Session) -> None:
    """Measure HyperBox beside plain overlayfs on the whole lab set (about 20 minutes)."""
    install(session)
    session.run("python", "-m", "hyperbox.bench", *session.posargs, env={"PYTHONUNBUFFERED": "1"})


@nox.session(python=PYTHON)
def faults(session: nox.Session) -> None:
    """Kill the daemon fifty times in the middle of its work and prove that nothing is lost (about 10 minutes)."""
    install(session, "tests")
    session.run("pytest", "tests/faults", *session.posargs, env={**os.environ, "HYPERBOX_FAULT_ROUNDS": "50"})
