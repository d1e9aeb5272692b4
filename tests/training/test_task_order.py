"""Which tasks a step explores: all of them in turn, whole turns from where a turn begins, and no more than is paid."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_policies import tasks

from fission_grpo.tasks.dialogue import decision_points
from fission_grpo.training.settings import TrainerSettings
from fission_grpo.training.task_order import TaskOrder
from fission_grpo.types import Task

TASKS = tasks()[:6]


def order(tasks: tuple[Task, ...] = TASKS, *, rank: int = 0, ranks: int = 1, **settings: int) -> TaskOrder:
    return TaskOrder(tasks, TrainerSettings.model_validate(settings), rank=rank, ranks=ranks)


def take(order: TaskOrder, step: int, tokens: int = 0) -> list[str]:
    """The tasks of one step, which then is over."""
    dealt, turns = order.tasks_of(step)
    order.note(tasks=len(dealt), turns=turns, tokens=tokens)
    return [task.id for task in dealt]


@pytest.mark.parametrize("ranks", [1, 2])
def test_every_round_holds_every_task_once_whoever_explores_it(ranks: int) -> None:
    dealers = [order(rank=rank, ranks=ranks, queries=3) for rank in range(ranks)]
    dealt = [name for step in range(4 // ranks) for dealer in dealers for name in take(dealer, step)]
    rounds = [sorted(dealt[first : first + len(TASKS)]) for first in (0, len(TASKS))]
    assert rounds == [sorted(task.id for task in TASKS)] * 2


def test_the_batches_of_a_pool_are_the_first_round() -> None:
    dealer = order(queries=4)
    batches = list(dealer.batches())
    assert [len(batch) for batch in batches] == [4, 4]  # six tasks, four at a time; the last two begin the next round
    assert [task.id for task in batches[0]] == take(dealer, 0)


def test_whole_turns_begin_where_a_turn_begins() -> None:
    """Decision points in the middle of a turn are explored by single messages alone."""
    points = tuple(point for task in TASKS for point in decision_points(task))
    dealer = order(points, queries=5, turn_queries=3)
    begins = {point.id for point in points if point.messages[-1]["role"] == "user"}
    assert len(begins) == len(TASKS) < len(points)
    whole: list[str] = []
    for step in range(4):
        dealt, turns = dealer.tasks_of(step)
        dealer.note(tasks=len(dealt), turns=turns, tokens=0)
        assert (len(dealt), turns) == (8, 3)
        whole += [task.id for task in dealt[-turns:]]
    assert sorted(whole) == sorted([*begins, *begins])  # four steps of three are two rounds of six


@given(
    budget=st.integers(5_000, 200_000),
    steps=st.integers(2, 40),
    mean=st.integers(20, 300),
    turns=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_a_token_budget_is_kept_to_half_a_task(budget: int, steps: int, mean: int, turns: int, seed: int) -> None:
    """The last step settles what the others left over, up to rounding and to what its own tasks surprise by.

    A task costs at most 1.5 times the mean. Where every step has more than one task to choose, the last one is wrong by
    half a task of rounding, and by its own deviation from the mean.
    """
    rng = Random(seed)
    dealer = order(queries=4, turn_queries=turns, steps=steps, sampled_tokens=budget)
    count = 0
    for step in range(steps):
        dealt, whole = dealer.tasks_of(step)
        count = len(dealt)
        tokens = sum(rng.randint(mean // 2, mean + mean // 2) for _ in dealt)
        dealer.note(tasks=count, turns=whole, tokens=tokens)
    left = abs(budget - dealer.explored.tokens)
    if count > turns + 1:  # one task and all whole turns are explored whatever is left
        assert left <= (0.5 + 0.5 * count) * 1.5 * mean


def test_without_a_budget_tokens_play_no_part() -> None:
    dealer = order(queries=2, steps=3)
    assert [len(take(dealer, step, tokens=10**6)) for step in range(3)] == [2, 2, 2]


def test_a_resumed_order_goes_on_where_it_stood() -> None:
    whole = order(queries=2, turn_queries=1, steps=6, sampled_tokens=900)
    first = [take(whole, step, tokens=100 + step) for step in range(3)]
    again = order(queries=2, turn_queries=1, steps=6, sampled_tokens=900)
    again.load_state_dict(whole.state_dict())
    assert first
    assert [take(again, step, tokens=150) for step in range(3, 6)] == [
        take(whole, step, tokens=150) for step in range(3, 6)
    ]
