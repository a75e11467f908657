"""A registry that fails HyperBox alone, or everybody: the engine's own pull goes on, and the reason is kept."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from hyperbox._dev.lab.runs import wait_until
from hyperbox.api import events as e
from hyperbox.api.errors.registry import LayerHeldOff
from support.e2e_engines import events, layers
from support.fault_images import SmallImage, small_image
from support.fault_place import Place, make_place
from support.lab_fixtures import Lab
from support.registry_simulator import RegistrySimulator, digest

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.timeout(60)]

HYPERBOX = "^hyperbox"
"""What HyperBox calls itself; Docker has the storage driver's name somewhere in its own name."""
_SEEDS = itertools.count(100)
_THREADS = 8
"""Idle threads that pools may have kept beyond those after the first pull."""


@pytest.fixture(scope="module")
def place(lab: Lab) -> Iterator[Place]:
    settings = {"HYPERBOX_REGISTRY_READ_SECONDS": "0.5", "HYPERBOX_REGISTRY_ATTEMPTS": "2"}
    with make_place(lab, "registries", env=settings) as made:
        with RegistrySimulator() as simulator:
            for seed in (98, 99):
                image = small_image(made.base, seed)
                made.engine.docker("pull", "-q", image.serve(simulator))
        yield made


@pytest.fixture(scope="module")
def idle_threads(place: Place) -> int:
    return place.threads()


@pytest.fixture
def simulator() -> Iterator[RegistrySimulator]:
    with RegistrySimulator() as one:
        yield one


@pytest.fixture(autouse=True)
def no_thread_is_left(place: Place, idle_threads: int) -> Iterator[None]:
    yield
    wait_until(lambda: place.threads() <= idle_threads + _THREADS, 30, "the end of the threads of a failed pull")
    wait_until(lambda: not place.ingest(), 10, "the end of the layers above the failed one")
    place.check_state()


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "stalls": ({"stall_after": 0}, "HB-REGISTRY"),
    "resets": ({"cut_after": 0, "reset": True}, "HB-REGISTRY"),
    "lies": ({"corrupt": True}, "HB-"),
    "is short": ({"claim_length": 500}, "HB-"),
    "is busy": ({"status": 429, "headers": {"Retry-After": "0"}}, "HB-REGISTRY"),
    "is broken": ({"status": 503}, "HB-REGISTRY"),
    "denies": ({"status": 403}, "HB-REGISTRY"),
    "has lost it": ({"status": 404}, "HB-REGISTRY"),
}


def _image(place: Place) -> SmallImage:
    return small_image(place.base, next(_SEEDS))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("layer", [1, 2])
def test_the_engine_does_what_hyperbox_cannot(
    place: Place, simulator: RegistrySimulator, fault: str, layer: int
) -> None:
    image = _image(place)
    reference = image.serve(simulator)
    blob, _ = image.layers[layer]
    how, code = FAULTS[fault]
    simulator.fail(f"/blobs/{digest(blob)}", agent=HYPERBOX, times=1000, **how)
    place.engine.docker("pull", "-q", reference)
    place.see(reference, image.files)
    told = layers(place.client, reference)[layer]
    assert told.reason, told
    declined = _declined(place, reference)
    assert str(declined[0]["code"]).startswith(code), declined
    # A layer that had failed when the engine came to it was held off; that says the reason, too.
    assert str(declined[0]["reason"]).rpartition(" s: ")[2] in told.reason
    if layer == 2:
        below = layers(place.client, reference)[1]
        assert (below.form, below.source, below.reason) == ("composed", "pull", "")


@pytest.mark.parametrize(
    "how", [{"stall_after": 200_000}, {"cut_after": 200_000}, {"cut_after": 200_000, "reset": True}], ids=str
)
def test_a_transfer_that_breaks_off_is_resumed(place: Place, simulator: RegistrySimulator, how: dict[str, Any]) -> None:
    image = _image(place)
    reference = image.serve(simulator)
    blob = digest(image.layers[1][0])
    simulator.fail(f"/blobs/{blob}", agent=HYPERBOX, times=2, **how)
    place.engine.docker("pull", "-q", reference)
    place.see(reference, image.files)
    assert [(layer.source, layer.reason) for layer in layers(place.client, reference)[1:]] == [("pull", "")] * 2
    assert _asked(simulator, blob) == 3


def test_a_manifest_that_only_the_engine_gets(place: Place, simulator: RegistrySimulator) -> None:
    image = _image(place)
    reference = image.serve(simulator)
    simulator.fail("/manifests/", agent=HYPERBOX, status=500, times=1000)
    place.engine.docker("pull", "-q", reference)
    place.see(reference, image.files)
    assert all(layer.reason for layer in layers(place.client, reference)[1:])


def test_a_layer_that_failed_is_not_tried_at_once_again(place: Place, simulator: RegistrySimulator) -> None:
    image = _image(place)
    reference = image.serve(simulator)
    blob = digest(image.layers[1][0])
    simulator.fail(f"/blobs/{blob}", agent=HYPERBOX, status=404, times=1)
    place.engine.docker("pull", "-q", reference)
    chain = str(_declined(place, reference)[0]["chain_id"])
    began = time.monotonic()
    asked = _asked(simulator, blob)
    place.engine.docker("rmi", reference)
    wait_until(lambda: not place.query(f"SELECT 1 FROM snapshots WHERE key LIKE '%{chain}'"), 20, "the removal")
    place.settle()
    place.gc()
    place.engine.docker("pull", "-q", reference)
    if time.monotonic() - began > 8:
        pytest.skip("this machine is too slow to pull twice within the hold-off of 10 s")
    assert _asked(simulator, blob) == asked
    assert [row["code"] == LayerHeldOff.code for row in _declined(place, reference)] == [False, True]
    place.see(reference, image.files)


def _declined(place: Place, reference: str) -> list[Mapping[str, object]]:
    return [row for row in events(place.client, e.LAYER_DECLINED.name) if row["image"] == reference]


def _asked(simulator: RegistrySimulator, blob: str) -> int:
    return sum(
        blob in r.path and re.search(HYPERBOX, r.headers.get("User-Agent", "")) is not None for r in simulator.requests
    )


def test_a_registry_that_is_gone_gives_a_clear_error_and_comes_back(place: Place) -> None:
    image = _image(place)
    with RegistrySimulator() as simulator:
        reference = image.serve(simulator)
        stalled = digest(image.layers[2][0])
        simulator.fail(f"/blobs/{stalled}", stall_after=10, times=1000)
        results: list[str] = []
        pull = threading.Thread(
            target=lambda: results.append(place.engine.docker("pull", reference, check=False, timeout=60).stderr)
        )
        pull.start()
        wait_until(lambda: bool(simulator.paths(stalled)), 20, "the request for the layer")
    pull.join(120)
    assert results
    assert results[0], "the engine says that it failed"
    assert image.digest not in place.system.images()
    place.check_state()
    with RegistrySimulator() as back:
        other = image.serve(back)
        place.engine.docker("pull", "-q", other)
        place.see(other, image.files)


def test_a_pull_that_nobody_waits_for_any_more_ends(place: Place, simulator: RegistrySimulator) -> None:
    """`docker pull` is interrupted while HyperBox waits for a registry that is silent."""
    image = _image(place)
    reference = image.serve(simulator)
    stalled = digest(image.layers[1][0])
    simulator.fail(f"/blobs/{stalled}", stall_after=10, times=1000)
    with pytest.raises(Exception, match="did not end"):
        place.engine.docker("pull", reference, timeout=2)
    simulator.faults.clear()
    place.engine.docker("pull", "-q", reference)
    place.see(reference, image.files)
