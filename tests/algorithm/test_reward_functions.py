"""Functions of the user's as rewards: what they are given, what they may return, and how it is added up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pydantic import ValidationError
from tiny_policies import DONE, ENVIRONMENTS, chat, say, scripted, tasks

from fission_grpo.algorithm.judge import Judge
from fission_grpo.algorithm.reward_functions import (
    FunctionRewards,
    JudgeWithFunctions,
    RewardFunction,
    function_terms,
)
from fission_grpo.assembly import judge_of_run
from fission_grpo.config import RunSettings
from fission_grpo.engines.coroutines import all_awaited
from fission_grpo.errors import ConfigError, ToolError
from fission_grpo.policy.base import Sampling
from fission_grpo.rollout import Horizon, Trajectory, open_group, rollout

TASK = tasks()[0]


def play(*answers: str, size: int = 2) -> list[Trajectory]:
    return rollout(
        open_group(TASK, size, chat=chat(), environments=ENVIRONMENTS),
        policy=scripted(*answers),
        chat=chat(),
        sampling=Sampling(max_tokens=200),
        horizons=[Horizon.TURN] * size,
        max_turns=8,
        seed=0,
    )


def judge(*functions: Callable[..., Any], ours: float = 1.0, weights: Sequence[float] = ()) -> JudgeWithFunctions:
    named = [
        RewardFunction(name=function.__name__, weight=weight, call=function)
        for function, weight in zip(functions, weights or [1.0] * len(functions), strict=True)
    ]
    return JudgeWithFunctions(judge=Judge(chat=chat()), functions=tuple(named), ours=ours, gather=all_awaited)


def rewards(judged: JudgeWithFunctions, *answers: str) -> list[Any]:
    found = judged.siblings(play(*(answers or (say(*TASK.gold[0]), DONE))), horizon=Horizon.TURN, progress=0.0)
    return [member.reward for member in found]


def test_no_function_says_nothing_about_each() -> None:
    assert function_terms((), play(say(*TASK.gold[0]), DONE), columns={}, gather=all_awaited) == [(), ()]


def test_functions_see_siblings_and_all_that_a_task_says() -> None:
    seen: list[dict[str, Any]] = []

    def look(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        seen.append({"prompts": prompts, "completions": completions, **columns})
        return [0.0 for _ in completions]

    rewards(judge(look))
    (given,) = seen
    assert given["prompts"] == [list(TASK.messages)] * 2
    roles = [message["role"] for message in given["completions"][0]]
    assert roles == ["assistant", *["tool"] * len(TASK.gold[0]), "assistant"]
    assert given["id"] == [TASK.id] * 2
    assert [call["name"] for call in given["turns"][0][0]] == [call.name for call in TASK.gold[0]]
    assert given["world"][0] == TASK.world.config if TASK.world else False
    assert given["apis"] == [TASK.meta["apis"]] * 2
    assert len(given["completion_ids"][0]) > 3


def test_a_function_gets_what_it_takes_and_no_more() -> None:
    def short(completions: list[Any]) -> list[float]:
        return [float(len(one)) for one in completions]

    assert [reward.value("short") for reward in rewards(judge(short))] == [len(TASK.gold[0]) + 2.0] * 2


def test_terms_are_added_to_ours_or_stand_alone() -> None:
    def half(completions: Any, **_: Any) -> list[float]:
        return [0.5 for _ in completions]

    async def point(completions: Any, **_: Any) -> list[float | None]:
        return [1.0, None]

    alone = Judge(chat=chat())(play(say(*TASK.gold[0]), DONE)[0], horizon=Horizon.TURN, progress=0.0).reward
    assert alone is not None
    assert alone.total == pytest.approx(1.0)
    first, second = rewards(judge(half, point, ours=0.25, weights=[2.0, -3.0]))
    # a quarter of ours, twice a half, and minus three times one, where it applies
    assert (first.total, second.total) == (pytest.approx(0.25 + 1 - 3), pytest.approx(0.25 + 1))
    assert [term.name for term in first.terms] == [*(term.name for term in alone.terms), "half", "point"]
    first, second = rewards(judge(half, point, ours=0.0))
    assert [(term.name, term.value, term.weight) for term in first.terms] == [("half", 0.5, 1.0), ("point", 1.0, 1.0)]
    assert (first.total, second.total) == (1.5, 0.5)


def test_success_and_failure_are_what_they_are_without_them() -> None:
    def against(completions: Any, **_: Any) -> list[float]:
        return [-9.0 for _ in completions]

    (solved, _) = judge(against, ours=0.0).siblings(play(say(*TASK.gold[0]), DONE), horizon=Horizon.TURN, progress=0.0)
    assert (solved.success, solved.failure) == (True, None)
    (quit_, _) = judge(against, ours=0.0).siblings(play(DONE), horizon=Horizon.TURN, progress=0.0)
    assert not quit_.success
    assert quit_.failure is not None


def test_where_nothing_applies_there_is_no_reward() -> None:
    def none(completions: Any, **_: Any) -> list[None]:
        return [None for _ in completions]

    assert rewards(judge(none, ours=0.0)) == [None, None]


def raises(completions: Any, **_: Any) -> list[float]:
    raise KeyError("city")


def refuses(completions: Any, **_: Any) -> list[float]:
    raise ToolError("no")


async def raises_later(completions: Any, **_: Any) -> list[float]:
    raise KeyError("town")


def returns(value: Any) -> Callable[..., Any]:
    def function(completions: Any, **_: Any) -> Any:
        return value

    return function


EXPECTED = "expected 2 numbers, one for each completion, or None where it does not apply"


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (raises, r"the reward function raises raised KeyError: 'city' \(.*test_reward_functions.py line \d+\)"),
        (refuses, r"the reward function refuses raised ToolError: no \("),
        (raises_later, r"the reward function raises_later: KeyError: 'town'; correct it there"),
        (returns([1.0]), f"returned 1 rewards; {EXPECTED}"),
        (returns(1.0), f"returned 1.0; {EXPECTED}"),
        (returns(None), f"returned None; {EXPECTED}"),
        (returns([1.0, math.nan]), f"returned nan among its rewards; {EXPECTED}"),
        (returns([math.inf, 1.0]), f"returned inf among its rewards; {EXPECTED}"),
        (returns([1.0, "good"]), f"returned 'good' among its rewards; {EXPECTED}"),
    ],
)
def test_what_is_wrong_with_a_function_is_said_in_one_sentence(function: Callable[..., Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        rewards(judge(function))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"functions": ["a:b"], "weights": [1, 2]}, "reward.weights has 2 values for 1 functions"),
        ({"ours": 0}, "there are none"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(written: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        FunctionRewards.model_validate(written)


def settings(*functions: str) -> RunSettings:
    return RunSettings.model_validate({"reward": {"functions": list(functions)}})


@pytest.mark.parametrize(
    ("functions", "said"),
    [
        (["math"], "reward.functions: got 'math', expected 'package.module:name'"),
        (["math:nothing"], "has no 'nothing'"),
        (["no_such_module_here:f"], "No module named 'no_such_module_here'"),
        (["math:pi"], "float cannot be called; expected functions"),
        (["math:floor", "math:floor"], "got the names floor; expected different ones"),
        (["builtins:format"], "none of correctness, efficiency, format"),
    ],
)
def test_functions_that_cannot_be_had_are_refused_before_anything_is_spent(functions: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        judge_of_run(settings(*functions), chat())


def test_without_functions_the_judge_and_the_saved_settings_are_what_they_were() -> None:
    assert isinstance(judge_of_run(RunSettings(), chat()), Judge)
    assert "reward" not in RunSettings().saved()
    assert settings("math:floor").saved()["reward"] == {"functions": ["math:floor"], "weights": [], "ours": 1.0}
