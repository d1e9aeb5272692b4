"""Our metrics beside TRL's, over all processes. Where both have a name, it means exploration, as in `metrics.jsonl`."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from math import isnan
from statistics import fmean, stdev
from typing import Any, TypeAlias

from accelerate.utils import gather_object
from torch import Tensor

from fission_grpo.algorithm.groups import Group
from fission_grpo.algorithm.source import FissionSource
from fission_grpo.engines.trl.rows import by_name
from fission_grpo.run.metrics import fission_metrics, group_metrics, prefixed, rescued_groups
from fission_grpo.types import EndReason

Lengths: TypeAlias = list[tuple[int, bool]]
"""Sampled tokens of a trajectory, and whether it was cut off."""


def step_metrics(
    groups: Sequence[Group], fission_groups: Sequence[Group], source: FissionSource, step: int
) -> dict[str, float]:
    """Of one process, by the names of `metrics.jsonl`."""
    return {
        **group_metrics(groups),
        **prefixed("fission", fission_metrics(fission_groups, source, step)),
        "fission/revived": float(rescued_groups(groups, fission_groups)),
        **source.simulator_metrics(),
    }


def lengths_of(groups: Sequence[Group]) -> Lengths:
    """Of the valid trajectories."""
    trajectories = [member.trajectory for group in groups for member in group.members if member.trajectory.valid]
    return [(sum(one.sampled), one.end is EndReason.LENGTH) for one in trajectories]


def length_metrics(lengths: Lengths) -> dict[str, float]:
    """By TRL's names; empty without a trajectory."""
    if not lengths:
        return {}
    ended = [tokens for tokens, cut in lengths if not cut] or [0]
    every = [tokens for tokens, _ in lengths]
    return {
        "completions/mean_length": fmean(every),
        "completions/min_length": float(min(every)),
        "completions/max_length": float(max(every)),
        "completions/clipped_ratio": fmean(cut for _, cut in lengths),
        "completions/mean_terminated_length": fmean(ended),
        "completions/min_terminated_length": float(min(ended)),
        "completions/max_terminated_length": float(max(ended)),
    }


def averaged(processes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over those processes that have a number."""
    values: dict[str, list[float]] = defaultdict(list)
    for metrics in processes:
        for name, value in metrics.items():
            values[name].append(value)
    return {name: fmean(found) for name, found in sorted(values.items())}


class StepLog:
    """What TRL has written of a batch, made to mean what it says: its rows hold recoveries, and some weigh nothing."""

    def __init__(self, trainer: Any, *, rows: int) -> None:
        """Make room for the rows of a step in the table of completions.

        Args:
            rows: of all processes.
        """
        self._trainer = trainer
        self._before: dict[str, int] = {}
        for name, kept in trainer._logs.items():
            by_column = isinstance(kept, defaultdict)
            trainer._logs[name] = defaultdict(lambda: deque(maxlen=rows)) if by_column else deque(maxlen=rows)

    def begin(self, mode: str, extras: Sequence[Mapping[str, Any]], *, rows: int) -> None:
        """TRL is about to write.

        Args:
            extras: what reward functions noted, by column, of each trajectory in order.
            rows: of this process.
        """
        self._before = {name: len(values) for name, values in self._trainer._metrics[mode].items()}
        for column in sorted({column for extra in extras for column in extra}):
            values = [extra.get(column) for extra in extras]
            self._trainer._pending_extra_logs[column] = values + [None] * (rows - len(values))

    def end(self, mode: str, metrics: Mapping[str, float], groups: Sequence[Group], advantages: Tensor) -> None:
        """Put ours beside what TRL has written, and in its place where it is of the same name.

        Args:
            metrics: of this process.
            groups: exploration of this process.
            advantages: of all processes, [rows].
        """
        names = self._trainer.reward_func_names
        processes = gather_object([(dict(metrics), lengths_of(groups), rewards_of(groups, names))])
        lengths = [length for _, found, _ in processes for length in found]
        rewards = [reward for _, _, found in processes for reward in found]
        ours = averaged([found for found, _, _ in processes])
        for name, value in {**ours, **length_metrics(lengths), **reward_metrics(rewards)}.items():
            values = self._trainer._metrics[mode][name]
            del values[self._before.get(name, 0) :]
            values.append(value)
        self._trainer._logs["advantages"].clear()
        self._trainer._logs["advantages"].extend(advantages.tolist())


def rewards_of(groups: Sequence[Group], names: Sequence[str]) -> list[dict[str, float]]:
    """Of the trajectories that have one, by TRL's names of reward functions."""
    members = [member for group in groups for member in group.members if member.reward]
    found = [dict(zip(names, by_name(member, names), strict=True)) for member in members]
    return [{name: value for name, value in one.items() if not isnan(value)} for one in found]


def reward_metrics(rewards: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean and spread of each reward function, by TRL's names."""
    values: dict[str, list[float]] = defaultdict(list)
    for reward in rewards:
        for name, value in reward.items():
            values[name].append(value)
    means = {f"rewards/{name}/mean": fmean(found) for name, found in values.items()}
    return {**means, **{f"rewards/{name}/std": stdev(found) for name, found in values.items() if len(found) > 1}}
