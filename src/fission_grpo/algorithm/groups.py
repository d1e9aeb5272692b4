"""Trajectories that share one context, and so one baseline."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fission_grpo.algorithm.advantages import Scale, Signal, group_advantages, signal_of
from fission_grpo.algorithm.context import CorrectiveContext
from fission_grpo.algorithm.failures import Failure
from fission_grpo.algorithm.rewards import Reward
from fission_grpo.rollout import Trajectory
from fission_grpo.types import GroupKind, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One trajectory, judged."""

    trajectory: Trajectory
    reward: Reward | None
    """None exactly when a fault of ours made the trajectory invalid, or its context left no room for a message."""
    success: bool
    failure: Failure | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All that was sampled from one context at one step."""

    id: str
    """Unique in a run, for instance `12/exploration/0.3`."""
    kind: GroupKind
    task: Task
    members: tuple[Member, ...]
    context: CorrectiveContext | None
    """What a fission group was sampled from; None for exploration."""
    weight: float = 1.0
    """Multiplies its advantages in training (`FamilyWeight`)."""

    def rewards(self) -> tuple[Tensor, Tensor]:
        """Rewards [G] float64 (0 for invalid trajectories) and which of them are valid [G]."""
        rewards = [0.0 if member.reward is None else member.reward.total for member in self.members]
        valid = [member.reward is not None for member in self.members]
        return torch.tensor(rewards, dtype=torch.float64), torch.tensor(valid)

    def advantages(self, scale: Scale) -> Tensor:
        """[G] float32, normalised inside this group alone."""
        rewards_G, valid_G = self.rewards()
        return group_advantages(rewards_G, valid_G=valid_G, scale=scale)

    def signal(self) -> Signal:
        """Whether the group carries signal, and if not, why not."""
        rewards_G, valid_G = self.rewards()
        return signal_of(rewards_G, valid_G=valid_G)

    @property
    def has_signal(self) -> bool:
        """Whether its rewards differ, so that it has a gradient."""
        return self.signal() is Signal.PRESENT

    @property
    def all_fail(self) -> bool:
        """Nobody succeeded, whatever the rewards; False where faults of ours left nobody."""
        return bool(valid := self._valid()) and not any(member.success for member in valid)

    @property
    def all_right(self) -> bool:
        """Everybody succeeded, whatever the rewards; False where faults of ours left nobody."""
        return bool(valid := self._valid()) and all(member.success for member in valid)

    @property
    def failing(self) -> float:
        """Share of the valid members that did not succeed; 0 where faults of ours left nobody."""
        valid = self._valid()
        return sum(not member.success for member in valid) / max(len(valid), 1)

    def _valid(self) -> list[Member]:
        return [member for member in self.members if member.reward is not None]
