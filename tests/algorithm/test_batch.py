from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fission_grpo.algorithm.advantages import Scale, Signal
from fission_grpo.algorithm.batch import TrainingBatch, rows_of
from fission_grpo.algorithm.groups import Group, Member
from fission_grpo.algorithm.losses import DAPO, DR_GRPO, GRPO, Objective, policy_loss
from fission_grpo.algorithm.rewards import Reward, RewardTerm
from fission_grpo.evaluation.group_outcomes import account_groups, group_outcome
from fission_grpo.evaluation.statistics import Rate
from fission_grpo.rollout import Trajectory
from fission_grpo.run.traces import trace
from fission_grpo.types import EndReason, GroupKind, Task

OBJECTIVES = pytest.mark.parametrize("objective", [GRPO, DAPO, DR_GRPO], ids=["grpo", "dapo", "dr_grpo"])


def member(task: Task, reward: float | None, *, prompt: int = 1, length: int = 3, token: int = 7) -> Member:
    """A trajectory of two prompt tokens and `length` sampled ones, each with the log-probability -0.1 x its place."""
    trajectory = Trajectory(
        task=task,
        prompt=2,
        ids=(prompt, 2, *[token] * length),
        sampled=(False, False, *[True] * length),
        logprobs=(0.0, 0.0, *(-0.1 * (place + 1) for place in range(length))),
        given=(),
        turns=(),
        snapshots=(),
        end=EndReason.HORIZON if reward is not None else EndReason.HARNESS_FAULT,
        verdict=None,
    )
    term = RewardTerm(name="made up", value=reward or 0.0, weight=1.0, why="")
    judged = None if reward is None else Reward(terms=(term,), scale=1.0)
    return Member(trajectory=trajectory, reward=judged, success=reward == 1.0, failure=None)


def group(
    rewards: Sequence[float | None],
    lengths: Sequence[int] | None = None,
    *,
    task: str = "t",
    prompt: int = 1,
    kind: GroupKind = GroupKind.EXPLORATION,
) -> Group:
    made = Task(id=task, messages=({"role": "user", "content": "?"},), tools=())
    sizes = lengths or [3] * len(rewards)
    members = [
        member(made, reward, prompt=prompt, length=n, token=10 + i)
        for i, (reward, n) in enumerate(zip(rewards, sizes, strict=True))
    ]
    return Group(id="g", kind=kind, task=made, members=tuple(members), context=None)


def batch_of(groups: Sequence[Group], objective: Objective = GRPO) -> TrainingBatch:
    return TrainingBatch.of(groups, objective, max_tokens=10, device=torch.device("cpu"))


def loss_of(batch: TrainingBatch, objective: Objective) -> float:
    """On a policy that has since moved by 0.1 nats a token."""
    loss = policy_loss(
        batch.old_logprobs_BT + 0.1,
        old_logprobs_BT=batch.old_logprobs_BT,
        advantages_BT=batch.advantages_BT,
        weights_BT=batch.weights_BT,
        objective=objective,
    )
    return loss.item()


def test_rows_carry_their_tokens_and_their_own_old_logprobs() -> None:
    batch = batch_of([group([0.0, 1.0], [1, 3])])
    assert [row.ids for row in batch.rows] == [(1, 2, 10), (1, 2, 11, 11, 11)]
    assert [row.trained for row in batch.rows] == [(False, False, True), (False, False, True, True, True)]
    assert batch.old_logprobs_BT.tolist() == [pytest.approx([-0.1, 0, 0]), pytest.approx([-0.1, -0.2, -0.3])]
    assert batch.mask_BT.tolist() == [[True, False, False], [True, True, True]]
    # Mean 0.5, std 0.5: -1 and 1, but for the epsilon of 1e-4.
    assert batch.advantages_BT[batch.mask_BT].tolist() == pytest.approx([-1, 1, 1, 1], rel=1e-3)


def test_old_logprobs_skip_what_was_only_observed() -> None:
    # ids      1 2 | 10 10 | 5 5 | 11       two turns with a tool reply between them
    # sampled  . . |  x  x | . . |  x
    two_turns = member(Task(id="t", messages=(), tools=()), 1.0)
    trajectory = replace(
        two_turns.trajectory,
        ids=(1, 2, 10, 10, 5, 5, 11),
        sampled=(False, False, True, True, False, False, True),
        logprobs=(0.0, 0.0, -1.0, -2.0, 0.0, 0.0, -3.0),
    )
    made = group([0.0])
    batch = batch_of([replace(made, members=(*made.members, replace(two_turns, trajectory=trajectory)))])
    assert batch.old_logprobs_BT[1].tolist() == [-1, -2, -3]


def test_exploration_and_fission_groups_never_share_a_baseline() -> None:
    explored = group([0.0, 1.0], task="t")
    recovered = group([0.9, 1.0], task="t", kind=GroupKind.FISSION)
    both = batch_of([explored, recovered])
    # One baseline over all four would give 0.9 a positive advantage.
    assert both.advantages_BT.tolist() == [pytest.approx([a] * 3, rel=1e-2) for a in (-1, 1, -1, 1)]


REWARDS = st.lists(st.sampled_from([0.0, 0.25, 1.0, None]), min_size=2, max_size=4)


@given(st.lists(REWARDS, min_size=2, max_size=4), REWARDS, st.data())
def test_the_rewards_of_one_group_move_no_other_advantage(
    rewards: list[list[float | None]], changed: list[float | None], data: st.DataObject
) -> None:
    which = data.draw(st.integers(0, len(rewards) - 1))
    groups = [group(one, prompt=number) for number, one in enumerate(rewards)]
    before = batch_of(groups)
    groups[which] = group(changed, prompt=which)
    after = batch_of(groups)

    def others(batch: TrainingBatch) -> list[tuple[tuple[int, ...], list[float]]]:
        rows = zip(batch.rows, batch.advantages_BT.tolist(), strict=True)
        return [(row.ids, advantages) for row, advantages in rows if row.ids[0] != which]

    assert others(before) == others(after)


@OBJECTIVES
@given(rewards=st.lists(REWARDS, min_size=1, max_size=4), lengths=st.lists(st.integers(1, 5), min_size=16, max_size=16))
def test_leaving_out_silent_trajectories_changes_no_loss(
    objective: Objective, rewards: list[list[float | None]], lengths: list[int]
) -> None:
    groups = [group(one, lengths[: len(one)], task=str(number)) for number, one in enumerate(rewards)]
    counted = [g for g in groups if not objective.drop_zero_variance or g.signal() is Signal.PRESENT]
    valid = [
        (m, a)
        for g in counted
        for m, a in zip(g.members, g.advantages(objective.scale).tolist(), strict=True)
        if m.reward
    ]
    tokens = sum(sum(m.trajectory.sampled) for m, _ in valid)
    # Every token of a trajectory has the same ratio, e^0.1 = 1.105 (inside every clip), and the same advantage.
    denominator = len(valid) * 10 if objective is DR_GRPO else tokens
    expected = -sum(sum(m.trajectory.sampled) * a for m, a in valid) * 1.1051709 / max(denominator, 1)
    assert loss_of(batch_of(groups, objective), objective) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_invalid_trajectories_leave_no_trace() -> None:
    with_fault, without = batch_of([group([0.0, None, 1.0], [3, 5, 3])]), batch_of([group([0.0, 1.0])])
    assert torch.equal(with_fault.advantages_BT, without.advantages_BT)
    assert torch.equal(with_fault.weights_BT, without.weights_BT)


def test_a_group_without_signal_weighs_in_the_mean_unless_the_objective_drops_it() -> None:
    groups = [group([0.0, 1.0], task="alive"), group([1.0, 1.0], task="dead")]
    # Three tokens each: 1/12 of an update of four trajectories, 1/6 of one of two.
    assert batch_of(groups, GRPO).weights_BT.unique().tolist() == [pytest.approx(1 / 12)]
    assert batch_of(groups, DAPO).weights_BT.unique().tolist() == [pytest.approx(1 / 6)]


@OBJECTIVES
@pytest.mark.parametrize(
    "groups",
    [[], [group([1.0, 1.0])], [group([0.0, 0.0, None])], [group([None, None])], [group([None, 1.0])]],
    ids=["no groups", "all right", "all failed", "all invalid", "one left"],
)
def test_without_signal_the_batch_is_empty(objective: Objective, groups: list[Group]) -> None:
    batch = batch_of(groups, objective)
    assert batch.rows == ()
    assert len(batch.advantages_BT) == len(batch.weights_BT) == len(batch.old_logprobs_BT) == 0
    assert loss_of(batch, objective) == 0.0


def test_training_and_the_account_of_a_run_agree_on_what_has_signal() -> None:
    """Down to the threshold; partial credit keeps a group alive in which nobody succeeds (a reward of 1 is success)."""
    rewards: list[list[float | None]] = [
        [0.0, 1.0],
        [1.0, 1.0],
        [0.5, 0.5],
        [0.2, 0.5],
        [0.5, 0.5 + 1e-7],
        [0.5, 0.5 + 1e-5],
        [0.5, None],
    ]
    groups = [replace(group(row), id=str(number)) for number, row in enumerate(rewards)]
    account = account_groups(filter(None, (group_outcome(trace(g, step=0, scale=Scale.STD)) for g in groups)))
    assert account.has_signal == Rate(sum(g.signal() is Signal.PRESENT for g in groups), 7) == Rate(3, 7)
    assert account.all_fail == Rate(sum(g.all_fail for g in groups), 7) == Rate(5, 7)
    assert account.all_right == Rate(sum(g.all_right for g in groups), 7) == Rate(1, 7)


def test_a_group_that_faults_left_empty_neither_failed_nor_succeeded() -> None:
    empty = group([None, None])
    assert (empty.signal(), empty.all_fail, empty.all_right) == (Signal.MASKED, False, False)


def test_rows_carry_the_advantage_of_their_own_group_and_faults_weigh_nothing() -> None:
    groups = [group([1.0, 0.0, None], prompt=1), group([2.0, 2.0], [1, 2], prompt=3)]
    rows = rows_of(groups, replace(GRPO, scale=Scale.NONE))
    # First group: mean 0.5 over the two valid ones; second group: no spread.
    assert [row.advantage for row in rows] == [0.5, -0.5, 0.0, 0.0, 0.0]
    # Two given tokens, then one or more sampled ones.
    assert [row.advantages for row in rows[:2]] == [(0.0, 0.0, 0.5, 0.5, 0.5), (0.0, 0.0, -0.5, -0.5, -0.5)]
    assert not any(any(row.advantages) for row in rows[2:])
    assert [row.reward for row in rows] == [1.0, 0.0, None, 2.0, 2.0]
    assert [row.tokens for row in rows] == [3, 3, 0, 1, 2]
    assert [row.prompt for row in rows] == [2] * 5
    invalid = rows[2]
    assert invalid.ids == groups[0].members[2].trajectory.ids
    assert not any(invalid.sampled)
    assert not any(invalid.logprobs)


def test_a_weighted_group_has_its_advantages_multiplied_and_keeps_its_place_in_the_mean() -> None:
    explored, recovered = group([1.0, 0.0]), replace(group([1.0, 0.0, 0.0, 0.0]), weight=0.75)
    rows = rows_of([explored, recovered], replace(GRPO, scale=Scale.NONE))
    # Means 0.5 and 0.25; three of four failed where the second group came from: 0.75 x 0.75 and 0.75 x -0.25.
    assert [row.advantage for row in rows] == [0.5, -0.5, 0.5625, *[-0.1875] * 3]
    batch = batch_of([explored, recovered])
    # Six trajectories of three tokens; their weights in the mean are as ever.
    assert batch.weights_BT.unique().tolist() == [pytest.approx(1 / 18)]
    assert batch.advantages_BT[:, 0].tolist() == pytest.approx(
        [*batch_of([explored]).advantages_BT[:, 0].tolist()] + [0.75 * a for a in recovered.advantages(Scale.STD).tolist()]
    )


def test_a_group_of_no_weight_is_left_out_of_the_batch_and_counts_in_the_mean() -> None:
    explored, recovered = group([1.0, 0.0]), replace(group([1.0, 0.0]), weight=0.0)
    batch = batch_of([explored, recovered])
    assert len(batch.rows) == 2
    assert batch.weights_BT.unique().tolist() == [pytest.approx(1 / 12)]


def test_an_objective_that_drops_groups_without_signal_gives_their_rows_no_weight() -> None:
    groups = [group([1.0, 0.0]), group([2.0, 2.0])]
    assert [row.tokens for row in rows_of(groups, GRPO)] == [3, 3, 3, 3]
    assert [row.tokens for row in rows_of(groups, DAPO)] == [3, 3, 0, 0]


def test_padding_rows_weigh_nothing() -> None:
    rows = rows_of([group([1.0, 0.0])], GRPO, pad_to=4)
    assert rows[:2] == rows_of([group([1.0, 0.0])], GRPO)
    for row in rows[2:]:
        assert (row.ids, row.tokens, row.advantage, row.reward) == (rows[0].ids, 0, 0.0, None)


@pytest.mark.parametrize(("groups", "pad_to"), [([group([1.0, 0.0])], 1), ([], 4)], ids=["too many", "none"])
def test_padding_that_cannot_be(groups: list[Group], pad_to: int) -> None:
    with pytest.raises(ValueError, match=f"rows to pad to {pad_to}; expected at least one and no more than that"):
        rows_of(groups, GRPO, pad_to=pad_to)
