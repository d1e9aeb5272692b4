"""Groups as rows and tensors: every trajectory of an update, with its advantage and the weight of its tokens.

`rows_of` is what an engine with tensors of its own takes (TRL, verl); `TrainingBatch` is what our learner takes.

Shapes: B trajectories, T sampled tokens of the longest one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fission_grpo.algorithm.credit import Credit, TokenAdvantages, token_advantages
from fission_grpo.algorithm.groups import Group, Member
from fission_grpo.algorithm.losses import Objective, token_weights
from fission_grpo.types import TokenRow


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRow:
    """One trajectory as an engine trains on it. A row without any sampled token weighs nothing."""

    ids: tuple[int, ...]
    prompt: int
    """Leading tokens that were given."""
    sampled: tuple[bool, ...]
    """True on the tokens to train, one value per id; all False for a row of no weight: an invalid trajectory, one of a
    group that the objective drops, or padding."""
    logprobs: tuple[float, ...]
    """When the tokens were sampled, in nats (`Completion.logprobs`); 0 where nothing is trained."""
    reward: float | None
    """None for a row of no weight."""
    advantage: float
    """Of the trajectory, normalised inside the row's own group, times the group's weight; 0 for a row of no weight."""
    advantages: tuple[float, ...]
    """What is trained on, one value per id: `advantage` throughout unless `Credit` tells tokens apart; 0 where nothing
    is trained."""

    @property
    def tokens(self) -> int:
        """How many tokens are trained."""
        return sum(self.sampled)


def rows_of(
    groups: Sequence[Group], objective: Objective, *, credit: Credit = Credit.TRAJECTORY, pad_to: int = 0
) -> list[TrainingRow]:
    """The trajectories of some groups, in order, each with the advantage of its own group.

    Args:
        groups: all groups of one update.
        objective: says what centred rewards are divided by, and whether groups without signal weigh nothing at all
            (DAPO) or still count among the tokens that the loss is a mean over.
        credit: which advantage each token of a trajectory gets.
        pad_to: add rows of no weight until there are so many, for engines whose processes must agree on a number; each
            repeats the tokens of the first row.
    Raises:
        ValueError: more rows than `pad_to`, or padding without any row to repeat.
    """
    found = token_advantages(groups, credit=credit, scale=objective.scale)
    rows = [
        row
        for group, advantages_GN in zip(groups, found, strict=True)
        for row in _group_rows(group, advantages_GN, objective)
    ]
    if not pad_to:
        return rows
    if len(rows) > pad_to or not rows:
        raise ValueError(f"got {len(rows)} rows to pad to {pad_to}; expected at least one and no more than that")
    return rows + [_weightless(rows[0])] * (pad_to - len(rows))


def _group_rows(group: Group, advantages_GN: TokenAdvantages, objective: Objective) -> Iterator[TrainingRow]:
    counts = not objective.drop_zero_variance or any(advantages_N.any() for advantages_N in advantages_GN)
    own = group.advantages(objective.scale).tolist()
    for member, advantage, advantages_N in zip(group.members, own, advantages_GN, strict=True):
        row = _row(member, advantage * group.weight, advantages_N * group.weight)
        yield row if counts and member.reward is not None else _weightless(row)


def _row(member: Member, advantage: float, advantages_N: Tensor) -> TrainingRow:
    trajectory = member.trajectory
    return TrainingRow(
        ids=trajectory.ids,
        prompt=trajectory.prompt,
        sampled=trajectory.sampled,
        logprobs=trajectory.logprobs,
        reward=None if member.reward is None else member.reward.total,
        advantage=advantage,
        advantages=tuple((advantages_N * torch.tensor(trajectory.sampled)).tolist()),
    )


def _weightless(row: TrainingRow) -> TrainingRow:
    nothing = len(row.ids)
    return TrainingRow(
        ids=row.ids,
        prompt=row.prompt,
        sampled=(False,) * nothing,
        logprobs=(0.0,) * nothing,
        reward=None,
        advantage=0.0,
        advantages=(0.0,) * nothing,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBatch:
    """What `losses.policy_loss` needs, and the rows to score."""

    rows: tuple[TokenRow, ...]
    old_logprobs_BT: Tensor
    """When the tokens were sampled, in nats; 0 beyond the end."""
    advantages_BT: Tensor
    """0 beyond the end."""
    weights_BT: Tensor
    """0 exactly where a token is not trained."""

    @property
    def mask_BT(self) -> Tensor:
        return self.weights_BT > 0

    @staticmethod
    def of(
        groups: Sequence[Group],
        objective: Objective,
        *,
        credit: Credit = Credit.TRAJECTORY,
        max_tokens: int,
        device: torch.device,
    ) -> TrainingBatch:
        """Gather the trajectories that carry signal.

        Token weights are computed over *all* valid trajectories (over groups with signal alone if the objective drops
        the others), and only then are those without advantage left out: their surrogate is 0, so the loss is the same
        and the forward pass cheaper. The KL penalty therefore acts on groups with signal only.

        Args:
            credit: which advantage each token of a trajectory gets.
            max_tokens: the divisor of `Aggregation.CONSTANT`; see `Learner`.
        """
        weighed = [row for row in rows_of(groups, objective, credit=credit) if row.tokens]
        width = max((row.tokens for row in weighed), default=1)
        tokens_B = torch.tensor([row.tokens for row in weighed], dtype=torch.long)
        mask_BT = torch.arange(width)[None, :] < tokens_B[:, None]
        weights_BT = token_weights(mask_BT, objective.aggregation, max_tokens=max_tokens)
        kept = [place for place, row in enumerate(weighed) if any(row.advantages)]
        rows = [weighed[place] for place in kept]
        return TrainingBatch(
            rows=tuple(TokenRow(ids=row.ids, trained=row.sampled) for row in rows),
            old_logprobs_BT=_table([_trained(row, row.logprobs) for row in rows], width, device),
            advantages_BT=_table([_trained(row, row.advantages) for row in rows], width, device),
            weights_BT=weights_BT[kept].to(device),
        )


def _trained(row: TrainingRow, values_N: Sequence[float]) -> list[float]:
    """Those of its trained tokens."""
    return [value for value, chosen in zip(values_N, row.sampled, strict=True) if chosen]


def _table(lines: Sequence[list[float]], width: int, device: torch.device) -> Tensor:
    """[B, T], with zeros beyond the end of a line."""
    padded = [line + [0.0] * (width - len(line)) for line in lines]
    return torch.tensor(padded, device=device).reshape(len(lines), width)
