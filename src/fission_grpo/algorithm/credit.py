"""Which advantage each token of a trajectory gets: a pure function of the groups of one update.

Shapes: G trajectories of a group, N tokens of one trajectory, those that were given included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import TypeAlias

from torch import Tensor

from fission_grpo.algorithm.advantages import Scale
from fission_grpo.algorithm.groups import Group

TokenAdvantages: TypeAlias = list[Tensor]
"""Of one group: for each of its G trajectories [N] float32, meaningless on tokens that were not sampled."""


class Credit(StrEnum):
    """What the advantage of a token is made of."""

    TRAJECTORY = "trajectory"
    """Every token has that of its trajectory: GRPO, and the paper."""


def token_advantages(groups: Sequence[Group], *, credit: Credit, scale: Scale) -> list[TokenAdvantages]:
    """The advantages of some groups, token by token.

    Args:
        groups: all groups of one update: exploration and fission together.
        scale: what centred rewards are divided by.
    Returns:
        One for each group, in order; 0 throughout for invalid trajectories.
    """
    return _RULES[credit](groups, scale)


def _by_trajectory(groups: Sequence[Group], scale: Scale) -> list[TokenAdvantages]:
    return [_throughout(group, group.advantages(scale)) for group in groups]


def _throughout(group: Group, advantages_G: Tensor) -> TokenAdvantages:
    """One value for all tokens of a trajectory."""
    pairs = zip(group.members, advantages_G, strict=True)
    return [advantage.repeat(len(member.trajectory.ids)) for member, advantage in pairs]


_RULES: Mapping[Credit, Callable[[Sequence[Group], Scale], list[TokenAdvantages]]] = MappingProxyType(
    {Credit.TRAJECTORY: _by_trajectory}
)
