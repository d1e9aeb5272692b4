"""Which gold calls are still to come when a task begins in the middle of a dialogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from tiny_policies import hidden_task, tasks

from fission_grpo.chat.parse import assistant_message
from fission_grpo.environments.bfcl.environment import BfclEnvironment
from fission_grpo.environments.dialogue import remaining_gold
from fission_grpo.tasks.dialogue import (
    DecisionPosition,
    continuations,
    decision_points,
    decision_positions,
    premature_calls,
)
from fission_grpo.tasks.synthesis.generator import Mixture, synthesise
from fission_grpo.types import Message, Task, ToolCall

USER: Message = {"role": "user", "content": "go on"}
LOGIN, ORDER, PAY = (ToolCall(name=name, arguments={"n": 1}) for name in ("login", "order", "pay"))
GOLD = ((LOGIN, ORDER), (PAY,))


def made(*calls: ToolCall) -> tuple[Message, ...]:
    """Each call in a message of its own, answered."""
    return tuple(message for call in calls for message in (assistant_message([call]), {"role": "tool", "content": "."}))


def left(messages: Sequence[Message], gold: tuple[tuple[ToolCall, ...], ...] = GOLD) -> list[tuple[ToolCall, ...]]:
    return remaining_gold(Task(id="t", messages=tuple(messages), tools=(), gold=gold))


@pytest.mark.parametrize(
    ("recorded", "still"),
    [
        ((), (LOGIN, ORDER)),
        ((LOGIN,), (ORDER,)),
        ((LOGIN, ORDER), ()),
        ((ORDER,), (LOGIN, ORDER)),  # too early: it has to be made again
        ((ORDER, LOGIN), (ORDER,)),
        ((ORDER, LOGIN, ORDER), ()),
        ((PAY, LOGIN), (ORDER,)),  # a wrong call takes the place of none
        ((replace(LOGIN, arguments={"n": 1.0}),), (ORDER,)),  # the same number, written otherwise
        ((replace(LOGIN, arguments={"n": 2}),), (LOGIN, ORDER)),
    ],
)
def test_recorded_calls_are_matched_with_gold_in_order(
    recorded: tuple[ToolCall, ...], still: tuple[ToolCall, ...]
) -> None:
    assert left((USER, *made(*recorded))) == [still, (PAY,)]


def test_turns_that_are_over_are_over() -> None:
    assert left((USER, *made(ORDER), {"role": "assistant", "content": "."}, USER)) == [(PAY,)]
    assert left((USER, USER, *made(PAY))) == [()]
    assert left((USER, USER, USER)) == []


def test_without_gold_nothing_is_known_to_come() -> None:
    assert left((USER, *made(LOGIN)), gold=()) == []


TWO_TURNS = synthesise(
    1, 2, apis=("GorillaFileSystem",), tools=(2, 3), mixture=Mixture(calls=(0.0, 1.0, 0.0), two_turns=1.0)
)


@pytest.mark.parametrize("task", [*tasks()[:3], *TWO_TURNS], ids=lambda task: task.id)
def test_every_moment_of_a_gold_dialogue_has_the_rest_of_it_ahead(task: Task) -> None:
    for point, position in zip(decision_points(task), decision_positions(task), strict=True):
        ahead = [task.gold[position.turn][position.done :], *task.gold[position.turn + 1 :]]
        assert remaining_gold(point) == ahead
        assert tuple(ahead[0][:1]) == point.target


def test_behind_a_natural_error_and_its_fix_the_call_that_came_too_early_is_still_to_come() -> None:
    task = hidden_task()
    found = premature_calls(task, environment=BfclEnvironment())
    assert found
    for position, call in found:
        assert position == DecisionPosition(turn=0, done=position.done)
        for point in continuations(task, call, position):
            ahead = remaining_gold(point)
            assert ahead[0][:1] == point.target
