"""How far training runs of one arm lie apart: a table and a picture of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypeAlias

from fission_grpo.evaluation.metrics import ERR, FINAL, FIRST_ATTEMPT, PROBE, Metric, measure
from fission_grpo.evaluation.paired import EvaluatedArm
from fission_grpo.report.style import INK, QUIET, house_style, new_figure, save
from fission_grpo.report.tables import Costs, markdown_table

RunValues: TypeAlias = Mapping[str, Mapping[str, Sequence[float]]]
"""By title of the metric and by arm: its value in each run, a share; runs that count nothing are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Of the runs of one arm, in points."""

    mean: float
    deviation: float
    """Sample standard deviation (n - 1); NaN for a single run."""
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, shares: Sequence[float]) -> Spread:
        """NaN without runs."""
        values = [100 * share for share in shares]
        if not values:
            return cls(mean=math.nan, deviation=math.nan, low=math.nan, high=math.nan, runs=0)
        deviation = stdev(values) if len(values) > 1 else math.nan
        return cls(mean=fmean(values), deviation=deviation, low=min(values), high=max(values), runs=len(values))

    def __str__(self) -> str:
        if self.runs < 2:
            return f"{self.mean:.1f} (one run)" if self.runs else "-"
        return f"{self.mean:.1f} ± {self.deviation:.1f} [{self.low:.1f}, {self.high:.1f}]"


def run_values(arms: Sequence[EvaluatedArm], probes: Mapping[str, Sequence[EvaluatedArm]]) -> RunValues:
    """The headline metrics of every single run; no mean over tools, of which each run meets others.

    Args:
        arms: on the held-out episodes.
        probes: the same arms on `mixed` and `precondition`.
    """
    return {
        **{metric.title: _values(metric, arms) for metric in (FIRST_ATTEMPT, FINAL, ERR)},
        PROBE.title: _values(PROBE, probes["mixed"]),
        "Precondition: next call right": _values(PROBE, probes["precondition"]),
    }


def _values(metric: Metric, arms: Sequence[EvaluatedArm]) -> dict[str, list[float]]:
    rates = {arm.name: [measure(metric, run) for run in arm.runs.values()] for arm in arms}
    return {name: [rate.value for rate in found if rate.total] for name, found in rates.items()}


def spread_table(values: RunValues, *, costs: Costs) -> str:
    """Mean over runs, standard deviation between them, lowest and highest run: an arm a row, in points."""
    arms = next(iter(values.values()))
    rows = [[arm, costs.get(arm, "-"), *(str(Spread.of(by_arm[arm])) for by_arm in values.values())] for arm in arms]
    return markdown_table(["Mean ± SD of runs [lowest, highest]", "spent by a run", *values], rows)


def runs_figure(values: RunValues, path: Path, *, colours: Mapping[str, str]) -> Path:
    """One panel a metric, one row an arm, one dot a run; the stroke is the mean of the runs."""
    arms = list(next(iter(values.values())))
    columns = math.ceil(len(values) / 2)
    with house_style():
        figure = new_figure(2.0 + 2.6 * columns, 1.4 + 2 * (0.75 + 0.26 * len(arms)))
        panels = figure.subplots(2, columns, squeeze=False, sharey=True).ravel()
        for panel, (title, by_arm) in zip(panels, values.items(), strict=False):
            _runs_panel(panel, title, by_arm, colours)
        for panel in panels[len(values) :]:
            panel.set_visible(False)
        panels[0].set_yticks(range(len(arms)), arms)
        panels[0].set_ylim(len(arms) - 0.45, -0.55)
        figure.text(0.012, 0.02, "A dot: one training run. The stroke: their mean.", fontsize=7.5, color=QUIET)
        figure.tight_layout(rect=(0, 0.05, 1, 1), w_pad=1.6, h_pad=1.6)
        return save(figure, path)


def _runs_panel(panel: Any, title: str, by_arm: Mapping[str, Sequence[float]], colours: Mapping[str, str]) -> None:
    panel.set_title(title, pad=14)
    panel.text(0, 1.0, "%", transform=panel.transAxes, fontsize=7.5, color=QUIET, va="bottom")
    panel.set_xlim(-3, 103)
    panel.set_xticks(range(0, 101, 25))
    panel.xaxis.grid(visible=True)
    panel.tick_params(length=0, labelsize=8)
    panel.tick_params(axis="y", labelsize=9, labelcolor=INK)
    panel.spines["bottom"].set_visible(False)
    for place, (arm, shares) in enumerate(by_arm.items()):
        points = [100 * share for share in shares]
        panel.plot(
            points, [place] * len(points), linestyle="none", marker="o", markersize=5, color=colours[arm], alpha=0.7
        )
        if points:
            panel.plot([fmean(points)], [place], linestyle="none", marker="|", markersize=13, color=INK)
