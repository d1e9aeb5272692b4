"""The quickstart's plan; the whole of it is a slow test. How its jobs are done: test_worker_pool.py."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from fission_grpo.commands.quickstart import Quickstart, jobs, run_quickstart
from fission_grpo.commands.worker_pool import Job


def arguments(job: Job) -> tuple[str, ...]:
    assert isinstance(job.run, partial)
    return tuple(map(str, job.run.args))


def test_every_policy_is_evaluated_after_it_was_trained(tmp_path: Path) -> None:
    plan = Quickstart(output=tmp_path, arms=("grpo", "fission"), seeds=(0, 1))
    *before, last = jobs(plan)
    named = {one.name: one for one in before}
    # 2 arms x 2 seeds trained and evaluated, the demonstrations too, and the warm start evaluated: 4 + 4 + 2 + 1
    assert len(named) == 11
    for one in named.values():
        for needed in one.after:
            made = named[needed].product
            assert made is not None
            assert str(made.parent) in arguments(one), one.name
    assert sum(len(one.after) for one in named.values()) == 5
    assert arguments(named["fission-1"])[1:] == ("fission", "1")
    assert set(last.after) == named.keys()


def test_the_report_is_written_anew_each_time(tmp_path: Path) -> None:
    assert jobs(Quickstart(output=tmp_path))[-1].product is None


@pytest.mark.slow
def test_the_whole_quickstart(tmp_path: Path) -> None:
    plan = Quickstart(output=tmp_path, size=6, overrides=("trainer.steps=2", "trainer.queries=2", "fission.contexts=2"))
    summary = run_quickstart(plan, workers=2, report=lambda line: None).read_text(encoding="utf-8")
    assert "warm start" in summary
    assert (tmp_path / "probe.png").exists()
    assert {one["treatment"] for one in json.loads((tmp_path / "summary.json").read_text())} == {"fission-decision"}
