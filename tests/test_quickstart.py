"""The quickstart's plan, and the workers that carry it out; the whole of it is a slow test."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from fission_grpo.errors import FissionError
from fission_grpo.quickstart import Job, Plan, jobs, run, work


def job(folder: Path, name: str, code: str, *, after: str | None = None) -> Job:
    """A job that runs Python code and then leaves its product."""
    product = folder / f"{name}.done"
    script = f"{code}; import pathlib; pathlib.Path({str(product)!r}).touch()"
    return Job(
        name=name, command=(sys.executable, "-c", script), log=folder / f"{name}.log", product=product, after=after
    )


def test_every_policy_is_evaluated_after_it_was_trained(tmp_path: Path) -> None:
    plan = Plan(output=tmp_path, arms=("grpo", "fission"), seeds=(0, 1))
    named = {one.name: one for one in jobs(plan)}
    # 2 arms x 2 seeds trained and evaluated, the demonstrations too, and the warm start evaluated: 4 + 4 + 2 + 1
    assert len(named) == 11
    for name, one in named.items():
        assert one.after is None or named[one.after].product.parent.parent == one.product.parent.parent, name
    assert sum(one.after is not None for one in named.values()) == 5
    assert "--arm" in named["fission-1"].command


def test_a_job_waits_for_what_it_needs(tmp_path: Path) -> None:
    first = job(tmp_path, "first", "pass")
    second = job(tmp_path, "second", f"import os; assert os.path.exists({str(first.product)!r})", after="first")
    lines: list[str] = []
    work([second, first], workers=2, report=lines.append)
    assert second.product.exists()
    assert [line.split()[-1] for line in lines if "begins" in line] == ["first", "second"]


def test_what_is_finished_is_not_done_again(tmp_path: Path) -> None:
    (tmp_path / "first.done").touch()
    first = job(tmp_path, "first", "raise SystemExit('must not run')")
    work([first, job(tmp_path, "second", "pass", after="first")], workers=1, report=lambda line: None)
    assert (tmp_path / "second.done").exists()


def test_a_failed_job_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(FissionError, match=r"broken failed.*(?s:.*)no such luck"):
        work([job(tmp_path, "broken", "raise SystemExit('no such luck')")], workers=1, report=lambda line: None)


@pytest.mark.slow
def test_the_whole_quickstart(tmp_path: Path) -> None:
    plan = Plan(output=tmp_path, size=6, overrides=("trainer.steps=2", "trainer.queries=2", "fission.contexts=2"))
    summary = run(plan, workers=2, report=lambda line: None).read_text(encoding="utf-8")
    assert "warm start" in summary
    assert (tmp_path / "probe.png").exists()
    assert {one["treatment"] for one in json.loads((tmp_path / "summary.json").read_text())} == {"fission-decision"}
