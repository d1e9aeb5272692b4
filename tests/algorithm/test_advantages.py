from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fission_grpo.algorithm.advantages import Scale, Signal, group_advantages, signal_of

REWARDS = st.lists(st.floats(-4, 4, allow_nan=False), min_size=1, max_size=9)


def advantages(
    rewards: Sequence[float], valid: Sequence[bool] | None = None, *, scale: Scale = Scale.STD, eps: float = 0.0
) -> list[float]:
    mask = torch.tensor([True] * len(rewards) if valid is None else valid, dtype=torch.bool)
    found: list[float] = group_advantages(
        torch.tensor(rewards, dtype=torch.float64), valid_G=mask, scale=scale, eps=eps
    ).tolist()
    return found


def test_one_success_among_four() -> None:
    # Mean 1/4, variance (9/16 + 3 * 1/16) / 4 = 3/16, std sqrt(3)/4:
    # the success gets (3/4) / (sqrt(3)/4) = sqrt(3), the others -(1/4) / (sqrt(3)/4) = -1/sqrt(3).
    third = -1 / 3**0.5
    assert advantages([1, 0, 0, 0]) == pytest.approx([3**0.5, third, third, third])


def test_epsilon_joins_the_divisor() -> None:
    # Mean 1, population std 1: (2 - 1) / (1 + 0.25) = 0.8.
    assert advantages([0, 2], eps=0.25) == pytest.approx([-0.8, 0.8])


def test_without_scale_rewards_are_only_centred() -> None:
    # Dr.GRPO. Mean (0 + 1 + 5) / 3 = 2.
    assert advantages([0, 1, 5], scale=Scale.NONE, eps=9.0) == pytest.approx([-2, -1, 3])


def test_an_invalid_trajectory_neither_moves_the_baseline_nor_gets_a_gradient() -> None:
    # Of [0, 999, 2] only 0 and 2 count: mean 1, std 1.
    assert advantages([0, 999, 2], [True, False, True]) == pytest.approx([-1, 0, 1])


def test_not_even_nan_leaks_out_of_an_invalid_trajectory() -> None:
    assert advantages([0, float("nan"), 2], [True, False, True]) == pytest.approx([-1, 0, 1])


@pytest.mark.parametrize(
    ("rewards", "valid"),
    [
        pytest.param([3.0], [True], id="singleton"),
        pytest.param([0.0] * 4, [True] * 4, id="all failed"),
        pytest.param([4 / 3] * 4, [True] * 4, id="all right"),
        pytest.param([0.1 + 0.2, 0.3], [True] * 2, id="equal but for rounding"),
        pytest.param([0.0, 1.0], [False, True], id="one valid"),
        pytest.param([0.0, 1.0], [False, False], id="none valid"),
        pytest.param([], [], id="empty"),
    ],
)
@pytest.mark.parametrize("scale", Scale)
def test_degenerate_groups_give_no_signal(rewards: list[float], valid: list[bool], scale: Scale) -> None:
    assert advantages(rewards, valid, scale=scale) == [0.0] * len(rewards)


@given(REWARDS, st.randoms(use_true_random=False), st.sampled_from(Scale))
def test_permuting_a_group_permutes_its_advantages(rewards: list[float], rng: Random, scale: Scale) -> None:
    order = list(range(len(rewards)))
    rng.shuffle(order)
    found = advantages(rewards, scale=scale, eps=1e-4)
    permuted = advantages([rewards[i] for i in order], scale=scale, eps=1e-4)
    assert permuted == pytest.approx([found[i] for i in order], rel=1e-5, abs=1e-6)


@given(REWARDS, st.floats(-3, 3), st.sampled_from(Scale))
def test_advantages_are_finite_centred_and_blind_to_the_level(rewards: list[float], level: float, scale: Scale) -> None:
    found = advantages(rewards, scale=scale, eps=1e-4)
    assert sum(found) == pytest.approx(0, abs=1e-4)
    if max(rewards) - min(rewards) > 1e-3:
        assert advantages([reward + level for reward in rewards], scale=scale, eps=1e-4) == pytest.approx(
            found, rel=1e-4, abs=1e-4
        )


@given(REWARDS)
def test_a_group_is_alive_exactly_when_it_has_advantages(rewards: list[float]) -> None:
    valid_G = torch.ones(len(rewards), dtype=torch.bool)
    alive = signal_of(torch.tensor(rewards, dtype=torch.float64), valid_G=valid_G) is Signal.PRESENT
    assert alive == any(advantages(rewards))


@pytest.mark.parametrize(
    ("rewards", "valid", "expected"),
    [
        ([1, 0], [True, True], Signal.PRESENT),
        ([1, 1], [True, True], Signal.ZERO_VARIANCE),
        ([0, 0], [True, True], Signal.ZERO_VARIANCE),
        ([1, 1, 0], [True, True, False], Signal.ZERO_VARIANCE),
        ([1, 0], [True, False], Signal.MASKED),
        ([1, 0], [False, False], Signal.MASKED),
    ],
)
def test_accounting_of_signal(rewards: list[float], valid: list[bool], expected: Signal) -> None:
    assert signal_of(torch.tensor(rewards), valid_G=torch.tensor(valid)) is expected


def test_vectors_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(2,\), \(3,\)"):
        group_advantages(torch.zeros(2), valid_G=torch.ones(3, dtype=torch.bool))
