"""The objective, and the only place where it exists. Engines call these functions and never restate them.

    loss = - sum_BT w * min(r A, clip(r, 1 - low, 1 + high) A)  +  beta * sum_BT w * d^2 / 2
    r    = exp(logprobs - old_logprobs)
    d    = logprobs - reference_logprobs

GRPO, DAPO and Dr.GRPO (arXiv:2601.15625's baselines) differ in nothing but the clip, the token weights w, and the
scale of the advantage (`advantages.Scale`). The weights are computed over the *whole* update and simply add up, so an
update may be cut into micro-batches anywhere without changing its gradient.

Shapes: B trajectories, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

import torch
from torch import Tensor

from fission_grpo.algorithm.advantages import Scale


class Aggregation(StrEnum):
    """How tokens are averaged."""

    TOKEN_MEAN = "token_mean"
    """Every trained token of the update weighs the same (DAPO)."""
    TRAJECTORY_MEAN = "trajectory_mean"
    """Every trajectory weighs the same, its tokens share its weight (GRPO as published)."""
    CONSTANT = "constant"
    """Every token weighs 1 / (B * max_tokens), whatever the lengths (Dr.GRPO)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A policy-gradient objective as values."""

    clip_low: float = 0.2
    """Half-width of the trust region below 1, dimensionless."""
    clip_high: float = 0.2
    aggregation: Aggregation = Aggregation.TOKEN_MEAN
    scale: Scale = Scale.STD
    drop_zero_variance: bool = False
    """DAPO's dynamic sampling without the resampling: groups without spread leave the denominator too."""


GRPO = Objective()
DAPO = Objective(clip_high=0.28, drop_zero_variance=True)
DR_GRPO = Objective(aggregation=Aggregation.CONSTANT, scale=Scale.NONE)
GRPO_UNSCALED = Objective(aggregation=Aggregation.TRAJECTORY_MEAN, scale=Scale.NONE)
"""Ours: rewards are centred and not divided (Dr.GRPO's first half), and every trajectory weighs the same, so that long
recoveries do not outweigh first attempts."""


class ObjectiveName(StrEnum):
    """Clip, aggregation and scale as one choice."""

    GRPO = "grpo"
    DAPO = "dapo"
    DR_GRPO = "dr_grpo"
    GRPO_UNSCALED = "grpo_unscaled"


OBJECTIVES: Mapping[ObjectiveName, Objective] = MappingProxyType(
    {
        ObjectiveName.GRPO: GRPO,
        ObjectiveName.DAPO: DAPO,
        ObjectiveName.DR_GRPO: DR_GRPO,
        ObjectiveName.GRPO_UNSCALED: GRPO_UNSCALED,
    }
)


def token_weights(mask_BT: Tensor, aggregation: Aggregation, *, max_tokens: int) -> Tensor:
    """What each token of a whole update contributes to the mean.

    Args:
        mask_BT: True where the policy sampled the token.
        aggregation: how tokens are averaged.
        max_tokens: most tokens that could have been sampled for one user message; used by CONSTANT alone.
    Returns:
        [B, T] float32, 0 where the mask is False. Empty trajectories weigh nothing.
    """
    mask = mask_BT.float()
    if aggregation is Aggregation.TOKEN_MEAN:
        return mask / mask.sum().clamp(min=1)
    if aggregation is Aggregation.TRAJECTORY_MEAN:
        return mask / mask.sum(dim=1, keepdim=True).clamp(min=1) / max(len(mask), 1)
    return mask / max(len(mask) * max_tokens, 1)


def clipped_surrogate(
    logprobs_BT: Tensor, *, old_logprobs_BT: Tensor, advantages_BT: Tensor, clip_low: float, clip_high: float
) -> Tensor:
    """min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), token by token.

    Args:
        logprobs_BT: log-probability of each token under the policy being trained, in nats; carries the gradient.
        old_logprobs_BT: the same tokens under the policy that sampled them, in nats; constant.
        advantages_BT: one for each token, or [B, 1]: one for each trajectory; dimensionless, from `token_advantages` or
            `group_advantages`; constant.
        clip_low, clip_high: half-widths of the trust region on r, >= 0.
    Returns:
        [B, T], to be maximised; meaningless where nothing was sampled (give those tokens the weight 0).
    Raises:
        ValueError: the shapes disagree; all three are named.
    """
    fitting = (logprobs_BT.shape, (len(logprobs_BT), 1))
    if logprobs_BT.shape != old_logprobs_BT.shape or advantages_BT.shape not in fitting:
        shapes = [tuple(t.shape) for t in (logprobs_BT, old_logprobs_BT, advantages_BT)]
        raise ValueError(
            f"logprobs_BT, old_logprobs_BT, advantages_BT: shapes {shapes} do not fit [B, T], [B, T], [B, T] or [B, 1]"
        )
    ratio = torch.exp(logprobs_BT - old_logprobs_BT)
    return torch.minimum(ratio * advantages_BT, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages_BT)


def kl_penalty(logprobs_BT: Tensor, reference_logprobs_BT: Tensor) -> Tensor:
    """Half the squared log-ratio (Schulman's k2) per token: on sampled tokens its gradient is that of KL(policy ||
    reference) on average, and it grows with the log-ratio.

    Ours: the usual k3 has the gradient of the *other* KL, with a factor reference/policy. After an error the start is
    sure of the wrong thing, so once recoveries have learned better, a single sampled relapse weighs a hundredfold: with
    k3 the gradient norm of the fission arm jumped from 0.05 to 8.8 (docs/earlier_results.md).
    """
    return 0.5 * (logprobs_BT - reference_logprobs_BT) ** 2


def k3_divergence(logprobs_BT: Tensor, reference_logprobs_BT: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(policy || reference) per token: e^d - d - 1 with d = reference - policy; >= 0.
    To be reported, not to be minimised: see `kl_penalty`."""
    difference = reference_logprobs_BT - logprobs_BT
    # `expm1`, since the terms of e^d - d - 1 cancel where policy and reference are close; never below 0 by rounding.
    return (torch.expm1(difference) - difference).clamp(min=0)


def policy_loss(
    logprobs_BT: Tensor,
    *,
    old_logprobs_BT: Tensor,
    advantages_BT: Tensor,
    weights_BT: Tensor,
    objective: Objective,
    reference_logprobs_BT: Tensor | None = None,
    beta: float = 0.0,
) -> Tensor:
    """The scalar to minimise for (a micro-batch of) one update.

    Args:
        weights_BT: from `token_weights` over the whole update, restricted to these trajectories.
        reference_logprobs_BT: the same tokens under the frozen start; needed when `beta` > 0.
        beta: weight of the KL penalty, dimensionless.
    Raises:
        ValueError: `beta` > 0 without reference log-probabilities, or shapes that disagree.
    """
    surrogate = clipped_surrogate(
        logprobs_BT,
        old_logprobs_BT=old_logprobs_BT,
        advantages_BT=advantages_BT,
        clip_low=objective.clip_low,
        clip_high=objective.clip_high,
    )
    loss = -(weights_BT * surrogate).sum()
    if beta == 0.0:
        return loss
    if reference_logprobs_BT is None:
        raise ValueError(f"beta = {beta} needs reference log-probabilities, got none")
    return loss + beta * (weights_BT * kl_penalty(logprobs_BT, reference_logprobs_BT)).sum()
