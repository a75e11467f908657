"""Images pulled ahead: kept until the engine has them, for a day at most."""

from __future__ import annotations

import pytest

from hyperbox.daemon.pins import KEPT, outdated
from hyperbox.store import ImageLayer, ImageRow

DAY = int(KEPT * 1e9)
LAYERS = (ImageLayer("sha256:a", chain_id="one"), ImageLayer("sha256:b", chain_id="two"))


@pytest.mark.parametrize(
    ("pinned", "chains", "age", "gone"),
    [
        (True, set(), DAY - 1, False),
        (True, set(), DAY, True),
        (True, {"one"}, 0, False),
        (True, {"one", "two"}, 0, True),
        (False, {"one", "two"}, DAY, False),
    ],
)
def test_when_a_pin_ends(pinned, chains, age, gone):
    image = ImageRow("r", "linux/amd64", "sha256:m", LAYERS, pinned, 0, 5)
    assert list(outdated([image], chains, now_ns=5 + age, kept=KEPT)) == ([image] if gone else [])


def test_no_time_to_keep_takes_all():
    image = ImageRow("r", "linux/amd64", "sha256:m", LAYERS, True, 0, 5)
    assert list(outdated([image], set(), now_ns=5, kept=0)) == [image]
