"""What one step is remembered by: a flat row of numbers for `metrics.jsonl`.

Names follow TRL's where TRL has one (`reward`, `reward_std`, `frac_reward_zero_std`, `tools/...`, `completions/...`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean, pstdev

from fission_grpo.algorithm.advantages import Pulse
from fission_grpo.algorithm.groups import Group, Member
from fission_grpo.algorithm.source import FissionSource


def group_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Rewards by term, signal, success, errors and lengths of one kind of groups; empty where there are none.

    Where faults of ours spoiled every trajectory, their number is all there is to tell.
    """
    members = [member for group in groups for member in group.members]
    valid = [member for member in members if member.reward is not None]
    counts = {"rollouts": float(len(members)), "masked": float(len(members) - len(valid))} if members else {}
    if not valid:
        return counts
    turns = [turn for member in valid for turn in member.trajectory.turns]
    outcomes = [outcome for turn in turns for outcome in turn.outcomes]
    alive = fmean(group.pulse() is Pulse.ALIVE for group in groups)
    return {
        "reward": fmean(member.reward.total for member in valid if member.reward),
        "reward_std": fmean(_spread(group) for group in groups),
        **_terms(valid),
        "success": fmean(member.success for member in valid),
        "frac_reward_zero_std": 1 - alive,
        "groups/alive": alive,
        "groups/all_right": fmean(group.all_right for group in groups),
        "groups/all_fail": fmean(group.all_fail for group in groups),
        "completions/mean_length": fmean(len(turn.completion.ids) for turn in turns),
        "turns": len(turns) / len(valid),
        "tools/call_frequency": sum(len(turn.parsed.calls) for turn in turns) / len(valid),
        "tools/failure_frequency": sum(o.is_error for o in outcomes) / max(len(outcomes), 1),
        **counts,
        **_errors(valid),
    }


def fission_metrics(families: Sequence[Group], source: FissionSource, step: int) -> dict[str, float]:
    """The state of the fission source, and what its recoveries of this step were like."""
    ages = [step - family.context.policy_version for family in families if family.context]
    return {
        "buffer": float(len(source.buffer)),
        "contexts": float(len(families)),
        "age": fmean(ages) if ages else 0.0,
        "observed_total": float(source.count.observed),
        "unwritten_total": float(source.count.unwritten),
        "used_total": float(source.count.used),
        "duplicates_total": float(source.buffer.duplicates),
        "dropped_total": float(source.buffer.dropped),
        **group_metrics(families),
    }


def revived(groups: Sequence[Group], families: Sequence[Group]) -> int:
    """All-fail exploration groups of this step for which a fission family of this step holds a success."""
    failed = {group.id for group in groups if group.all_fail}
    rescued = {f.context.origin.group for f in families if f.context and any(member.success for member in f.members)}
    return len(failed & rescued)


def prefixed(prefix: str, metrics: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


def _spread(group: Group) -> float:
    rewards = [member.reward.total for member in group.members if member.reward]
    return pstdev(rewards) if rewards else 0.0


def _terms(members: Sequence[Member]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for member in members:
        for term in member.reward.terms if member.reward else ():
            values.setdefault(f"rewards/{term.name}", []).append(term.value)
    return {name: fmean(value) for name, value in sorted(values.items())}


def _errors(members: Sequence[Member]) -> dict[str, float]:
    """Share of trajectories whose first failure is of each class."""
    classes = Counter(m.failure.error.value for m in members if m.failure is not None and m.failure.error is not None)
    return {f"errors/{name}": count / len(members) for name, count in sorted(classes.items())}
