from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from fission_grpo.algorithm.losses import (
    DAPO,
    DR_GRPO,
    GRPO,
    Aggregation,
    Objective,
    clipped_surrogate,
    k3_divergence,
    kl_penalty,
    policy_loss,
    token_weights,
)

MASK_BT = torch.tensor([[True, True, True, False], [True, False, False, False]])
OBJECTIVES = [GRPO, DAPO, DR_GRPO, Objective(aggregation=Aggregation.TRAJECTORY_MEAN)]


def surrogate(ratio: float, advantage: float, *, low: float = 0.2, high: float = 0.28) -> tuple[float, float]:
    """min(r A, clip(r) A) of a single token, and its derivative by the log-probability."""
    logprobs = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    value = clipped_surrogate(
        logprobs,
        old_logprobs_BT=torch.zeros(1, 1, dtype=torch.float64),
        advantages_BT=torch.tensor([[advantage]], dtype=torch.float64),
        clip_low=low,
        clip_high=high,
    )
    value.sum().backward()
    assert logprobs.grad is not None
    return value.item(), logprobs.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
    [
        # d(r A)/d log p = r A where the clip does not bind, 0 where it does.
        pytest.param(1.0, 2.0, 2.0, 2.0, id="on policy"),
        pytest.param(1.1, 2.0, 2.2, 2.2, id="inside"),
        pytest.param(1.5, 2.0, 1.28 * 2, 0.0, id="good and already likelier: stop"),
        pytest.param(0.5, 2.0, 1.0, 1.0, id="good and less likely: pull back"),
        pytest.param(0.5, -2.0, 0.8 * -2, 0.0, id="bad and already unlikelier: stop"),
        pytest.param(1.5, -2.0, -3.0, -3.0, id="bad and likelier: push down"),
    ],
)
def test_the_clip_on_both_sides(ratio: float, advantage: float, value: float, slope: float) -> None:
    assert surrogate(ratio, advantage) == pytest.approx((value, slope))


def test_token_mean_weighs_every_token_alike() -> None:
    # Three tokens and one: 1/4 each.
    assert token_weights(MASK_BT, Aggregation.TOKEN_MEAN, max_tokens=9).tolist() == [[0.25] * 3 + [0], [0.25, 0, 0, 0]]


def test_trajectory_mean_weighs_every_trajectory_alike() -> None:
    # Two trajectories of weight 1/2; the first shares it among three tokens.
    sixth = pytest.approx(1 / 6)
    weights = token_weights(MASK_BT, Aggregation.TRAJECTORY_MEAN, max_tokens=9).tolist()
    assert weights == [[sixth, sixth, sixth, 0], [0.5, 0, 0, 0]]


def test_a_constant_normaliser_does_not_know_lengths() -> None:
    # 1 / (2 trajectories x 5 tokens).
    tenth = pytest.approx(0.1)
    weights = token_weights(MASK_BT, Aggregation.CONSTANT, max_tokens=5).tolist()
    assert weights == [[tenth, tenth, tenth, 0], [tenth, 0, 0, 0]]


@pytest.mark.parametrize("aggregation", Aggregation)
@pytest.mark.parametrize("mask", [torch.zeros(2, 3, dtype=torch.bool), torch.zeros(0, 3, dtype=torch.bool)])
def test_nothing_sampled_weighs_nothing(aggregation: Aggregation, mask: Tensor) -> None:
    weights = token_weights(mask, aggregation, max_tokens=4)
    assert weights.shape == mask.shape
    assert not weights.any()


def test_the_loss_of_two_trajectories_by_hand() -> None:
    # Ratios 1 and 1.5 with A = 1 (the second is clipped to 1.2), ratio 0.5 with A = -2 (clipped to 0.8): the
    # surrogates are 1, 1.2 and -1.6, each weighs 1/3, so the loss is -(1 + 1.2 - 1.6) / 3 = -0.2.
    logprobs = torch.tensor([[0.0, math.log(1.5)], [math.log(0.5), 0.0]])
    mask = torch.tensor([[True, True], [True, False]])
    loss = policy_loss(
        logprobs,
        old_logprobs_BT=torch.zeros(2, 2),
        advantages_BT=torch.tensor([[1.0], [-2.0]]),
        weights_BT=token_weights(mask, Aggregation.TOKEN_MEAN, max_tokens=2),
        objective=GRPO,
    )
    assert loss.item() == pytest.approx(-0.2)


def test_tokens_of_one_trajectory_may_have_advantages_of_their_own() -> None:
    # Ratios 1.5 and 1.5: with A = 2 clipped to 1.2, 2.4; with A = -1 not clipped, -1.5. Each weighs 1/2.
    logprobs = torch.full((1, 2), math.log(1.5))
    loss = policy_loss(
        logprobs,
        old_logprobs_BT=torch.zeros(1, 2),
        advantages_BT=torch.tensor([[2.0, -1.0]]),
        weights_BT=torch.full((1, 2), 0.5),
        objective=GRPO,
    )
    assert loss.item() == pytest.approx(-(2.4 - 1.5) / 2)


def test_the_penalty_by_hand() -> None:
    # One token, reference twice as likely: log-ratio log 2; the surrogate is 3, so the loss is -3 + beta (log 2)^2 / 2.
    loss = policy_loss(
        torch.tensor([[-1.0]]),
        old_logprobs_BT=torch.tensor([[-1.0]]),
        advantages_BT=torch.tensor([[3.0]]),
        weights_BT=torch.ones(1, 1),
        objective=GRPO,
        reference_logprobs_BT=torch.tensor([[-1.0 + math.log(2)]]),
        beta=0.5,
    )
    assert loss.item() == pytest.approx(-3 + 0.5 * math.log(2) ** 2 / 2)


@given(arrays("float64", 5, elements=st.floats(-4, 4)), arrays("float64", 5, elements=st.floats(-4, 4)))
def test_the_penalty_s_expected_gradient_is_that_of_the_reverse_kl(scores: Any, others: Any) -> None:
    """Over one token of a vocabulary of five, the expectation over sampled tokens taken exactly."""
    reference = torch.log_softmax(torch.from_numpy(others), dim=0)
    logits = torch.from_numpy(scores).requires_grad_()
    logprobs = torch.log_softmax(logits, dim=0)
    kl = (logprobs.exp() * (logprobs - reference)).sum()
    (exact,) = torch.autograd.grad(kl, logits, retain_graph=True)
    (sampled,) = torch.autograd.grad((logprobs.exp().detach() * kl_penalty(logprobs, reference)).sum(), logits)
    assert torch.allclose(sampled, exact, atol=1e-10)


def test_one_relapse_does_not_outweigh_all_else() -> None:
    """The start says the wrong thing with 97 %, the policy has unlearned it to 1 %, and says it once more."""
    policy = torch.tensor([math.log(0.01)], requires_grad=True)
    reference = torch.tensor([math.log(0.97)])
    (penalty,) = torch.autograd.grad(kl_penalty(policy, reference).sum(), policy)
    (k3,) = torch.autograd.grad(k3_divergence(policy, reference).sum(), policy)
    assert penalty.item() == pytest.approx(math.log(0.01 / 0.97))  # -4.6
    assert k3.item() == pytest.approx(1 - 97, rel=1e-4)


def test_a_penalty_needs_its_reference() -> None:
    one = torch.ones(1, 1)
    with pytest.raises(ValueError, match=r"beta = 0\.1 needs reference"):
        policy_loss(one, old_logprobs_BT=one, advantages_BT=one, weights_BT=one, objective=GRPO, beta=0.1)


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\), \(2, 4\), \(2,\)"):
        clipped_surrogate(
            torch.zeros(2, 3),
            old_logprobs_BT=torch.zeros(2, 4),
            advantages_BT=torch.zeros(2),
            clip_low=0.2,
            clip_high=0.2,
        )


@given(arrays("float64", (2, 3), elements=st.floats(-8, 0)), arrays("float64", (2, 3), elements=st.floats(-8, 0)))
def test_the_divergence_is_never_negative_and_zero_at_equality(policy: Any, reference: Any) -> None:
    divergence = k3_divergence(torch.from_numpy(policy), torch.from_numpy(reference))
    assert (divergence >= 0).all()
    assert not k3_divergence(torch.from_numpy(policy), torch.from_numpy(policy)).any()


def update(seed: int = 0) -> dict[str, Tensor]:
    """Five trajectories of up to six tokens, off policy by about 0.3 nats."""
    generator = torch.Generator().manual_seed(seed)
    logprobs = -torch.rand(5, 6, generator=generator, dtype=torch.float64) * 3
    return {
        "logprobs_BT": logprobs,
        "old_logprobs_BT": logprobs + 0.3 * torch.randn(5, 6, generator=generator, dtype=torch.float64),
        "reference_logprobs_BT": logprobs + 0.3 * torch.randn(5, 6, generator=generator, dtype=torch.float64),
        "advantages_BT": torch.randn(5, 1, generator=generator, dtype=torch.float64),
    }


LENGTHS_MASK_BT = torch.arange(6)[None] < torch.tensor([6, 1, 3, 4, 2])[:, None]


def gradient(objective: Objective, cuts: list[list[int]], tensors: dict[str, Tensor]) -> Tensor:
    """d loss / d logprobs of an update done in the given micro-batches."""
    weights_BT = token_weights(LENGTHS_MASK_BT, objective.aggregation, max_tokens=7).double()
    logprobs_BT = tensors["logprobs_BT"].clone().requires_grad_()
    for rows in cuts:
        loss = policy_loss(
            logprobs_BT[rows],
            old_logprobs_BT=tensors["old_logprobs_BT"][rows],
            advantages_BT=tensors["advantages_BT"][rows],
            weights_BT=weights_BT[rows],
            objective=objective,
            reference_logprobs_BT=tensors["reference_logprobs_BT"][rows],
            beta=0.1,
        )
        loss.backward()
    assert logprobs_BT.grad is not None
    return logprobs_BT.grad


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("cuts", [[[0], [1], [2], [3], [4]], [[4, 2], [0, 1, 3]]])
def test_micro_batches_add_up_to_the_same_gradient(objective: Objective, cuts: list[list[int]]) -> None:
    whole = gradient(objective, [[0, 1, 2, 3, 4]], update())
    torch.testing.assert_close(gradient(objective, cuts, update()), whole, rtol=1e-12, atol=1e-15)
    assert whole[LENGTHS_MASK_BT].abs().min() >= 0
    assert (whole[LENGTHS_MASK_BT] != 0).sum() > len(LENGTHS_MASK_BT)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_masked_tokens_have_no_gradient_and_no_influence(objective: Objective) -> None:
    before = update()
    after = {name: value.clone() for name, value in before.items()}
    for name in ("logprobs_BT", "old_logprobs_BT", "reference_logprobs_BT"):
        after[name][~LENGTHS_MASK_BT] = -7.0 + torch.arange(14, dtype=torch.float64)
    rows = [[0, 1, 2, 3, 4]]
    one, other = gradient(objective, rows, before), gradient(objective, rows, after)
    assert torch.equal(one, other)
    assert not one[~LENGTHS_MASK_BT].any()


def test_grpo_as_a_special_case_is_the_plain_policy_gradient() -> None:
    """On policy the ratio is 1, so d loss / d logprob = -weight x advantage, clip or no clip."""
    tensors = update()
    tensors["old_logprobs_BT"] = tensors["reference_logprobs_BT"] = tensors["logprobs_BT"]
    weights_BT = token_weights(LENGTHS_MASK_BT, Aggregation.TOKEN_MEAN, max_tokens=7).double()
    expected = -weights_BT * tensors["advantages_BT"]
    torch.testing.assert_close(gradient(GRPO, [[0, 1, 2, 3, 4]], tensors), expected)
