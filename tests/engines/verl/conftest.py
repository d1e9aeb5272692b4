"""Tests of the engine verl. Without verl, what needs it is left out: `make test-verl` runs it where it is installed."""

from __future__ import annotations

from importlib.util import find_spec

SPEC = find_spec("verl")
INSTALLED = SPEC is not None and SPEC.origin is not None  # a folder called `verl` on the path is no verl
NEED_VERL = [
    "test_verl_rows.py",
    "test_verl_config.py",
    "test_verl_bench.py",
    "test_verl_run.py",
    "test_verl_tree.py",
    "test_verl_deploy.py",
]
collect_ignore_glob = [] if INSTALLED else NEED_VERL


def pytest_report_header() -> str:
    """Said once, where it matters."""
    return "" if INSTALLED else "verl is not installed: most of tests/engines/verl is left out (make test-verl)"
