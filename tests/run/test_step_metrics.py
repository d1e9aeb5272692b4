"""What a step is remembered by, against hand arithmetic."""

from __future__ import annotations

import pytest

from fission_grpo.algorithm.groups import Group, Member
from fission_grpo.algorithm.rewards import Reward, RewardTerm
from fission_grpo.rollout import Trajectory
from fission_grpo.run.metrics import group_metrics
from fission_grpo.types import (
    Completion,
    EndReason,
    ErrorClass,
    FinishReason,
    GroupKind,
    OutcomeKind,
    ParsedMessage,
    ParseFailure,
    ParseFailureKind,
    Task,
    ToolCall,
    ToolOutcome,
    Turn,
)

TASK = Task(id="t", messages=({"role": "user", "content": "?"},), tools=())
CALL = ToolCall(name="ls", arguments={})
OUTCOMES = {
    "+": ToolOutcome(kind=OutcomeKind.SUCCESS, text=""),
    "e": ToolOutcome(kind=OutcomeKind.ERROR, text="", error=ErrorClass.NOT_FOUND),
    "s": ToolOutcome(kind=OutcomeKind.SOFT_FAILURE, text="", error=ErrorClass.SOFT),
}


def turn(letter: str) -> Turn:
    """`+` a right call, `e` an explicit error, `s` a soft one, `b` a malformed message, `w` words."""
    broken = ParseFailure(kind=ParseFailureKind.JSON, start=0, text="{", detail="not JSON")
    outcomes = (OUTCOMES[letter],) if letter in OUTCOMES else ()
    return Turn(
        completion=Completion(ids=(1,), logprobs=(-0.1,), finish=FinishReason.STOP),
        text="",
        parsed=ParsedMessage(
            content="", calls=(CALL,) if outcomes else (), failures=(broken,) if letter == "b" else ()
        ),
        outcomes=outcomes,
        start=0,
    )


def member(letters: str, *, success: bool, valid: bool = True) -> Member:
    trajectory = Trajectory(
        task=TASK,
        prompt=1,
        ids=(1, 2),
        sampled=(False, True),
        logprobs=(0.0, -0.1),
        given=(),
        turns=tuple(map(turn, letters)),
        snapshots=(),
        end=EndReason.ANSWERED,
        verdict=None,
    )
    term = RewardTerm(name="verdict", value=float(success), weight=1.0, why="")
    return Member(
        trajectory=trajectory,
        reward=Reward(terms=(term,), scale=1.0) if valid else None,
        success=success,
        failure=None,
    )


def test_first_errors_and_first_attempts() -> None:
    members = (
        member("+w", success=True),
        member("e+w", success=True),  # recovered: errs at once, and is no first attempt
        member("bw", success=False),
        member("+ew", success=True),  # errs later
        member("sw", success=True),  # a soft failure is no error
        member("e", success=False, valid=False),  # counts nowhere
    )
    found = group_metrics([Group(id="g", kind=GroupKind.EXPLORATION, task=TASK, members=members, context=None)])
    assert found["first_error"] == pytest.approx(2 / 5)
    assert found["first_attempt"] == pytest.approx(2 / 5)
    assert found["success"] == pytest.approx(4 / 5)
