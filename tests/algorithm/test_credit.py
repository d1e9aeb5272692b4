from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fission_grpo.algorithm.advantages import Scale
from fission_grpo.algorithm.batch import TrainingBatch, rows_of
from fission_grpo.algorithm.context import CorrectiveContext, Parent
from fission_grpo.algorithm.credit import Credit, token_advantages
from fission_grpo.algorithm.groups import Group, Member
from fission_grpo.algorithm.losses import DAPO, GRPO_UNSCALED
from fission_grpo.algorithm.rewards import Reward, RewardTerm
from fission_grpo.rollout import Trajectory
from fission_grpo.simulator.base import Feedback
from fission_grpo.types import (
    Completion,
    EndReason,
    FinishReason,
    GroupKind,
    OutcomeKind,
    ParsedMessage,
    Task,
    ToolOutcome,
    Turn,
    Verdict,
)

TASK = Task(id="t", messages=({"role": "user", "content": "?"},), tools=())
GIVEN = (1, 2)
REPLY = 9
"""What stands between two messages."""
WENT_WELL = ToolOutcome(kind=OutcomeKind.SUCCESS, text="ok")


@dataclass(frozen=True)
class Known:
    """The snapshot of a world that is its name."""

    name: str

    def world_hash(self) -> str:
        return self.name


def member(
    reward: float | None,
    *messages: int,
    judged: bool = True,
    given: tuple[int, ...] = GIVEN,
    worlds: Sequence[object] = (),
    words: Sequence[int] = (),
) -> Member:
    """A trajectory of messages of two tokens each, both of them the given number, with a one-token reply between.

    Args:
        worlds: snapshots after each message, as far as they matter.
        words: messages that call nothing, besides the last one.
    """
    ids, sampled, turns = list(given), [False] * len(given), []
    for place, token in enumerate(messages):
        if place:
            ids.append(REPLY)
            sampled.append(False)
        said = Completion(ids=(token, token), logprobs=(-1.0, -1.0), finish=FinishReason.STOP)
        outcomes = () if token in {messages[-1], *words} else (WENT_WELL,)
        parsed = ParsedMessage(content="", calls=(), failures=())
        turns.append(Turn(completion=said, text="", parsed=parsed, outcomes=outcomes, start=len(ids)))
        ids += [token, token]
        sampled += [True, True]
    valid = reward is not None
    trajectory = Trajectory(
        task=TASK,
        prompt=len(given),
        ids=tuple(ids),
        sampled=tuple(sampled),
        logprobs=tuple(-1.0 if chosen else 0.0 for chosen in sampled),
        given=(),
        turns=tuple(turns),
        snapshots=(*worlds, *[None] * (len(turns) - len(worlds))),
        end=EndReason.ANSWERED if valid else EndReason.HARNESS_FAULT,
        verdict=Verdict(ok=reward == 1.0) if valid and judged else None,
    )
    term = RewardTerm(name="made up", value=reward or 0.0, weight=1.0, why="")
    worth = Reward(terms=(term,), scale=1.0) if valid else None
    return Member(trajectory=trajectory, reward=worth, success=reward == 1.0, failure=None)


def explored(*members: Member, name: str = "0/exploration/0.0") -> Group:
    return Group(id=name, kind=GroupKind.EXPLORATION, task=TASK, members=members, context=None)


def recovered(
    rewards: Sequence[float | None], *, failed: int, parent: str = "0/exploration/0.0", judged: bool = True
) -> Group:
    """Recoveries from a first message that failed."""
    context = CorrectiveContext(
        task=TASK,
        x_ids=GIVEN,
        error_ids=(failed, failed),
        feedback_ids=(REPLY,),
        messages=(),
        before=(),
        snapshot=None,
        feedback=Feedback(texts=("no",), origin="static"),
        error=None,
        depth=1,
        parent=Parent(group=parent, trajectory=0, turn=0),
        policy_version=0,
    )
    members = [member(reward, 50 + i, judged=judged, given=context.ids) for i, reward in enumerate(rewards)]
    return Group(id="0/fission/0.0", kind=GroupKind.FISSION, task=TASK, members=tuple(members), context=context)


def by_message(groups: Sequence[Group], credit: Credit, *, scale: Scale = Scale.NONE) -> list[list[list[float]]]:
    """Of each group, of each trajectory: the advantage of each message, the same on all of its tokens."""
    return [
        [
            [one_value(advantages_N[turn.start : turn.stop]) for turn in each.trajectory.turns]
            for each, advantages_N in zip(group.members, advantages_GN, strict=True)
        ]
        for group, advantages_GN in zip(groups, token_advantages(groups, credit=credit, scale=scale), strict=True)
    ]


def one_value(advantages: torch.Tensor) -> float:
    (value,) = set(advantages.tolist())
    return float(value)


REWARDS = st.lists(st.sampled_from([0.0, 0.25, 1.0, None]), min_size=2, max_size=4)


# Tree.


def test_recoveries_say_what_the_failed_call_was_worth() -> None:
    # The first member failed with message 10 and ended with 0; its three recoveries got 1, 1 and 0.
    # V = (0 + 1 + 1 + 0) / 4 = 0.5, the others' V is their reward: mean (0.5 + 1 + 0 + 0.5) / 4 = 0.5.
    # Behind the failed message: 0 - 0.5.
    group = explored(member(0.0, 10, 11), member(1.0, 20), member(0.0, 30, 31), member(0.5, 40))
    own, recoveries = by_message([group, recovered([1.0, 1.0, 0.0], failed=10)], Credit.TREE)
    assert own == [[0.0, -0.5], [0.5], [-0.5, -0.5], [0.0]]
    # Recoveries have the baseline that they always had: the mean of their own group, 2/3.
    assert recoveries == [[pytest.approx(1 / 3)], [pytest.approx(1 / 3)], [pytest.approx(-2 / 3)]]


def test_the_divisors_are_those_of_the_group_and_of_the_family() -> None:
    # V = (0 + 1) / 2 = 0.5 and 1: mean 0.75, std 0.25, so that A is -1 and 1. Family: 0 and 1, mean 0.5, std 0.5.
    group = explored(member(0.0, 10, 11), member(1.0, 20))
    own, _ = by_message([group, recovered([1.0], failed=10)], Credit.TREE, scale=Scale.STD)
    assert own == [[pytest.approx(-1, rel=1e-3), pytest.approx(-1, rel=1e-3)], [pytest.approx(1, rel=1e-3)]]


def test_who_failed_in_the_same_words_is_of_the_same_family() -> None:
    # Two of three said 10: V = (0 + 1 + 1 + 0) / 4 = 0.5 for both, mean (0.5 + 0.5 + 0.5) / 3 = 0.5.
    # Behind it one did worse than the family and the other better.
    group = explored(member(0.0, 10, 11), member(1.0, 10, 12), member(0.5, 20))
    own, _ = by_message([group, recovered([1.0, 0.0], failed=10)], Credit.TREE)
    assert own == [[0.0, -0.5], [0.0, 0.5], [0.0]]


def test_a_group_that_all_failed_learns_which_failure_could_be_mended() -> None:
    # V = (0 + 1) / 2 = 0.5 and 0: mean 0.25. Without recoveries nothing tells the two apart, and DAPO drops them.
    group, fission = explored(member(0.0, 10), member(0.0, 20)), recovered([1.0], failed=10)
    own, _ = by_message([group, fission], Credit.TREE)
    assert own == [[0.25], [-0.25]]
    assert [row.tokens for row in rows_of([group, fission], DAPO, credit=Credit.TREE)] == [2, 2, 0]
    assert [row.tokens for row in rows_of([group, fission], DAPO)] == [0, 0, 0]


@pytest.mark.parametrize(
    "fission",
    [
        recovered([1.0, 0.0], failed=10, parent="7/exploration/0.0"),
        recovered([1.0, 0.0], failed=10, judged=False),
        recovered([None, None], failed=10),
    ],
    ids=["of another group", "judged by one message", "invalid"],
)
def test_what_cannot_be_compared_changes_nothing(fission: Group) -> None:
    for judged in (True, False):
        groups = [explored(member(0.0, 10, 11, judged=judged), member(1.0, 20, judged=judged)), fission]
        assert by_message(groups, Credit.TREE) == by_message(groups, Credit.TRAJECTORY)


def test_a_failure_that_was_judged_as_one_message_keeps_its_own_reward() -> None:
    groups = [explored(member(0.0, 10, judged=False), member(1.0, 20, judged=False)), recovered([1.0, 0.0], failed=10)]
    assert by_message(groups, Credit.TREE) == by_message(groups, Credit.TRAJECTORY)


def test_an_invalid_trajectory_is_of_no_family() -> None:
    # V = (0 + 1) / 2 = 0.5 and 1: mean 0.75 over the two valid ones.
    group = explored(member(0.0, 10, 11), member(None, 10, 12), member(1.0, 20))
    own, _ = by_message([group, recovered([1.0, None], failed=10)], Credit.TREE)
    assert own == [[-0.25, -0.5], [0.0, 0.0], [0.25]]


def test_the_learner_trains_on_what_each_token_is_credited_with() -> None:
    # As in the first test; a trajectory whose every token has the advantage 0 is left out, as ever.
    group = explored(member(0.0, 10, 11), member(1.0, 20), member(0.0, 30, 31), member(0.5, 40))
    groups = [group, recovered([1.0, 1.0, 0.0], failed=10)]
    batch = TrainingBatch.of(groups, GRPO_UNSCALED, credit=Credit.TREE, max_tokens=9, device=torch.device("cpu"))
    assert [row.ids[2] for row in batch.rows[:3]] == [10, 20, 30]
    assert batch.advantages_BT[:3].tolist() == [[0, 0, -0.5, -0.5], [0.5, 0.5, 0, 0], [-0.5, -0.5, -0.5, -0.5]]


@given(REWARDS, REWARDS)
def test_without_spread_in_the_family_nothing_happens_behind_the_call(
    rewards: list[float | None], others: list[float | None]
) -> None:
    """And the advantages of the failed messages still sum to nothing, since their baseline is their own mean."""
    group = explored(*(member(reward, 10 + i, 20) for i, reward in enumerate(rewards)))
    own, _ = by_message([group, recovered(others, failed=10)], Credit.TREE)
    assert sum(first for first, _ in own) == pytest.approx(0, abs=1e-6)
    if rewards[0] is not None and {*others} == {rewards[0]}:
        assert own[0][1] == 0.0


# State.


def test_messages_in_the_same_state_of_the_world_are_compared() -> None:
    # Rewards 1, 0 and 0.5, mean 0.5: 0.5, -0.5 and 0 for every message. With 0.95 for each message still to come:
    #   first messages, all in one state    0.95, 0 and 0.5 x 0.9025 = 0.45125; mean 0.46708
    #   before 11 and 31 the world is "a"   1 and 0.5 x 0.95 = 0.475; mean 0.7375
    #   before 21 it is "b", before 32 "c": nobody to be compared with
    group = explored(
        member(1.0, 10, 11, worlds=[Known("a")]),
        member(0.0, 20, 21, worlds=[Known("b")]),
        member(0.5, 30, 31, 32, worlds=[Known("a"), Known("c")]),
    )
    (own,) = by_message([group], Credit.STATE)
    assert own == [
        [pytest.approx(0.5 + 0.95 - 0.467083, abs=1e-5), pytest.approx(0.5 + 1 - 0.7375)],
        [pytest.approx(-0.5 - 0.467083, abs=1e-5), -0.5],
        [pytest.approx(0.45125 - 0.467083, abs=1e-5), pytest.approx(0.475 - 0.7375), 0.0],
    ]


def test_both_parts_have_the_objective_s_divisor() -> None:
    # Rewards 1 and 0: 1 and -1. First messages: 0.95 and 0.95 x 0, which is again 1 and -1. Then alone.
    group = explored(member(1.0, 10, 11, worlds=[Known("a")]), member(0.0, 20, 21, worlds=[Known("b")]))
    (own,) = by_message([group], Credit.STATE, scale=Scale.STD)
    assert own == [pytest.approx([2, 1], rel=1e-3), pytest.approx([-2, -1], rel=1e-3)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (member(1.0, 10, 11, 12, worlds=[Known("a"), Known("a")]), member(0.0, 20)),
        (member(1.0, 10, 11, worlds=[Known("a")], words=[10]), member(0.0, 20, 21, worlds=[Known("a")])),
        (member(1.0, 10, 11, worlds=[b"a"]), member(0.0, 20, 21, worlds=[b"a"])),
        (member(1.0, 10, 11, worlds=[Known("a")]), member(None, 20, 21, worlds=[Known("a")])),
    ],
    ids=["with itself", "in another user turn", "in a world that has no hash", "with an invalid one"],
)
def test_what_no_sibling_has_met_has_the_advantage_of_its_trajectory(one: Member, other: Member) -> None:
    groups = [explored(one, other)]
    ((behind, _),) = by_message(groups, Credit.STATE)
    ((whole, _),) = by_message(groups, Credit.TRAJECTORY)
    assert behind[1:] == whole[1:]


def test_a_decision_point_has_no_states() -> None:
    groups = [explored(member(1.0, 10, judged=False), member(0.0, 20, judged=False))]
    assert by_message(groups, Credit.STATE) == by_message(groups, Credit.TRAJECTORY) == [[[0.5], [-0.5]]]


def test_recoveries_of_one_context_begin_in_one_state() -> None:
    # Rewards 1 and 0, both of one message: 0.5 and -0.5 twice.
    assert by_message([recovered([1.0, 0.0], failed=10)], Credit.STATE) == [[[1.0], [-1.0]]]
