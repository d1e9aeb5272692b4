"""What one step is remembered by: a flat row of numbers for `metrics.jsonl`.

Names follow TRL's where TRL has one (`reward`, `reward_std`, `frac_reward_zero_std`, `tools/...`, `completions/...`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean, pstdev

from fission_grpo.algorithm.groups import Group, Member
from fission_grpo.algorithm.source import FissionSource
from fission_grpo.types import Turn


def group_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Rewards by term, signal, success, errors and lengths of one kind of groups; empty where there are none.

    Where faults of ours made every trajectory invalid, their number is all there is to tell. `first_error` is the share
    of trajectories whose first message errs: it rises if the policy comes to err because recovery pays.
    `first_attempt` is the share that succeed without any error, as in the evaluation.
    """
    members = [member for group in groups for member in group.members]
    valid = [member for member in members if member.reward is not None]
    counts = {"rollouts": float(len(members)), "masked": float(len(members) - len(valid))} if members else {}
    if not valid:
        return counts
    turns = [turn for member in valid for turn in member.trajectory.turns]
    outcomes = [outcome for turn in turns for outcome in turn.outcomes]
    with_signal = fmean(group.has_signal for group in groups)
    return {
        "reward": fmean(member.reward.total for member in valid if member.reward),
        "reward_std": fmean(_spread(group) for group in groups),
        **_terms(valid),
        "success": fmean(member.success for member in valid),
        "first_attempt": fmean(member.success and not any(map(_erred, member.trajectory.turns)) for member in valid),
        "first_error": fmean(any(map(_erred, member.trajectory.turns[:1])) for member in valid),
        "frac_reward_zero_std": 1 - with_signal,
        "groups/alive": with_signal,
        "groups/all_right": fmean(group.all_right for group in groups),
        "groups/all_fail": fmean(group.all_fail for group in groups),
        "completions/mean_length": fmean(len(turn.completion.ids) for turn in turns),
        "turns": len(turns) / len(valid),
        "tools/call_frequency": sum(len(turn.parsed.calls) for turn in turns) / len(valid),
        "tools/failure_frequency": sum(o.is_error for o in outcomes) / max(len(outcomes), 1),
        **counts,
        **_errors(valid),
    }


def fission_metrics(fission_groups: Sequence[Group], source: FissionSource, step: int) -> dict[str, float]:
    """The state of the fission source, and what its recoveries of this step were like."""
    ages = [step - group.context.policy_version for group in fission_groups if group.context]
    return {
        "buffer": float(len(source.buffer)),
        "contexts": float(len(fission_groups)),
        "age": fmean(ages) if ages else 0.0,
        "observed_total": float(source.count.observed),
        "unwritten_total": float(source.count.unwritten),
        "used_total": float(source.count.used),
        "duplicates_total": float(source.buffer.duplicates),
        "dropped_total": float(source.buffer.dropped),
        **group_metrics(fission_groups),
    }


def rescued_groups(groups: Sequence[Group], fission_groups: Sequence[Group]) -> int:
    """How many all-fail exploration groups of this step have a fission group of this step that holds a success."""
    failed = {group.id for group in groups if group.all_fail}
    rescued = {
        group.context.parent.group
        for group in fission_groups
        if group.context and any(member.success for member in group.members)
    }
    return len(failed & rescued)


def prefixed(prefix: str, metrics: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


def _erred(turn: Turn) -> bool:
    """e(s) of the evaluation: a malformed message, or an explicit error among its outcomes."""
    return bool(turn.parsed.failures) or any(outcome.is_error for outcome in turn.outcomes)


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
