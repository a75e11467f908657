"""Fixtures for all tests, and the skips that marks ask for."""

from __future__ import annotations

import os

import pytest

pytest_plugins = ["support.lab_fixtures"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs root when there is none."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root") or item.get_closest_marker("engine"):
            item.add_marker(pytest.mark.skip(reason="needs root"))
