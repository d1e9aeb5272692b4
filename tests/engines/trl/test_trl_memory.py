"""The plan of a device, against the peak of a process that trains inside TRL."""

from __future__ import annotations

from pathlib import Path

import pytest
from process_memory import probe


@pytest.mark.early
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
def test_the_plan_is_the_peak_of_a_process_within_a_fifth(autocast: bool) -> None:
    """Two steps with a reference, recoveries, our own sampler and the tree, layers computed again as TRL does."""
    found = probe("trl", hidden=256, layers=4, trainer__gradient_checkpointing=True, engine__autocast=autocast)
    assert found["peak"] == pytest.approx(found["plan"], rel=0.2), found
