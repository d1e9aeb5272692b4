"""Group-relative advantages: how much better a trajectory did than its siblings.

arXiv:2601.15625, stages 1 and 3. A group is everything sampled from one context; exploration groups and fission groups
are different contexts, so nothing here ever sees two of them at once: one call, one group, one baseline.

Shapes: G trajectories of a group.
"""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor

from fission_grpo.algorithm.rewards import zero_variance


class Scale(StrEnum):
    """What the centred rewards are divided by."""

    STD = "std"
    """GRPO and DAPO: the population standard deviation of the group, plus epsilon."""
    NONE = "none"
    """Dr.GRPO: nothing, so that easy and hard groups are not magnified."""


class Signal(StrEnum):
    """Whether a group has a gradient to give. The values are what `traces.jsonl` says."""

    PRESENT = "alive"
    ZERO_VARIANCE = "dead"
    """No spread between the rewards, whatever they are (`rewards.zero_variance`)."""
    MASKED = "masked"
    """Fewer than two trajectories are free of faults of ours."""


def group_advantages(rewards_G: Tensor, *, valid_G: Tensor, scale: Scale = Scale.STD, eps: float = 1e-4) -> Tensor:
    """A_i = (R_i - mean) / (std + eps) over the valid trajectories of one group.

    Args:
        rewards_G: one reward for each trajectory; any value where `valid_G` is False.
        valid_G: False for invalid trajectories: they neither move the baseline nor get a gradient.
        scale: the divisor.
        eps: keeps a group of almost no spread from exploding; ignored with `Scale.NONE`.
    Returns:
        Advantages, float32: 0 for invalid trajectories and for the whole of a group without spread.
    Raises:
        ValueError: the shapes disagree.
    """
    if rewards_G.shape != valid_G.shape or rewards_G.dim() != 1:
        raise ValueError(f"expected two vectors of one length, got {tuple(rewards_G.shape)}, {tuple(valid_G.shape)}")
    advantages = torch.zeros_like(rewards_G, dtype=torch.float32)
    valid = rewards_G[valid_G].double()
    if zero_variance(valid.tolist()):
        return advantages
    centred = valid - valid.mean()
    divisor = valid.std(correction=0) + eps if scale is Scale.STD else 1.0
    advantages[valid_G] = (centred / divisor).float()
    return advantages


def signal_of(rewards_G: Tensor, *, valid_G: Tensor) -> Signal:
    """Does this group carry signal, and if not, why not?"""
    valid = rewards_G[valid_G].double().tolist()
    if len(valid) < 2:
        return Signal.MASKED
    return Signal.ZERO_VARIANCE if zero_variance(valid) else Signal.PRESENT
