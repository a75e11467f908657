"""What the documentation tests share: the built site, and what pages need to run."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from hyperbox._dev.docs import REPOSITORY
from hyperbox._dev.docs.capabilities import PROVIDERS, CapabilityAbsent, Provider


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly once a run; a warning of the build fails every test that needs it."""
    folder = tmp_path_factory.mktemp("site") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"the strict build failed:\n{done.stdout[-6000:]}{done.stderr[-6000:]}", pytrace=False)
    return folder


@contextlib.contextmanager
def lab(folder: Path) -> Iterator[Mapping[str, str]]:
    """The lab of the tests, as a page's environment."""
    try:
        from support.lab_fixtures import page_environment
    except ImportError as error:
        raise CapabilityAbsent(f"the lab's fixtures cannot be had: {error}") from None
    with page_environment(folder) as variables:
        yield variables


@pytest.fixture(scope="session")
def providers() -> Mapping[str, Provider]:
    return {**PROVIDERS, "lab": lab}
