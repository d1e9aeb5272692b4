"""The tensors of one update: every trajectory of every group, with its advantage and the weight of its tokens.

Shapes: B trajectories, T sampled tokens of the longest one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fission_grpo.algorithm.advantages import Pulse
from fission_grpo.algorithm.groups import Group
from fission_grpo.algorithm.losses import Objective, token_weights
from fission_grpo.tree.logprobs import TokenRow


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBatch:
    """What `losses.policy_loss` needs, and the rows to score."""

    rows: tuple[TokenRow, ...]
    old_logprobs_BT: Tensor
    """When the tokens were sampled, in nats; 0 beyond the end."""
    advantages_B: Tensor
    weights_BT: Tensor
    """0 exactly where a token is not trained."""

    @property
    def mask_BT(self) -> Tensor:
        return self.weights_BT > 0

    @staticmethod
    def of(groups: Sequence[Group], objective: Objective, *, max_tokens: int, device: torch.device) -> TrainingBatch:
        """Gather the trajectories that carry signal.

        Token weights are computed over *all* valid trajectories (over living groups alone if the objective drops dead
        ones), and only then are those without advantage left out: their surrogate is 0, so the loss is the same and the
        forward pass cheaper. The KL penalty therefore acts on living groups only.

        Args:
            max_tokens: most tokens that one trajectory could have sampled, for `Aggregation.CONSTANT`.
        """
        living = [group for group in groups if group.pulse() is Pulse.ALIVE]
        counted = living if objective.drop_dead_groups else groups
        tokens = [
            [sum(member.trajectory.sampled) if member.reward is not None else 0 for member in group.members]
            for group in counted
        ]
        flat = [count for group in tokens for count in group if count]
        width = max(flat, default=1)
        mask = torch.arange(width)[None, :] < torch.tensor(flat, dtype=torch.long)[:, None]
        weights_BT = token_weights(mask, objective.aggregation, max_tokens=max_tokens)

        rows, old, advantages, kept = [], [], [], []
        place = 0
        for group, counts in zip(counted, tokens, strict=True):
            group_advantages = group.advantages(objective.scale).tolist()
            for member, count, advantage in zip(group.members, counts, group_advantages, strict=True):
                if not count:
                    continue
                if advantage != 0.0:
                    trajectory = member.trajectory
                    rows.append(TokenRow(ids=trajectory.ids, trained=trajectory.sampled))
                    sampled = [p for p, chosen in zip(trajectory.logprobs, trajectory.sampled, strict=True) if chosen]
                    old.append(sampled + [0.0] * (width - len(sampled)))
                    advantages.append(advantage)
                    kept.append(place)
                place += 1
        return TrainingBatch(
            rows=tuple(rows),
            old_logprobs_BT=torch.tensor(old, device=device).reshape(len(rows), width),
            advantages_B=torch.tensor(advantages, device=device),
            weights_BT=weights_BT[kept].to(device),
        )
