"""Tests of the TRL engine; without TRL there is nothing to collect: `make test-trl` runs them where it is installed."""

from __future__ import annotations

import os
from importlib.util import find_spec

SPEC = find_spec("trl")
INSTALLED = SPEC is not None and SPEC.origin is not None  # a folder called `trl` on the path is no TRL
collect_ignore_glob = [] if INSTALLED else ["test_*.py"]
os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", TRL_EXPERIMENTAL_SILENCE="1")


def pytest_report_header() -> str:
    """Said once, where it matters."""
    return "" if INSTALLED else "TRL is not installed: tests/engines/trl is left out (make test-trl)"
