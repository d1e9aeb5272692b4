"""Our advantages as an estimator of verl's, and how its batches of rows become groups of ours.

Shapes: B rows, T tokens of the longest response.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import register_adv_est

from fission_grpo.algorithm.advantages import Scale, group_advantages

ESTIMATOR = "fission_grpo"


@register_adv_est(ESTIMATOR)  # type: ignore[untyped-decorator]  # verl is untyped where this is checked
def row_advantages(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Sequence[Any],
    norm_adv_by_std_in_grpo: bool = True,
    **rest: Any,
) -> tuple[Tensor, Tensor]:
    """Each row's advantage in its own group, on its trained tokens.

    verl's own `grpo` counts a spoiled row as a reward of 0; here one without a trained token, padding included, moves
    nobody's baseline.

    Args:
        token_level_rewards, response_mask: [B, T].
        index: of each row, what is equal exactly for siblings; [B].
    Returns:
        Advantages, and the same again as returns; [B, T].
    """
    rewards_B, valid_B = token_level_rewards.sum(-1).double(), response_mask.bool().any(-1)
    scale = Scale.STD if norm_adv_by_std_in_grpo else Scale.NONE
    advantages_B = torch.zeros(len(rewards_B))
    for name in dict.fromkeys(index):
        rows = torch.tensor([place for place, other in enumerate(index) if other == name])
        advantages_B[rows] = group_advantages(rewards_B[rows], valid_G=valid_B[rows], scale=scale)
    advantages_BT = advantages_B[:, None] * response_mask
    return advantages_BT, advantages_BT
