"""The arithmetic of a plan: what a rehearsal of given seconds says about the whole run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fission_grpo.commands.dry_run import Rehearsal, advise, estimate_seconds, prompt_tokens
from fission_grpo.config import RunSettings
from fission_grpo.models.catalog import load_chat
from fission_grpo.tasks.synthesis.generator import synthesise

REHEARSED = Rehearsal(
    rollouts=16,
    faults=(),
    success=0.5,
    sampled_tokens=20.0,
    longest=100,
    collect_seconds=7.0,
    explore_seconds=2.0,
    observe_seconds=3.0,
    recover_seconds=5.0,
    update_seconds=1.0,
    contexts=1.0,
)


def seconds(rehearsal: Rehearsal, *, collected: int = 0) -> float | None:
    return estimate_seconds(rehearsal, steps=10, queries=4, contexts=2, collected=collected)


def test_a_step_is_its_exploration_with_feedback_its_recoveries_and_one_update_on_both() -> None:
    # 4 (explore 2 + observe 3) + 2 (recover 5) + (4 + 2) (update 1) = 20 + 10 + 6 = 36 a step, 10 steps
    assert seconds(REHEARSED) == 360.0


def test_feedback_that_took_longer_makes_the_run_longer_by_as_much_for_every_group() -> None:
    # 10 steps of 4 groups, 0.5 s more each
    slower = replace(REHEARSED, observe_seconds=3.5)
    assert seconds(slower) == 360.0 + 10 * 4 * 0.5


def test_feedback_counts_also_where_nothing_was_fissioned() -> None:
    # Recoveries are then taken to last as long as explorations: 20 + 2 * 2 + 6 = 30 a step
    nothing = replace(REHEARSED, recover_seconds=None)
    assert seconds(nothing) == 300.0
    assert seconds(replace(nothing, observe_seconds=0.0)) == 300.0 - 10 * 4 * 3


@pytest.mark.parametrize(("collected", "more"), [(0, 0.0), (6, 6 * 7.0)])
def test_what_an_offline_source_looks_at_first_comes_on_top_with_its_feedback(collected: int, more: float) -> None:
    assert seconds(REHEARSED, collected=collected) == 360.0 + more


def test_without_an_update_there_is_no_estimate() -> None:
    assert seconds(replace(REHEARSED, update_seconds=None), collected=6) is None


def test_long_prompts_and_no_success_are_told_what_helps() -> None:
    tasks = synthesise(3, 2)
    settings = RunSettings(model="nano", chat_template="hermes")
    long = prompt_tokens(load_chat("nano", chat_template="hermes"), tasks)
    short = prompt_tokens(load_chat("nano"), tasks)
    assert long > 2 * short
    (said,) = advise(settings, tasks, prompt=long, success=0.5)
    assert f"prompts have {long:,.0f} tokens; with chat_template=nano they would have {short:,.0f}" in said
    assert list(advise(settings, tasks, prompt=short, success=0.5)) == []
    assert list(advise(RunSettings(chat_template="nano"), tasks, prompt=long, success=0.5)) == []
    (said,) = advise(settings, tasks, prompt=short, success=0.0)
    assert "`fission sft` with the same settings" in said
