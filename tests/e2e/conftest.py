"""What the end-to-end tests share: the two systems that are compared, started once a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hyperbox._dev.lab import Engine, Hyperboxd
from support.e2e_engines import System


@pytest.fixture(scope="session")
def hyper(hyperbox_engine: Engine, hyperboxd: Hyperboxd) -> System:
    """Docker on HyperBox; what tests leave in it is there for the next."""
    return System(hyperbox_engine, hyperboxd)


@pytest.fixture(scope="session")
def vanilla(vanilla_engine: Engine) -> System:
    """Docker on containerd's overlayfs."""
    return System(vanilla_engine)


@pytest.fixture(params=["vanilla", "hyper"])
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    """Both systems in turn; containers that a test leaves are removed."""
    system: System = request.getfixturevalue(request.param)
    yield system
    containers = system.out("ps", "-aq", "--no-trunc").split()
    if containers:
        system.engine.docker("rm", "-f", "-v", *containers)
