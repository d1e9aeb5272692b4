"""Machines that run tests are shared: a slow moment is no failure, and threads that wait for each other help nobody."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest begin first, so that no process waits for another's last one."""
    items.sort(key=lambda item: item.get_closest_marker("early") is None)
