"""Intervals and tests where episodes come in clusters: the four BFCL categories share 200 scenarios.

Episodes of one scenario rise and fall together, so the scenario is what is drawn again (bootstrap) and what is swapped
between two runs (test), never the episode. Everything is seeded, and a function of its arguments.

Shapes: R resamples or swaps, K strata (categories, averaged without weights; 1 for a plain share), C clusters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fission_grpo.evaluation.metrics import Metric
from fission_grpo.evaluation.records import EpisodeRecord
from fission_grpo.evaluation.statistics import Floats, Interval, Rate, wilson

RESAMPLES = 10_000
SWAPS = 20_000
EXACT_CLUSTERS = 13
"""Up to so many clusters that differ, all 2^n swaps are tried."""
RESOLVABLE = 1.959963984540054 + 0.8416212335729143
"""Standard errors that a true difference must measure to be found with 80 % power at 5 %, two-sided."""
_TIE = 1e-9


def scenario_of(record: EpisodeRecord) -> str:
    """The cluster of an episode: its scenario, or the task itself where tasks share nothing."""
    return str(record.meta.get("scenario", record.task))


def clusters_of(records: Iterable[EpisodeRecord]) -> list[str]:
    """The scenarios of some records, in order."""
    return sorted(set(map(scenario_of, records)))


def category_of(record: EpisodeRecord) -> str:
    """The stratum of an episode of BFCL; empty elsewhere."""
    return str(record.meta.get("category", ""))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share with its count and an interval by clusters."""

    successes: int
    total: int
    value: float
    """In [0, 1]: the share, or the mean of the strata's shares; NaN when nothing was counted."""
    interval: Interval

    def __str__(self) -> str:
        if not self.total:
            return "- (0/0)"
        low, high = 100 * self.interval.low, 100 * self.interval.high
        return f"{100 * self.value:.1f} % [{low:.1f}, {high:.1f}] ({self.successes}/{self.total})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterCounts:
    """One metric of one run, added up by stratum and cluster."""

    successes: npt.NDArray[np.float32]
    """Whole numbers, shape [K, C]."""
    totals: npt.NDArray[np.float32]
    """Whole numbers, shape [K, C]."""

    def __post_init__(self) -> None:
        if self.successes.shape != self.totals.shape or self.successes.ndim != 2:
            raise ValueError(f"got {self.successes.shape} and {self.totals.shape}; expected one shape [K, C]")

    @property
    def value(self) -> float:
        return float(_value(self.successes.sum(1)[None], self.totals.sum(1)[None])[0])

    @property
    def clusters(self) -> int:
        """Those in which something was counted."""
        return int((self.totals.sum(0) > 0).sum())

    def resampled(self, draws_RC: Floats) -> Floats:
        """The value in each resample; NaN where a stratum has nothing to count. Shape [R]."""
        return _value(draws_RC @ self.successes.T, draws_RC @ self.totals.T)


def count_clusters(
    metric: Metric,
    records: Sequence[EpisodeRecord],
    *,
    clusters: Sequence[str],
    strata: Sequence[str],
    stratum: Callable[[EpisodeRecord], str],
) -> ClusterCounts:
    """Add a metric up. Records with a harness fault count nowhere.

    Args:
        clusters, strata: columns and rows; every record's must be among them.
        stratum: of a record.
    """
    column = {name: place for place, name in enumerate(clusters)}
    row = {name: place for place, name in enumerate(strata)}
    counts = np.zeros((2, len(strata), len(clusters)), dtype=np.float32)
    for record in records:
        if not record.harness_fault:
            rate = metric.count(record)
            counts[:, row[stratum(record)], column[scenario_of(record)]] += (rate.successes, rate.total)
    return ClusterCounts(successes=counts[0], totals=counts[1])


def one_stratum(record: EpisodeRecord) -> str:
    """All episodes together."""
    return ""


def estimate(
    metric: Metric,
    records: Iterable[EpisodeRecord],
    *,
    stratum: Callable[[EpisodeRecord], str] = one_stratum,
    clusters: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """The metric with a 95 % percentile interval, scenarios drawn again.

    Where all agree the bootstrap has nothing to vary; the interval is then Wilson's, with the clusters as trials.

    Args:
        stratum: the value is the unweighted mean over its values (`category_of` for the official overall accuracy).
        clusters: all that there are, where `records` is a choice among many; those of the records, unless given.
    """
    sound = [record for record in records if not record.harness_fault]
    clusters, strata = clusters or clusters_of(sound), sorted(set(map(stratum, sound)))
    counts = count_clusters(metric, sound, clusters=clusters, strata=strata, stratum=stratum)
    rate = Rate(int(counts.successes.sum()), int(counts.totals.sum()))
    return Estimate(rate.successes, rate.total, counts.value, interval_of(counts, resamples=resamples, seed=seed))


def interval_of(counts: ClusterCounts, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """95 % percentile bootstrap over clusters; [0, 1] when nothing was counted."""
    if math.isnan(counts.value):
        return Interval(0.0, 1.0)
    values_R = counts.resampled(cluster_draws(counts.totals.shape[1], resamples, seed))
    low, high = np.nanquantile(values_R, [0.025, 0.975])
    if high - low < _TIE:
        return wilson(round(counts.value * counts.clusters), counts.clusters)
    return Interval(float(low), float(high))


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedChange:
    """Treatment minus baseline on the same entries."""

    value: float
    interval: Interval
    p_value: float | None
    """None where nothing was counted in one of the runs."""
    resolvable: float | None
    """The smallest true difference that entries with this paired variance find with 80 % power at 5 %, two-sided; None
    where the runs never differ, so that nothing is known of the variance."""


def paired_change(
    before: ClusterCounts, after: ClusterCounts, *, resamples: int = RESAMPLES, seed: int = 0
) -> PairedChange:
    """Clusters are drawn again for both runs together; the test swaps the runs cluster by cluster.

    Raises:
        ValueError: the runs are not counted over the same strata and clusters.
    """
    if before.totals.shape != after.totals.shape:
        raise ValueError(f"got {before.totals.shape} and {after.totals.shape} [K, C]; expected the same clusters")
    value = after.value - before.value
    if math.isnan(value):
        return PairedChange(value=value, interval=Interval(-1.0, 1.0), p_value=None, resolvable=None)
    draws_RC = cluster_draws(before.totals.shape[1], resamples, seed)
    change_R = after.resampled(draws_RC) - before.resampled(draws_RC)
    low, high = np.nanquantile(change_R, [0.025, 0.975])
    spread = float(np.nanstd(change_R))
    return PairedChange(
        value=value,
        interval=Interval(float(low), float(high)),
        p_value=swap_test(before, after, seed=seed),
        resolvable=RESOLVABLE * spread if spread > _TIE else None,
    )


def swap_test(before: ClusterCounts, after: ClusterCounts, *, swaps: int = SWAPS, seed: int = 0) -> float:
    """Two-sided p-value of the difference if, within each cluster, the two runs could as well be swapped.

    All swaps of the clusters that differ are tried up to `EXACT_CLUSTERS` of them; beyond, `swaps` random ones, and
    the observed one is counted among them. With one entry a cluster it is McNemar's exact test. A swap that leaves a
    denominator empty counts as extreme: the test errs on the careful side.
    """
    moves_KC = np.stack([after.successes - before.successes, after.totals - before.totals])
    differ_C = np.flatnonzero(np.abs(moves_KC).sum((0, 1)))
    exact = len(differ_C) <= EXACT_CLUSTERS
    swap_RC = _all_swaps(len(differ_C)) if exact else _random_swaps(len(differ_C), swaps, seed)
    top_RK, bottom_RK = (swap_RC @ moves_C.T for moves_C in moves_KC[:, :, differ_C])
    late_R = _value(after.successes.sum(1) - top_RK, after.totals.sum(1) - bottom_RK)
    early_R = _value(before.successes.sum(1) + top_RK, before.totals.sum(1) + bottom_RK)
    observed = abs(after.value - before.value)
    extreme = int((~(np.abs(late_R - early_R) < observed - _TIE)).sum())
    return extreme / len(swap_RC) if exact else (1 + extreme) / (1 + len(swap_RC))


def _value(successes_RK: Floats, totals_RK: Floats) -> Floats:
    """Mean over the strata of the shares; NaN where a stratum has nothing to count. Shape [R]."""
    if not totals_RK.shape[1]:
        return np.full(len(totals_RK), np.nan)
    shares_RK = np.full(totals_RK.shape, np.nan)
    np.divide(successes_RK, totals_RK, out=shares_RK, where=totals_RK > 0)
    means_R: Floats = shares_RK.mean(1)
    return means_R


@lru_cache(maxsize=4)
def cluster_draws(clusters: int, resamples: int, seed: int) -> npt.NDArray[np.float32]:
    """How often each cluster is drawn in each resample, with replacement. Shape [R, C]; shared, so it is read-only."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(clusters, size=(resamples, clusters)) + clusters * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * clusters)
    draws_RC = counts.reshape(resamples, clusters).astype(np.float32)
    draws_RC.setflags(write=False)
    return draws_RC


def _all_swaps(clusters: int) -> npt.NDArray[np.float32]:
    """Every row of zeros and ones. Shape [2^C, C]."""
    return (np.arange(2**clusters)[:, None] >> np.arange(clusters) & 1).astype(np.float32)


@lru_cache(maxsize=2)
def _random_swaps(clusters: int, swaps: int, seed: int) -> npt.NDArray[np.float32]:
    """Random rows of zeros and ones. Shape [R, C]."""
    return np.random.default_rng(seed).integers(2, size=(swaps, clusters)).astype(np.float32)
