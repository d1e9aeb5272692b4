"""Counts with intervals, and two arms on the same items; numbers in, numbers out.

Shapes: R resamples, S training seeds, I items (tasks).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.floating[Any]]

_Z = 1.959963984540054
"""97.5 % point of the normal distribution: two-sided 95 %."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def wilson(successes: int, total: int) -> Interval:
    """Wilson's score interval for one proportion, 95 %; [0, 1] when nothing was counted.

    Assumes independent trials: pooled over seeds, where the same items repeat, it is somewhat too narrow.
    """
    if total == 0:
        return Interval(0.0, 1.0)
    share, slack = successes / total, _Z**2 / total
    centre = (share + slack / 2) / (1 + slack)
    half = math.sqrt(share * (1 - share) * slack + slack**2 / 4) / (1 + slack)
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


@dataclass(frozen=True, slots=True)
class Rate:
    """A share that never forgets what it was counted over; rates of disjoint sets add up."""

    successes: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.total:
            raise ValueError(f"got {self.successes} of {self.total}; expected 0 <= successes <= total")

    @classmethod
    def of(cls, success: bool, *, given: bool = True) -> Rate:
        """One trial; none at all unless `given`."""
        return cls(int(success and given), int(given))

    def __add__(self, other: Rate) -> Rate:
        return Rate(self.successes + other.successes, self.total + other.total)

    @property
    def value(self) -> float:
        """In [0, 1]; NaN when nothing was counted."""
        return self.successes / self.total if self.total else math.nan

    @property
    def interval(self) -> Interval:
        return wilson(self.successes, self.total)

    def __str__(self) -> str:
        if not self.total:
            return "- (0/0)"
        low, high = 100 * self.interval.low, 100 * self.interval.high
        return f"{100 * self.value:.1f} % [{low:.1f}, {high:.1f}] ({self.successes}/{self.total})"


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean with Student's 95 % interval, for counts that are no shares (steps, calls)."""

    value: float
    interval: Interval
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """NaN without values; an unbounded interval for a single one."""
        if len(values) < 2:
            return cls(values[0] if values else math.nan, Interval(-math.inf, math.inf), len(values))
        centre = float(np.mean(values))
        half = float(stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(len(values)))
        return cls(centre, Interval(centre - half, centre + half), len(values))

    def __str__(self) -> str:
        if self.count < 2:
            return f"{self.value:.2f} (n={self.count})" if self.count else "- (n=0)"
        return f"{self.value:.2f} [{self.interval.low:.2f}, {self.interval.high:.2f}] (n={self.count})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """One metric of one arm, item by item: the metric is sum(successes) / sum(totals).

    A plain share has totals of 1; a ratio with a moving denominator, such as the error recovery rate, has zeros where
    the item was not counted. Both are compared by the same arithmetic.
    """

    successes: Ints
    """Shape [S, I]."""
    totals: Ints
    """Shape [S, I]."""

    def __post_init__(self) -> None:
        if self.successes.shape != self.totals.shape or self.successes.ndim != 2:
            raise ValueError(f"got {self.successes.shape} and {self.totals.shape}; expected one shape [S, I]")

    @property
    def seeds(self) -> int:
        return int(self.totals.shape[0])

    @property
    def items(self) -> int:
        return int(self.totals.shape[1])

    @property
    def rate(self) -> Rate:
        return Rate(int(self.successes.sum()), int(self.totals.sum()))

    @property
    def seed_rates(self) -> tuple[Rate, ...]:
        return tuple(map(Rate, self.successes.sum(1).tolist(), self.totals.sum(1).tolist()))

    def _item_shares(self) -> Floats:
        """Share of each item over its seeds; NaN where it was never counted. Shape [I]."""
        totals_I = self.totals.sum(0)
        return np.where(totals_I > 0, self.successes.sum(0) / np.maximum(totals_I, 1), np.nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Treatment minus baseline, in [-1, 1]."""

    value: float
    interval: Interval
    fixed: npt.NDArray[np.bool_]
    """Items whose share of right runs rises by at least half: from wrong to right, with one run. Shape [I]."""
    broken: npt.NDArray[np.bool_]
    """The opposite. Shape [I]."""
    comparable: int
    """Items that both arms counted; all of them, unless the denominator moves."""
    p_value: float | None
    """Exact two-sided sign test of fixed against broken items; None where the arms differ in their number of seeds:
    they could then not be swapped under the null hypothesis, and the test would be wrong."""
    undefined: int
    """Resamples in which a denominator was empty; the interval leaves them out."""


def sign_test(fixed: int, broken: int) -> float:
    """Exact two-sided p-value that `fixed` and `broken` are equally likely; with one seed, McNemar's exact test.

    The unit is the item, whatever the number of seeds, because the runs of one item are not independent.
    """
    discordant = fixed + broken
    tail = sum(math.comb(discordant, k) for k in range(min(fixed, broken) + 1))
    return min(1.0, float(2 * tail / 2**discordant))


def _draws(rng: np.random.Generator, resamples: int, units: int, size: int) -> npt.NDArray[np.float32]:
    """How often each of `units` was drawn in each resample of `size`, with replacement. Shape [R, units]."""
    drawn = rng.integers(units, size=(resamples, size)) + units * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * units)
    return counts.reshape(resamples, units).astype(np.float32)


def _seed_draws(rng: np.random.Generator, resamples: int, seeds: int) -> npt.NDArray[np.float32]:
    """S - 1 of S seeds (Rao and Wu 1988): drawing S would understate their variance by (S - 1) / S."""
    return _draws(rng, resamples, seeds, max(seeds - 1, 1))


def _resampled_ratio(counts: Counts, seeds_RS: Floats, items_RI: Floats) -> Floats:
    """The metric in each resample; NaN where its denominator is empty. Shape [R]."""
    top_R, bottom_R = (
        ((items_RI @ array_SI.T.astype(np.float32)) * seeds_RS).sum(1) for array_SI in (counts.successes, counts.totals)
    )
    return np.where(bottom_R > 0, top_R / np.maximum(bottom_R, 1), np.nan)


def paired_difference(
    baseline: Counts, treatment: Counts, *, paired_seeds: bool, resamples: int = 10_000, seed: int = 0
) -> Difference:
    """Difference of two arms on the same items, with a two-factor bootstrap over items and training seeds.

    Items are resampled jointly for both arms; seeds jointly when `paired_seeds` (run k of both arms shares a seed),
    else for each arm alone. With one seed an arm, training noise is *not* in the interval. With a few it is, from few
    values: measured on 400 simulated experiments (3 seeds, 300 items), the interval held the truth in 99.8, 99.2, 96.0
    and 89.8 % when training noise moved the difference by 0, 2, 4 and 8 points (standard deviation). So it is
    cautious where seeds agree, and too narrow where they differ wildly.

    Raises:
        ValueError: the arms do not have the same items, or claim paired seeds in different numbers.
    """
    if baseline.items != treatment.items or (paired_seeds and baseline.seeds != treatment.seeds):
        raise ValueError(f"got {baseline.totals.shape} and {treatment.totals.shape} [S, I]; expected them to pair")
    rng = np.random.default_rng(seed)
    items_RI = _draws(rng, resamples, baseline.items, baseline.items)
    seeds_RS = _seed_draws(rng, resamples, baseline.seeds)
    other_RS = seeds_RS if paired_seeds else _seed_draws(rng, resamples, treatment.seeds)
    difference_R = _resampled_ratio(treatment, other_RS, items_RI) - _resampled_ratio(baseline, seeds_RS, items_RI)
    defined_R = difference_R[np.isfinite(difference_R)]
    low, high = np.quantile(defined_R, [0.025, 0.975]) if defined_R.size else (-1.0, 1.0)
    change_I = treatment._item_shares() - baseline._item_shares()
    fixed_I, broken_I = change_I >= 0.5, change_I <= -0.5
    exchangeable = baseline.seeds == treatment.seeds
    return Difference(
        value=treatment.rate.value - baseline.rate.value,
        interval=Interval(float(low), float(high)),
        fixed=fixed_I,
        broken=broken_I,
        comparable=int(np.isfinite(change_I).sum()),
        p_value=sign_test(int(fixed_I.sum()), int(broken_I.sum())) if exchangeable else None,
        undefined=resamples - int(defined_R.size),
    )
