"""How the groups of a run came out: how many gave no signal, and how many of those that all failed fission rescued.

Read from `traces.jsonl`, one JSON object a group. A group *has signal* where training says so: its rewards differ
(`rewards.zero_variance`). *All fail* is the paper's case for fission (arXiv:2601.15625): nobody succeeded, so there
is no success to reinforce. The two are not opposites: partial credit can give an all-fail group signal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from fission_grpo.algorithm.rewards import zero_variance
from fission_grpo.evaluation.statistics import Rate
from fission_grpo.types import GroupKind


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOutcome:
    """What the account needs to know of one group. Trajectories that met a harness fault are left out."""

    group: str
    parent: str | None
    """The group whose failed trajectory this one recovers from; None for exploration."""
    rewards: tuple[float, ...]
    correct: tuple[bool, ...]

    @property
    def all_fail(self) -> bool:
        return not any(self.correct)

    @property
    def all_right(self) -> bool:
        return all(self.correct)

    @property
    def has_signal(self) -> bool:
        """Rewards differ, so the group has a gradient."""
        return not zero_variance(self.rewards)


def group_outcome(trace: Mapping[str, Any]) -> GroupOutcome | None:
    """Read one line of `traces.jsonl`; None when every trajectory met a harness fault, or none was for training."""
    if trace["kind"] == GroupKind.COLLECTION:
        return None
    sound = [one for one in trace["trajectories"] if one["reward"] is not None]
    if not sound:
        return None
    parent = trace.get("parent")
    return GroupOutcome(
        group=str(trace["group"]),
        parent=None if parent is None else str(parent["group"]),
        rewards=tuple(float(one["reward"]["total"]) for one in sound),
        correct=tuple(bool(one["success"]) for one in sound),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupAccount:
    """The account of one run; accounts of several runs add up."""

    all_fail: Rate
    """Over exploration groups; with `mixed` and `all_right` it adds up to all of them."""
    mixed: Rate
    all_right: Rate
    has_signal: Rate
    """Exploration groups with a gradient."""
    fissioned: Rate
    """All-fail exploration groups from which a fission group was sampled."""
    rescued: Rate
    """All-fail exploration groups with at least one success among their fission descendants."""
    fission_has_signal: Rate
    """Fission groups with a gradient."""
    fission_success: Rate
    """Fission groups with at least one success."""

    def __add__(self, other: GroupAccount) -> GroupAccount:
        return GroupAccount(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})


def _root(group: GroupOutcome, known: Mapping[str, GroupOutcome]) -> str:
    """The exploration group that it descends from, through any depth of fission."""
    while group.parent is not None and group.parent in known:
        group = known[group.parent]
    return group.group if group.parent is None else group.parent


def account_groups(groups: Iterable[GroupOutcome]) -> GroupAccount:
    """Account for the groups of one run; order does not matter, and a repeated id counts once, the last one."""
    known = {group.group: group for group in groups}
    exploration = [group for group in known.values() if group.parent is None]
    fission = [group for group in known.values() if group.parent is not None]
    fissioned = {_root(group, known) for group in fission}
    rescued = {_root(group, known) for group in fission if not group.all_fail}
    all_fail = [group for group in exploration if group.all_fail]
    return GroupAccount(
        all_fail=Rate(len(all_fail), len(exploration)),
        mixed=Rate(sum(not (group.all_fail or group.all_right) for group in exploration), len(exploration)),
        all_right=Rate(sum(group.all_right for group in exploration), len(exploration)),
        has_signal=Rate(sum(group.has_signal for group in exploration), len(exploration)),
        fissioned=Rate(sum(group.group in fissioned for group in all_fail), len(all_fail)),
        rescued=Rate(sum(group.group in rescued for group in all_fail), len(all_fail)),
        fission_has_signal=Rate(sum(group.has_signal for group in fission), len(fission)),
        fission_success=Rate(sum(not group.all_fail for group in fission), len(fission)),
    )
