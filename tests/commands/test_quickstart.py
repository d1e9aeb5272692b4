"""The quickstart's plan; the whole of it is a slow test. How its jobs are done: test_worker_pool.py."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fission_grpo.commands.quickstart import Quickstart, jobs, run_quickstart
from fission_grpo.commands.worker_pool import Job
from fission_grpo.errors import ConfigError
from fission_grpo.recipes import Recipe
from fission_grpo.recipes.supervised import WARM_STARTS


def arguments(job: Job) -> tuple[str, ...]:
    assert isinstance(job.run, partial)
    return tuple(map(str, job.run.args))


def test_every_policy_is_evaluated_after_it_was_trained(tmp_path: Path) -> None:
    plan = Quickstart(output=tmp_path, arms=("grpo", "fission"), seeds=(0, 1))
    *before, last = jobs(plan)
    named = {one.name: one for one in before}
    # 2 arms and the demonstrations x 2 seeds, trained and evaluated, and the warm start evaluated: 6 + 6 + 1
    assert len(named) == 13
    for one in named.values():
        for needed in one.after:
            made = named[needed].product
            assert made is not None
            assert any(argument.startswith(str(made.parent)) for argument in arguments(one)), one.name
    assert sum(len(one.after) for one in named.values()) == 6
    assert arguments(named["fission-1"])[1:] == ("fission", "1")
    assert set(last.after) == named.keys()


def test_demonstrations_have_a_number_of_runs_of_their_own(tmp_path: Path) -> None:
    named = {one.name for one in jobs(Quickstart(output=tmp_path, seeds=(0, 1, 2), demonstrations=2))}
    assert {name for name in named if "demonstrations" in name} == {
        *("demonstrations-0", "demonstrations-1"),
        *("evaluate demonstrations-0", "evaluate demonstrations-1"),
    }


def test_a_model_that_cannot_call_tools_learns_to_before_everything_else(tmp_path: Path) -> None:
    plan = Quickstart(output=tmp_path, model="smollm2", arms=("grpo", "fission"), seeds=(0,))
    first, *others, last = jobs(plan)
    assert first.name == "warm start-0"
    assert first.product == tmp_path / "warm-start-0" / "policy" == Path(plan.start)
    assert all("warm start-0" in job.after for job in others)
    assert "warm start-0" in last.after
    named = {job.name: job for job in others}
    assert arguments(named["evaluate warm start-0"])[1:] == (plan.start, str(tmp_path / "warm-start-0" / "evaluation"))
    assert {job.name for job in jobs(replace(plan, model="nano"))} == {last.name, *named}


def test_the_same_plan_with_another_warm_start_is_another_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("fission_grpo.commands.quickstart.work", lambda *_, **__: None)
    plan = Quickstart(output=tmp_path, model="smollm2", recipe=Recipe.SMOLLM2, arms=("grpo", "fission"), seeds=(0, 1))
    run_quickstart(plan, workers=1, report=told.append)
    (line,) = told
    warm = WARM_STARTS["smollm2"]
    assert f"a warm start of {warm['sft.steps']} updates of {warm['sft.batch']} gold dialogues" in line
    assert "2 arms x 2 runs (grpo, fission)" in line
    monkeypatch.setattr("fission_grpo.commands.quickstart.WARM_STARTS", {"smollm2": {**warm, "sft.steps": 1}})
    with pytest.raises(ConfigError, match="choose another --output"):
        run_quickstart(plan, workers=1, report=told.append)


def test_an_arm_that_is_matched_in_tokens_waits_for_the_run_that_pays(tmp_path: Path) -> None:
    named = {one.name: one for one in jobs(Quickstart(output=tmp_path, arms=("grpo-tokens", "fission"), seeds=(0, 1)))}
    assert [named[f"grpo-tokens-{seed}"].after for seed in (0, 1)] == [("fission-0",), ("fission-1",)]
    assert named["fission-0"].after == ()


def test_an_arm_that_is_matched_in_tokens_needs_the_arm_that_pays(tmp_path: Path) -> None:
    plan = Quickstart(output=tmp_path / "none", arms=("grpo-decision-tokens", "fission"))
    with pytest.raises(
        ConfigError, match=r"samples as many tokens as fission-decision did, .* add fission-decision to"
    ):
        run_quickstart(plan, workers=1, report=lambda line: None)
    assert not plan.output.exists()


def test_runs_of_another_meaning_are_not_reused(tmp_path: Path) -> None:
    """What an earlier version left: other arms by the same names, on other held-out tasks."""
    former = {"model": "nano", "recipe": "nano", "size": 300, "overrides": []}
    (tmp_path / "plan.json").write_text(json.dumps(former))
    with pytest.raises(ConfigError, match=r"choose another --output, or move .* aside"):
        run_quickstart(Quickstart(output=tmp_path), workers=1, report=lambda line: None)


def test_the_report_is_written_anew_each_time(tmp_path: Path) -> None:
    assert jobs(Quickstart(output=tmp_path))[-1].product is None


@pytest.mark.slow
def test_the_whole_quickstart(tmp_path: Path) -> None:
    plan = Quickstart(
        output=tmp_path,
        size=6,
        seeds=(0, 1),
        arms=("grpo-decision", "fission-decision", "grpo-decision-tokens"),
        overrides=("trainer.steps=2", "trainer.queries=2", "fission.contexts=2"),
    )
    summary = run_quickstart(plan, workers=2, report=lambda line: None).read_text(encoding="utf-8")
    assert "warm start" in summary
    assert (tmp_path / "probe.png").exists()
    assert {one["treatment"] for one in json.loads((tmp_path / "summary.json").read_text())} == {"fission-decision"}
