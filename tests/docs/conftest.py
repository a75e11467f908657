"""What the documentation tests share: the built site, and what pages need to run."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hyperbox._dev.docs import REPOSITORY
from hyperbox._dev.docs.capabilities import PROVIDERS, CapabilityAbsent, Provider, ProviderFailed
from hyperbox._dev.docs.update import write_pending
from hyperbox._dev.lab import Hyperboxd, LabError

if TYPE_CHECKING:
    from support.lab_fixtures import Lab


def pytest_unconfigure() -> None:
    """Rewrite console blocks last: pytest-examples keeps positions in the pages until the session ends."""
    write_pending()


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


class LabProvider:
    """The lab as pages see it: an engine of the page's own on HyperBox, and the session's registry.

    `lab` is set by the test that needs it: only a test can ask for a fixture that may have to be skipped.
    """

    def __init__(self) -> None:
        self.lab: Lab | None = None
        self._number = 0

    def _there(self) -> Lab:
        assert self.lab is not None, "the test did not ask for the lab"
        return self.lab

    @contextlib.contextmanager
    def engine(self, folder: Path, argument: str) -> Iterator[Mapping[str, str]]:
        """`needs="lab"`: Docker and containerd on a hyperboxd, both for this page alone."""
        lab = self._there()
        self._number += 1
        with contextlib.ExitStack() as stack:
            try:
                name = f"page{self._number}"
                # The daemon asks this engine for the names of images, as on a machine with one engine.
                engine_socket = str(lab.run.sockets / name / "containerd.sock")
                daemon = stack.enter_context(
                    Hyperboxd(lab.run, f"{name}d", env={"HYPERBOX_ENGINE_CONTAINERD_ADDRESS": engine_socket})
                )
                engine = stack.enter_context(lab.engine(name, snapshotter=daemon.snapshotter))
            except LabError as error:
                raise ProviderFailed(str(error)) from None
            except pytest.skip.Exception as skipped:
                raise CapabilityAbsent(str(skipped)) from None
            wanted = {"PATH", "LD_LIBRARY_PATH"}
            programs = {
                name: value
                for name, value in engine.environment.items()
                if name in wanted or name.startswith(("DOCKER_", "CONTAINERD_"))
            }
            # `hyperbox` itself comes first, as on a machine where it is installed.
            programs["PATH"] = f"{Path(sys.executable).parent}:{programs['PATH']}"
            yield {
                **programs,
                "REGISTRY": lab.registry.host,
                "HYPERBOX_SOCKET": str(daemon.api_socket),
                "HYPERBOX_DAEMON_STATE": str(daemon.state),
                "HYPERBOX_DAEMON_RUN": str(daemon.run_folder),
            }

    @contextlib.contextmanager
    def image(self, folder: Path, argument: str) -> Iterator[Mapping[str, str]]:
        """`needs="image:nginx"`: the image is in the registry, and `$IMAGE_NGINX` is its reference."""
        try:
            _, reference = self._there().image(argument)
        except pytest.skip.Exception as skipped:
            raise CapabilityAbsent(str(skipped)) from None
        yield {f"IMAGE_{argument.upper().replace('-', '_')}": reference}


@pytest.fixture(scope="session")
def lab_provider() -> LabProvider:
    return LabProvider()


@pytest.fixture(scope="session")
def providers(lab_provider: LabProvider) -> Mapping[str, Provider]:
    return {**PROVIDERS, "lab": lab_provider.engine, "image": lab_provider.image}
