"""Two arms on the same tasks: the difference, its interval, and which tasks changed sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fission_grpo.evaluation.metrics import Metric
from fission_grpo.evaluation.records import EpisodeRecord
from fission_grpo.evaluation.statistics import Counts, Interval, Rate, paired_difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way of training (or none), evaluated on one set of tasks."""

    name: str
    runs: Mapping[int, tuple[EpisodeRecord, ...]]
    """Episodes by training seed; a warm start has one run."""

    @property
    def records(self) -> tuple[EpisodeRecord, ...]:
        """All runs, pooled."""
        return tuple(record for run in self.runs.values() for record in run)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One metric, treatment against baseline."""

    metric: Metric
    baseline: str
    treatment: str
    baseline_rate: Rate
    treatment_rate: Rate
    difference: float
    """Treatment minus baseline, in [-1, 1]."""
    interval: Interval
    """95 %, two-factor bootstrap over tasks and training seeds."""
    p_value: float | None
    """Exact two-sided sign test, newly fixed against newly broken tasks (McNemar's, with one run an arm); None where
    the arms have different numbers of runs."""
    fixed: tuple[str, ...]
    """Tasks whose share of right runs rises by at least half."""
    broken: tuple[str, ...]
    """Tasks whose share of right runs falls by at least half."""
    comparable: int
    """Tasks that both arms counted: fewer than `tasks` where the denominator moves."""
    seed_differences: Mapping[int, float]
    """The difference in each seed that both arms have; empty when seeds do not pair."""
    tasks: int
    """Tasks compared."""
    excluded: int
    """Tasks left out because a run of either arm met a harness fault on them."""
    runs: tuple[int, int]
    """Training runs of baseline and treatment."""
    undefined: int
    """Bootstrap resamples in which a denominator was empty."""

    @property
    def coverage_note(self) -> str:
        """What the interval does and does not speak about."""
        fewest = min(self.runs)
        if max(self.runs) == 1:
            return "The interval covers the drawing of tasks; with one run an arm it says nothing of training noise."
        if fewest == 1:
            return "The interval covers the drawing of tasks and the runs of the arm that has several."
        return (
            f"The interval covers the drawing of tasks and training noise, the latter from {fewest} runs: cautious "
            "where runs agree, too narrow where they differ by far more than tasks explain."
        )


def _by_task(arm: Arm) -> dict[int, dict[str, EpisodeRecord]]:
    runs = {seed: {record.task: record for record in run} for seed, run in arm.runs.items()}
    for seed, run in arm.runs.items():
        if len(runs[seed]) != len(run):
            raise ValueError(
                f"arm {arm.name}, seed {seed}: got {len(run)} episodes of {len(runs[seed])} tasks; expected one each"
            )
    return runs


def _shared_tasks(arms: tuple[Arm, Arm]) -> tuple[str, ...]:
    """The tasks of every run.

    Raises:
        ValueError: no run at all, or runs that differ in their tasks.
    """
    runs = [(arm.name, seed, run.keys()) for arm in arms for seed, run in _by_task(arm).items()]
    if len({name for name, _, _ in runs}) < len({arm.name for arm in arms}):
        raise ValueError("an arm has no run; expected at least one")
    expected = runs[0][2]
    for name, seed, tasks in runs:
        if tasks != expected:
            raise ValueError(
                f"arm {name}, seed {seed}: {len(tasks ^ expected)} tasks are not shared; expected one set in all runs"
            )
    return tuple(sorted(expected))


def _faulty(arm: Arm) -> Iterator[str]:
    return (record.task for record in arm.records if record.harness_fault)


def _counts(arm: Arm, seeds: tuple[int, ...], tasks: tuple[str, ...], metric: Metric) -> Counts:
    runs = _by_task(arm)
    rates = [[metric.count(runs[seed][task]) for task in tasks] for seed in seeds]
    return Counts(
        successes=np.array([[rate.successes for rate in row] for row in rates], dtype=np.int64),
        totals=np.array([[rate.total for rate in row] for row in rates], dtype=np.int64),
    )


def compare(metric: Metric, baseline: Arm, treatment: Arm, *, resamples: int = 10_000, seed: int = 0) -> Comparison:
    """Treatment minus baseline on the same tasks; runs are paired when both arms have the same training seeds.

    Raises:
        ValueError: the runs do not hold the same tasks, each once, or a fault spoiled every task in some run.
    """
    shared = _shared_tasks((baseline, treatment))
    faulty = {*_faulty(baseline), *_faulty(treatment)}
    tasks = tuple(task for task in shared if task not in faulty)
    if not tasks:
        raise ValueError(f"{len(faulty)} of {len(shared)} tasks met a harness fault; expected at least one without")
    seeds = (tuple(sorted(baseline.runs)), tuple(sorted(treatment.runs)))
    before, after = (_counts(arm, own, tasks, metric) for arm, own in zip((baseline, treatment), seeds, strict=True))
    paired = seeds[0] == seeds[1]
    outcome = paired_difference(before, after, paired_seeds=paired, resamples=resamples, seed=seed)
    per_seed = zip(seeds[0], before.seed_rates, after.seed_rates, strict=False) if paired else ()
    return Comparison(
        metric=metric,
        baseline=baseline.name,
        treatment=treatment.name,
        baseline_rate=before.rate,
        treatment_rate=after.rate,
        difference=outcome.value,
        interval=outcome.interval,
        p_value=outcome.p_value,
        comparable=outcome.comparable,
        fixed=tuple(np.array(tasks)[outcome.fixed].tolist()),
        broken=tuple(np.array(tasks)[outcome.broken].tolist()),
        seed_differences={run: late.value - early.value for run, early, late in per_seed},
        tasks=len(tasks),
        excluded=len(shared) - len(tasks),
        runs=(before.seeds, after.seeds),
        undefined=outcome.undefined,
    )
