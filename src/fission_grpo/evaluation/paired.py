"""Two runs of one evaluation, entry by entry: the difference, its interval, its p-value, and what changed sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fission_grpo.errors import DataError
from fission_grpo.evaluation.clusters import (
    Estimate,
    PairedChange,
    clusters_of,
    count_clusters,
    estimate,
    one_stratum,
    paired_change,
)
from fission_grpo.evaluation.metrics import Metric
from fission_grpo.evaluation.records import EpisodeRecord
from fission_grpo.evaluation.statistics import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """One metric, treatment against baseline, on the same entries."""

    metric: Metric
    title: str
    before: Estimate
    after: Estimate
    change: PairedChange
    fixed: tuple[str, ...]
    """Entries that both runs counted and whose share rises by at least half: from wrong to right."""
    broken: tuple[str, ...]
    """The opposite."""

    @property
    def difference(self) -> float:
        """Treatment minus baseline, in [-1, 1]; NaN where one of them counted nothing."""
        return self.change.value

    @property
    def interval(self) -> Interval:
        return self.change.interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """The entries that two runs can be compared on, and every entry that they cannot."""

    before: tuple[EpisodeRecord, ...]
    after: tuple[EpisodeRecord, ...]
    """Entry k of both is the same entry."""
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    faulty: tuple[str, ...]
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


def pair_of(record: EpisodeRecord) -> str:
    """What makes two records the same entry: the task, unless its `meta` says what it is to be paired by."""
    return str(record.meta.get("pair", record.task))


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
    """Compare one metric on paired entries; see `clusters` for the interval and the test.

    Args:
        title: the metric's own, unless given.
        stratum: the metric is the unweighted mean over its values (`category_of`: the official overall accuracy).
    """
    clusters, strata = clusters_of(paired.before), sorted(set(map(stratum, paired.before)))
    before, after = (
        count_clusters(metric, records, clusters=clusters, strata=strata, stratum=stratum)
        for records in (paired.before, paired.after)
    )
    moved = dict(_moves(metric, paired))
    return Contrast(
        metric=metric,
        title=title or metric.title,
        before=estimate(metric, paired.before, stratum=stratum, seed=seed),
        after=estimate(metric, paired.after, stratum=stratum, seed=seed),
        change=paired_change(before, after, seed=seed),
        fixed=tuple(name for name, change in moved.items() if change >= 0.5),
        broken=tuple(name for name, change in moved.items() if change <= -0.5),
    )


def _moves(metric: Metric, paired: Paired) -> list[tuple[str, float]]:
    """The change of each entry that both runs counted."""
    counts = [(pair_of(a), metric.count(a), metric.count(b)) for a, b in zip(paired.before, paired.after, strict=True)]
    return [(name, late.value - early.value) for name, early, late in counts if early.total and late.total]


def _by_entry(records: Sequence[EpisodeRecord]) -> Mapping[str, EpisodeRecord]:
    entries = {pair_of(record): record for record in records}
    if len(entries) != len(records):
        doubled = sorted(name for name, times in Counter(map(pair_of, records)).items() if times > 1)
        raise DataError("records", [f"{name}: found more than once; expected one episode an entry" for name in doubled])
    return entries
