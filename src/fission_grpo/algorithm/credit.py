"""Which advantage each token of a trajectory gets: a pure function of the groups of one update.

Shapes: G trajectories of a group, N tokens of one trajectory, those that were given included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import accumulate
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor

from fission_grpo.algorithm.advantages import Scale, group_advantages
from fission_grpo.algorithm.groups import Group
from fission_grpo.environments.base import ComparableSnapshot, Snapshot
from fission_grpo.rollout import Trajectory
from fission_grpo.types import Turn

TokenAdvantages: TypeAlias = list[Tensor]
"""Of one group: for each of its G trajectories [N] float32, meaningless on tokens that were not sampled."""


class Credit(StrEnum):
    """What the advantage of a token is made of."""

    TRAJECTORY = "trajectory"
    """Every token has that of its trajectory: GRPO, and the paper."""
    TREE = "tree"
    """Recoveries also say what the call that they recover from was worth (after VinePPO, arXiv:2410.01679; ours)."""
    STATE = "state"
    """That of the trajectory, and how a message compares with others in the same state of the world (GiGPO,
    arXiv:2505.10978)."""


DISCOUNT = 0.95
"""Of a reward for each message between a state and the end; GiGPO's gamma."""


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


def _by_tree(groups: Sequence[Group], scale: Scale) -> list[TokenAdvantages]:
    """Up to a fissioned call, what all that went on from there got; behind it, how a trajectory compares with them.

    Recoveries keep the advantages of their own group. A failure of an earlier update changes nothing, nor does what no
    world has judged: the reward of a single message is of another kind.
    """
    recovered = [(one.context, _judged(one)) for one in groups if one.context is not None]
    return [
        _group_by_tree(
            group, [(c.x_ids + c.error_ids, rewards) for c, rewards in recovered if c.parent.group == group.id], scale
        )
        for group in groups
    ]


def _group_by_tree(
    group: Group, recovered: Sequence[tuple[tuple[int, ...], Mapping[int, float]]], scale: Scale
) -> TokenAdvantages:
    """The advantages of one group, given the rewards of its recoveries.

    A family is all that went on from one failed call: every member of the group that made it, token for token after the
    same tokens, and its recoveries. V, the mean of their rewards R, each counted once, is the value of that call.

        up to and including the failed message    A = (V - mean V) / (std V + eps)    over the group; V = R elsewhere
        behind it                                 A = (R - V) / (std R + eps)         over the family

    Args:
        recovered: tokens up to the end of a failed message, and the rewards of the recoveries from it.
    """
    values_G, valid_G = group.rewards()
    behind: dict[int, tuple[int, Tensor]] = {}
    for failed, recoveries in recovered:
        own = {i: r for i, r in _judged(group).items() if group.members[i].trajectory.ids[: len(failed)] == failed}
        if not recoveries or behind.keys() & own.keys():  # of two failures on one path the first that was fissioned
            continue
        family = torch.tensor([*own.values(), *recoveries.values()], dtype=torch.float64)
        advantages = group_advantages(family, valid_G=torch.ones(len(family), dtype=torch.bool), scale=scale)
        behind |= {index: (len(failed), advantage) for index, advantage in zip(own, advantages, strict=False)}
        values_G[list(own)] = family.mean()
    found = _throughout(group, group_advantages(values_G, valid_G=valid_G, scale=scale))
    for index, (start, advantage) in behind.items():
        found[index][start:] = advantage
    return found


def _by_state(groups: Sequence[Group], scale: Scale) -> list[TokenAdvantages]:
    return [_group_by_state(group, scale) for group in groups]


def _group_by_state(group: Group, scale: Scale) -> TokenAdvantages:
    """GiGPO: the advantage of a trajectory plus, with weight 1, that of its message among those of the same state.

    A message with k more behind it has the return DISCOUNT^k R. Messages of the group's trajectories form a group of
    their own where the world before them is the same in the same user turn, and of two trajectories at least. What no
    world has judged, or whose world cannot be compared, has the advantage of its trajectory alone.
    """
    found = _throughout(group, group.advantages(scale))
    met: dict[tuple[int, str], list[tuple[int, Turn, float]]] = {}
    for index, reward in _judged(group).items():
        turns = group.members[index].trajectory.turns
        for place, state in enumerate(_states(group.members[index].trajectory)):
            if state is not None:
                value = reward * DISCOUNT ** (len(turns) - 1 - place)
                met.setdefault(state, []).append((index, turns[place], value))
    for visits in met.values():
        if len({index for index, _, _ in visits}) < 2:  # a trajectory is not compared with itself
            continue
        returns = torch.tensor([value for _, _, value in visits], dtype=torch.float64)
        advantages = group_advantages(returns, valid_G=torch.ones(len(visits), dtype=torch.bool), scale=scale)
        for (index, turn, _), advantage in zip(visits, advantages, strict=True):
            found[index][turn.start : turn.stop] += advantage
    return found


def _states(trajectory: Trajectory) -> Iterator[tuple[int, str] | None]:
    """User turns that are over, and the world, before each message; None where the world cannot be compared.

    All that begins together shares its first state, which has no snapshot; who comes back to that world is in a state
    of its own, which siblings who come back share.
    """
    over = accumulate((not turn.outcomes for turn in trajectory.turns), initial=0)
    for turns, world in zip(over, ("", *map(_world, trajectory.snapshots[:-1])), strict=False):
        yield None if world is None else (turns, world)


def _world(snapshot: Snapshot | None) -> str | None:
    return snapshot.world_hash() if isinstance(snapshot, ComparableSnapshot) else None


def _judged(group: Group) -> dict[int, float]:
    """The rewards of those members that their world has judged, by their place in the group."""
    return {
        index: member.reward.total
        for index, member in enumerate(group.members)
        if member.reward is not None and member.trajectory.verdict is not None
    }


_RULES: Mapping[Credit, Callable[[Sequence[Group], Scale], list[TokenAdvantages]]] = MappingProxyType(
    {Credit.TRAJECTORY: _by_trajectory, Credit.TREE: _by_tree, Credit.STATE: _by_state}
)
