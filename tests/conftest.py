"""Machines that run tests are shared: a slow moment is no failure, and threads that wait for each other help nobody."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")


def pytest_configure(config: pytest.Config) -> None:
    """A deprecation that is blamed on a module of tests/support is an error, whatever the module is called."""
    names = "|".join(sorted(module.stem for module in (Path(__file__).parent / "support").glob("*.py")))
    for kind in ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning"):
        config.addinivalue_line("filterwarnings", rf"error::{kind}:({names})\Z")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest begin first, so that no process waits for another's last one."""
    items.sort(key=lambda item: item.get_closest_marker("early") is None)
