"""Groups as the rows that TRL's `rollout_func` hands over, and what stands beside them in its batch.

Shapes: B rows, F reward functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fission_grpo.algorithm.batch import TrainingRow, rows_of
from fission_grpo.algorithm.groups import Group, Member
from fission_grpo.algorithm.losses import Objective

TOTAL = "judge"
"""TRL's name for the reward where no reward function is given, but a judge of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """The rows of a step as TRL takes them; the last ones may weigh nothing."""

    rows: tuple[TrainingRow, ...]
    members: tuple[Member, ...]
    """Of the first rows; those that follow are there to make up the number."""

    @staticmethod
    def of(groups: Sequence[Group], objective: Objective, *, pad_to: int) -> Handover:
        """Groups in order, and rows of no weight until there are `pad_to`."""
        members = tuple(member for group in groups for member in group.members)
        return Handover(rows=tuple(rows_of(groups, objective, pad_to=pad_to)), members=members)

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """A data set's rows, for TRL's log of prompts; nothing is generated from them."""
        return [{"prompt": list(self._member(place).trajectory.given)} for place in range(len(self.rows))]

    def rollout(self) -> dict[str, list[Any]]:
        """What `rollout_func` returns: every token as it was sampled."""
        parts = [_parts(row) for row in self.rows]
        return {
            "prompt_ids": [list(row.ids[:cut]) for row, cut in zip(self.rows, parts, strict=True)],
            "completion_ids": [list(row.ids[cut:]) for row, cut in zip(self.rows, parts, strict=True)],
            "logprobs": [list(row.logprobs[cut:]) for row, cut in zip(self.rows, parts, strict=True)],
            "env_mask": [[int(one) for one in row.sampled[cut:]] for row, cut in zip(self.rows, parts, strict=True)],
        }

    def advantages(self, device: torch.device) -> Tensor:
        """[B] float32, each of its own group."""
        return torch.tensor([row.advantage for row in self.rows], dtype=torch.float32, device=device)

    def weighed(self, device: torch.device) -> Tensor:
        """How many rows weigh something, [] float32."""
        return torch.tensor(float(sum(row.tokens > 0 for row in self.rows)), device=device)

    def rewards(self, names: Sequence[str], device: torch.device) -> Tensor:
        """[B, F] by reward function; NaN where one does not apply, and in rows that make up the number."""
        nothing = [float("nan")] * len(names)
        given = [by_name(member, names) for member in self.members]
        return torch.tensor(given + [nothing] * (len(self.rows) - len(given)), device=device)

    def _member(self, place: int) -> Member:
        return self.members[place] if place < len(self.members) else self.members[0]


def _parts(row: TrainingRow) -> int:
    """Where the completion begins; TRL wants one token of it at least."""
    return min(row.prompt, len(row.ids) - 1)


def by_name(member: Member, names: Sequence[str]) -> list[float]:
    """One value for each name; where the judge is ours, its total under the one name there is."""
    if member.reward is None:
        return [float("nan")] * len(names)
    if names == [TOTAL]:
        return [member.reward.total]
    terms = {term.name: term.value for term in member.reward.terms}
    return [terms.get(name, float("nan")) for name in names]
