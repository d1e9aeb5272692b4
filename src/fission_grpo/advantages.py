"""Group-relative advantages: how much better a trajectory did than its siblings.

arXiv:2601.15625, stages 1 and 3. A group is everything sampled from one context; exploration groups and fission groups
are different contexts, so nothing here ever sees two of them at once: one call, one group, one baseline.

Shapes: G trajectories of a group.
"""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor

DEAD_SPREAD = 1e-6
"""Rewards closer together than this are equal: a spread of rounding noise must not become a gradient."""


class Scale(StrEnum):
    """What the centred rewards are divided by."""

    STD = "std"
    """GRPO and DAPO: the population standard deviation of the group, plus epsilon."""
    NONE = "none"
    """Dr.GRPO: nothing, so that easy and hard groups are not magnified."""


class Pulse(StrEnum):
    """Whether a group carries any signal."""

    ALIVE = "alive"
    ALL_RIGHT = "all_right"
    """No spread, and every trajectory succeeded."""
    ALL_FAIL = "all_fail"
    """No spread, and not every trajectory succeeded."""
    MASKED = "masked"
    """Fewer than two trajectories are free of faults of ours."""


def group_advantages(rewards_G: Tensor, *, valid_G: Tensor, scale: Scale = Scale.STD, eps: float = 1e-4) -> Tensor:
    """A_i = (R_i - mean) / (std + eps) over the valid trajectories of one group.

    Args:
        rewards_G: one reward for each trajectory; any value where `valid_G` is False.
        valid_G: False for trajectories that a fault of ours spoiled: they neither move the baseline nor get a gradient.
        scale: the divisor.
        eps: keeps a nearly dead group from exploding; ignored with `Scale.NONE`.
    Returns:
        Advantages, float32: 0 for invalid trajectories and for the whole of a group without spread.
    Raises:
        ValueError: the shapes disagree.
    """
    if rewards_G.shape != valid_G.shape or rewards_G.dim() != 1:
        raise ValueError(f"expected two vectors of one length, got {tuple(rewards_G.shape)}, {tuple(valid_G.shape)}")
    advantages = torch.zeros_like(rewards_G, dtype=torch.float32)
    valid = rewards_G[valid_G].double()
    if valid.numel() < 2 or bool(valid.max() - valid.min() < DEAD_SPREAD):
        return advantages
    centred = valid - valid.mean()
    divisor = valid.std(correction=0) + eps if scale is Scale.STD else 1.0
    advantages[valid_G] = (centred / divisor).float()
    return advantages


def pulse(rewards_G: Tensor, *, valid_G: Tensor, success_G: Tensor) -> Pulse:
    """Dead-group accounting: does this group carry signal, and if not, why not?"""
    valid = rewards_G[valid_G]
    if valid.numel() < 2:
        return Pulse.MASKED
    if bool(valid.max() - valid.min() >= DEAD_SPREAD):
        return Pulse.ALIVE
    return Pulse.ALL_RIGHT if bool(success_G[valid_G].all()) else Pulse.ALL_FAIL
