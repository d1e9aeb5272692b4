"""What is compared: two arms task by task over their training seeds, or two runs of a benchmark entry by entry.

Both comparisons give the difference, its interval, a p-value and what changed sides; `statistics` has the numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from fission_grpo.errors import DataError
from fission_grpo.evaluation.metrics import Macro, Metric, Quantity
from fission_grpo.evaluation.records import EpisodeRecord
from fission_grpo.evaluation.statistics import (
    Change,
    Counts,
    Difference,
    Estimate,
    Interval,
    PairedChange,
    Rate,
    Share,
    interval_of,
    macro_estimate,
    mean_share,
    paired_change,
    paired_difference,
    paired_macro_difference,
)

_Slice = TypeVar("_Slice", bound=str)
"""What is counted apart, by name: a tool, a class of errors."""
Cells: TypeAlias = Iterable[tuple[int, int, EpisodeRecord]]
"""Row and column of each record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One metric, treatment against baseline, on the same tasks."""

    metric: Quantity
    before: Share
    """Of the baseline."""
    after: Share
    """Of the treatment."""
    change: Change
    fixed: tuple[str, ...]
    """Tasks that both counted and whose share of right runs rises by at least half; with one run: wrong to right."""
    broken: tuple[str, ...]
    """The opposite."""

    @property
    def title(self) -> str:
        return self.metric.title

    @property
    def difference(self) -> float:
        """Treatment minus baseline, in [-1, 1]; NaN where one of them counted nothing."""
        return self.change.value

    @property
    def interval(self) -> Interval:
        return self.change.interval

    @property
    def p_value(self) -> float | None:
        return self.change.p_value


# Arms: several training runs on one set of tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedArm:
    """One way of training (or none), evaluated on one set of tasks."""

    name: str
    runs: Mapping[int, tuple[EpisodeRecord, ...]]
    """Episodes by training seed; a warm start has one run."""

    @property
    def records(self) -> tuple[EpisodeRecord, ...]:
        """All runs, pooled."""
        return tuple(record for run in self.runs.values() for record in run)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Compared):
    """Two arms; the interval is a two-factor bootstrap over tasks and training seeds."""

    change: Difference
    baseline: str
    treatment: str
    seed_differences: Mapping[int, float]
    """The difference in each seed that both arms have; empty when seeds do not pair."""
    tasks: int
    """Tasks compared."""
    excluded: int
    """Tasks left out because a run of either arm met a harness fault on them."""
    runs: tuple[int, int]
    """Training runs of baseline and treatment."""

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


def compare_arms(metric: Metric, baseline: EvaluatedArm, treatment: EvaluatedArm) -> Comparison:
    """Treatment minus baseline on the same tasks; runs are paired when both arms have the same training seeds.

    Raises:
        ValueError: the runs do not hold the same tasks, each once, or every task met a harness fault in some run.
    """
    matched = _match(baseline, treatment)
    before, after = (_count_runs(metric, runs, matched.tasks) for runs in (matched.before, matched.after))
    change = paired_difference(before, after, paired_seeds=matched.paired)
    return _comparison(metric, matched, ([before], [after]), sides=(before.rate, after.rate), change=change)


def compare_macro(macro: Macro, baseline: EvaluatedArm, treatment: EvaluatedArm) -> Comparison:
    """`compare_arms` for an unweighted mean over slices; each side has an interval over runs and tasks, too.

    Raises:
        ValueError: as `compare_arms`, or the mean has no slice.
    """
    matched = _match(baseline, treatment)
    before, after = (_count_slices(macro, runs, matched.tasks) for runs in (matched.before, matched.after))
    change = paired_macro_difference(before, after, paired_seeds=matched.paired)
    sides = (macro_estimate(before), macro_estimate(after))
    return _comparison(macro, matched, (before, after), sides=sides, change=change)


def estimate_macro(macro: Macro, arm: EvaluatedArm) -> Estimate:
    """The mean over slices of one arm, with an interval over its runs and tasks.

    Raises:
        ValueError: the mean has no slice.
    """
    return macro_estimate(_slices_of(macro, *_sound_cells(arm)))


def estimate_arm(metric: Metric, arm: EvaluatedArm) -> Share:
    """A metric of one arm over all episodes without a harness fault, runs pooled; its interval as `estimate_slices`."""
    return estimate_slices(lambda record: {metric.name: metric.count(record)}, arm).get(metric.name, Rate(0, 0))


def estimate_slices(rates: Callable[[EpisodeRecord], Mapping[_Slice, Rate]], arm: EvaluatedArm) -> dict[_Slice, Share]:
    """Shares of one arm, by what is counted apart, with intervals over runs and tasks; of a single run Wilson's.

    Args:
        rates: the contributions of one episode; none, where it counts nowhere.
    """
    found = _count_each(rates, *_sound_cells(arm))
    return {key: macro_estimate([counts]) if counts.rows > 1 else counts.rate for key, counts in found.items()}


_Runs = Mapping[int, Mapping[str, EpisodeRecord]]
"""Records by training seed, in order, and task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Matched:
    """Two arms on the tasks that both played without a fault."""

    names: tuple[str, str]
    before: _Runs
    after: _Runs
    tasks: Sequence[str]
    excluded: int

    @property
    def paired(self) -> bool:
        """Both have the same training seeds."""
        return self.before.keys() == self.after.keys()


def _match(baseline: EvaluatedArm, treatment: EvaluatedArm) -> _Matched:
    early, late = _by_task(baseline), _by_task(treatment)
    shared = _shared_tasks((baseline.name, early), (treatment.name, late))
    faulty = {pair_of(record) for record in (*baseline.records, *treatment.records) if record.harness_fault}
    tasks = [task for task in shared if task not in faulty]
    if not tasks:
        raise ValueError(f"{len(faulty)} of {len(shared)} tasks met a harness fault; expected at least one without")
    return _Matched(
        names=(baseline.name, treatment.name),
        before=early,
        after=late,
        tasks=tasks,
        excluded=len(shared) - len(tasks),
    )


def _comparison(
    metric: Quantity,
    matched: _Matched,
    slices: tuple[Sequence[Counts], Sequence[Counts]],
    *,
    sides: tuple[Share, Share],
    change: Difference,
) -> Comparison:
    before, after = ([mean_share(rates) for rates in zip(*(c.row_rates for c in side), strict=True)] for side in slices)
    per_seed = zip(matched.before, before, after, strict=True) if matched.paired else ()
    tasks = np.array(matched.tasks)
    return Comparison(
        metric=metric,
        before=sides[0],
        after=sides[1],
        change=change,
        fixed=tuple(tasks[change.fixed].tolist()),
        broken=tuple(tasks[change.broken].tolist()),
        baseline=matched.names[0],
        treatment=matched.names[1],
        seed_differences={run: new - old for run, old, new in per_seed},
        tasks=len(matched.tasks),
        excluded=matched.excluded,
        runs=(len(before), len(after)),
    )


def _count_runs(metric: Metric, runs: _Runs, tasks: Sequence[str]) -> Counts:
    """Runs by tasks."""
    return _count(metric, _matched_cells(runs, tasks), (len(runs), len(tasks)))


def _count_slices(macro: Macro, runs: _Runs, tasks: Sequence[str]) -> list[Counts]:
    return _slices_of(macro, _matched_cells(runs, tasks), (len(runs), len(tasks)))


def _slices_of(macro: Macro, cells: Cells, shape: tuple[int, int]) -> list[Counts]:
    """In the order of the slices."""
    if not macro.slices:
        raise ValueError(f"{macro.title}: no slice has enough episodes; expected at least one")
    found = _count_each(macro.rates, cells, shape)
    return [found.get(name, _nothing(shape)) for name in macro.slices]


def _matched_cells(runs: _Runs, tasks: Sequence[str]) -> Iterator[tuple[int, int, EpisodeRecord]]:
    return ((row, column, run[task]) for row, run in enumerate(runs.values()) for column, task in enumerate(tasks))


def _sound_cells(arm: EvaluatedArm) -> tuple[Cells, tuple[int, int]]:
    """Runs by tasks, whatever tasks each run has, and their shape; records with a harness fault are left out."""
    column = {task: place for place, task in enumerate(sorted(set(map(pair_of, arm.records))))}
    runs = [run for _, run in sorted(arm.runs.items())]
    sound = ((row, record) for row, run in enumerate(runs) for record in run if not record.harness_fault)
    return ((row, column[pair_of(record)], record) for row, record in sound), (len(runs), len(column))


def _by_task(arm: EvaluatedArm) -> _Runs:
    if not arm.runs:
        raise ValueError(f"arm {arm.name} has no run; expected at least one")
    return {seed: _by_entry(run) for seed, run in sorted(arm.runs.items())}


def _shared_tasks(*arms: tuple[str, _Runs]) -> list[str]:
    """The tasks of every run, in order.

    Raises:
        ValueError: runs differ in their tasks.
    """
    found = [(name, seed, run.keys()) for name, runs in arms for seed, run in runs.items()]
    expected = found[0][2]
    for name, seed, tasks in found:
        if tasks != expected:
            raise ValueError(
                f"arm {name}, seed {seed}: {len(tasks ^ expected)} tasks are not shared; expected one set in all runs"
            )
    return sorted(expected)


def _count(metric: Metric, cells: Cells, shape: tuple[int, int]) -> Counts:
    """Add a metric up."""
    found = _count_each(lambda record: {metric.name: metric.count(record)}, cells, shape)
    return found.get(metric.name, _nothing(shape))


def _nothing(shape: tuple[int, int]) -> Counts:
    return Counts(successes=np.zeros(shape, dtype=np.int64), totals=np.zeros(shape, dtype=np.int64))


def _count_each(
    rates: Callable[[EpisodeRecord], Mapping[_Slice, Rate]], cells: Cells, shape: tuple[int, int]
) -> dict[_Slice, Counts]:
    """Add up what is counted apart; only what occurs."""
    found: dict[_Slice, npt.NDArray[np.int64]] = {}
    for row, column, record in cells:
        for key, rate in rates(record).items():
            if key not in found:
                found[key] = np.zeros((2, *shape), dtype=np.int64)
            found[key][:, row, column] += (rate.successes, rate.total)
    return {key: Counts(successes=counts[0], totals=counts[1]) for key, counts in found.items()}


# Runs of a benchmark: one episode an entry, in clusters


def scenario_of(record: EpisodeRecord) -> str:
    """The cluster of an episode: its scenario, or the task itself where tasks share nothing."""
    return str(record.meta.get("scenario", record.task))


def clusters_of(records: Iterable[EpisodeRecord]) -> list[str]:
    """The scenarios of some records, in order."""
    return sorted(set(map(scenario_of, records)))


def category_of(record: EpisodeRecord) -> str:
    """The stratum of an episode of BFCL; empty elsewhere."""
    return str(record.meta.get("category", ""))


def one_stratum(record: EpisodeRecord) -> str:
    """All episodes together."""
    return ""


def pair_of(record: EpisodeRecord) -> str:
    """What makes two records the same entry: the task, unless its `meta` says what it is to be paired by."""
    return str(record.meta.get("pair", record.task))


def estimate(
    metric: Metric,
    records: Iterable[EpisodeRecord],
    *,
    stratum: Callable[[EpisodeRecord], str] = one_stratum,
    clusters: Sequence[str] = (),
    seed: int = 0,
) -> Estimate:
    """The metric with a 95 % percentile interval, scenarios drawn again; records with a harness fault count nowhere.

    Args:
        stratum: the value is the unweighted mean over its values (`category_of` for the official overall accuracy).
        clusters: all that there are, where `records` is a choice among many; those of the records, unless given.
    """
    sound = [record for record in records if not record.harness_fault]
    return _estimate(_count_clusters(metric, sound, clusters=clusters or clusters_of(sound), stratum=stratum), seed)


def _estimate(counts: Counts, seed: int) -> Estimate:
    return Estimate(counts.rate.successes, counts.rate.total, counts.value, interval_of(counts, seed=seed))


def _count_clusters(
    metric: Metric,
    records: Sequence[EpisodeRecord],
    *,
    clusters: Sequence[str],
    stratum: Callable[[EpisodeRecord], str],
) -> Counts:
    """Strata by clusters, from records without a fault; every record's scenario must be among the clusters."""
    column = {name: place for place, name in enumerate(clusters)}
    row = {name: place for place, name in enumerate(sorted(set(map(stratum, records))))}
    cells = ((row[stratum(record)], column[scenario_of(record)], record) for record in records)
    return _count(metric, cells, (len(row), len(column)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast(Compared):
    """Two runs; the interval draws scenarios again."""

    change: PairedChange


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """The entries that two runs can be compared on, and every entry that they cannot."""

    before: tuple[EpisodeRecord, ...]
    after: tuple[EpisodeRecord, ...]
    """Entry k of both is the same entry."""
    only_before: tuple[str, ...] = ()
    only_after: tuple[str, ...] = ()
    faulty: tuple[str, ...] = ()
    """Both have them, but one met a harness fault."""

    @property
    def entries(self) -> int:
        return len(self.before)

    @property
    def scenarios(self) -> int:
        return len(clusters_of(self.before))

    @property
    def excluded(self) -> int:
        return len(self.only_before) + len(self.only_after) + len(self.faulty)


def pair(before: Sequence[EpisodeRecord], after: Sequence[EpisodeRecord]) -> Paired:
    """Match the entries of two runs, in the baseline's order.

    Raises:
        DataError: a run holds an entry twice.
    """
    early, late = _by_entry(before), _by_entry(after)
    shared = [name for name in early if name in late]
    faulty = [name for name in shared if early[name].harness_fault or late[name].harness_fault]
    sound = [name for name in shared if name not in set(faulty)]
    return Paired(
        before=tuple(early[name] for name in sound),
        after=tuple(late[name] for name in sound),
        only_before=tuple(name for name in early if name not in late),
        only_after=tuple(name for name in late if name not in early),
        faulty=tuple(faulty),
    )


def contrast(
    metric: Metric,
    paired: Paired,
    *,
    title: str | None = None,
    stratum: Callable[[EpisodeRecord], str] = one_stratum,
    seed: int = 0,
) -> Contrast:
    """Compare one metric on paired entries.

    Args:
        title: the metric's own, unless given.
        stratum: the metric is the unweighted mean over its values (`category_of`: the official overall accuracy).
    """
    clusters = clusters_of(paired.before)
    before, after = (
        _count_clusters(metric, records, clusters=clusters, stratum=stratum)
        for records in (paired.before, paired.after)
    )
    rates = [(pair_of(a), metric.count(a), metric.count(b)) for a, b in zip(paired.before, paired.after, strict=True)]
    moved = {name: late.value - early.value for name, early, late in rates if early.total and late.total}
    return Contrast(
        metric=replace(metric, title=title or metric.title),
        before=_estimate(before, seed),
        after=_estimate(after, seed),
        change=paired_change(before, after, seed=seed),
        fixed=tuple(name for name, change in moved.items() if change >= 0.5),
        broken=tuple(name for name, change in moved.items() if change <= -0.5),
    )


def _by_entry(records: Sequence[EpisodeRecord]) -> Mapping[str, EpisodeRecord]:
    entries = {pair_of(record): record for record in records}
    if len(entries) != len(records):
        doubled = sorted(name for name, times in Counter(map(pair_of, records)).items() if times > 1)
        raise DataError("records", [f"{name}: found more than once; expected one each" for name in doubled])
    return entries
