"""What a rollout is judged by: which gold counts, wherever it begins and however far it goes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tiny_policies import DONE, ENVIRONMENTS, chat, say, scripted

from fission_grpo.algorithm.judge import Judge, gold_ahead
from fission_grpo.policy.base import Sampling
from fission_grpo.rollout import Horizon, Trajectory, open_task, rollout
from fission_grpo.tasks.dialogue import decision_points
from fission_grpo.tasks.synthesis.generator import Mixture, synthesise
from fission_grpo.types import Task, ToolCall

(TASK,) = synthesise(
    1, 1, apis=("GorillaFileSystem",), tools=(2, 3), mixture=Mixture(calls=(0.0, 1.0, 0.0), two_turns=1.0)
)
FIRST, SECOND = TASK.gold
WRONG = ToolCall(name="no_such_tool", arguments={})


def play(task: Task, answers: Sequence[str], horizon: Horizon) -> Trajectory:
    (trajectory,) = rollout(
        [open_task(task, chat=chat(), environments=ENVIRONMENTS)],
        policy=scripted(*answers),
        chat=chat(),
        sampling=Sampling(max_tokens=200),
        horizons=[horizon],
        max_turns=8,
        seed=0,
    )
    return trajectory


def progress(trajectory: Trajectory, horizon: Horizon) -> str:
    reward = Judge(chat=chat())(trajectory, horizon=horizon, progress=0.0).reward
    assert reward is not None
    return next(term.why for term in reward.terms if term.name == "progress").partition(" gold")[0]


@pytest.mark.parametrize(("horizon", "wanted"), [(Horizon.TURN, FIRST), (Horizon.EPISODE, FIRST + SECOND)])
def test_a_whole_episode_is_judged_by_all_that_the_user_asks(horizon: Horizon, wanted: tuple[ToolCall, ...]) -> None:
    assert gold_ahead(TASK, horizon) == wanted
    silent = play(TASK, [DONE], horizon)
    assert progress(silent, horizon) == f"0 of {len(wanted)}"
    answers = [say(*FIRST), DONE, *([say(*SECOND), DONE] if horizon is Horizon.EPISODE else [])]
    solved = Judge(chat=chat())(play(TASK, answers, horizon), horizon=horizon, progress=0.0)
    assert solved.success
    assert solved.reward is not None
    assert solved.reward.total == pytest.approx(1.0)


def test_a_task_in_the_middle_of_a_dialogue_asks_for_what_is_left() -> None:
    for point in decision_points(TASK):
        ahead = gold_ahead(point, Horizon.TURN)
        assert ahead is not None
        assert ahead[:1] == point.target
        if not ahead:
            continue
        answers = [say(call) for call in ahead] + [DONE]
        offset = sum(message["role"] == "assistant" for message in point.messages)
        trajectory = play(point, ["-"] * offset + answers, Horizon.TURN)
        assert progress(trajectory, Horizon.TURN) == f"{len(ahead)} of {len(ahead)}"


def test_a_recovery_in_the_second_turn_of_an_episode_has_the_first_one_behind_it() -> None:
    trajectory = play(TASK, [say(*FIRST), DONE, say(WRONG), DONE], Horizon.EPISODE)
    assert gold_ahead(TASK, Horizon.TURN, before=trajectory.turns[:1]) == FIRST
    assert gold_ahead(TASK, Horizon.TURN, before=trajectory.turns[:3]) == FIRST + SECOND


def test_without_gold_no_number_of_calls_is_known() -> None:
    goldless = Task(id="t", messages=TASK.messages, tools=TASK.tools, world=TASK.world, target=FIRST)
    assert gold_ahead(goldless, Horizon.TURN) is None


@pytest.mark.parametrize(("delta", "failed"), [(1.0, True), (0.51, True), (0.5, False)])
def test_a_decision_below_delta_corr_failed(delta: float, failed: bool) -> None:
    """The right function with no right argument: R_corr = 0.5 x 1 + 0.5 x 0 = 0.5. Only 1 is a success."""
    (right, *_) = TASK.target
    call = ToolCall(name=right.name, arguments=dict.fromkeys(right.arguments, "nothing of the kind"))
    trajectory = play(TASK, [say(call)], Horizon.CALL)
    judged = Judge(chat=chat(), delta=delta)(trajectory, horizon=Horizon.CALL, progress=0.0)
    assert judged.reward is not None
    assert judged.reward.value("correctness") == pytest.approx(0.5)
    assert (judged.failure is not None, judged.success) == (failed, False)
