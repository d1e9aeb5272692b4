"""Pictures of results: rates with intervals, and training curves."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fission_grpo.evaluation.metrics import Better, Metric
from fission_grpo.evaluation.paired import EvaluatedArm, estimate_arm
from fission_grpo.evaluation.statistics import Share
from fission_grpo.files import read_jsonl
from fission_grpo.report.results import MetricsRows
from fission_grpo.report.style import BLUE, GREY, INK, QUIET, VERMILLION, house_style, new_figure, save
from fission_grpo.report.tables import ARM_INTERVALS

Series = npt.NDArray[np.float64]

LETTERS = 17
"""Of a caption, to an inch."""
WINDOW = 10
"""Steps of the trailing mean that every line of the training picture shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One panel of the training picture."""

    key: str
    """Key in `metrics.jsonl`."""
    title: str
    instead: str = ""
    """The key of runs that have no such `key`: whole dialogues have other terms of reward than single messages."""
    unit: str = ""
    share: bool = False
    """In [0, 1], drawn in per cent."""


CURVES = (
    Curve(key="success", title="Exploration success", share=True),
    Curve(key="fission/success", title="Recovery success", share=True),
    Curve(key="first_error", title="First message errs", share=True),
    Curve(
        key="rewards/correctness", instead="rewards/verdict", title="Reward: correctness or verdict", unit="unweighted"
    ),
    Curve(key="rewards/format", title="Reward: format", unit="unweighted"),
    Curve(key="groups/alive", title="Exploration groups with a gradient", share=True),
    Curve(key="fission/groups/alive", title="Fission groups with a gradient", share=True),
    Curve(key="update/entropy", title="Token entropy", unit="nats"),
)
"""What a training report shows: does it learn, does it recover, does it err because recovery pays, is there signal, and
does sampling collapse. The reward itself is left out: its weights move over the run, so it can fall while all of its
terms rise."""
COLUMNS = 4
"""Panels in a row of the training picture."""


def rates_figure(
    arms: Sequence[EvaluatedArm], metrics: Sequence[Metric], path: Path, *, colours: Mapping[str, str]
) -> Path:
    """One panel a metric, one bar an arm, 95 % whiskers over runs and tasks, counts over all runs of the arm.

    Args:
        arms: from top to bottom.
        metrics: from left to right; every panel has its own scale, and each starts at 0.
        path: PNG or SVG.
        colours: by arm name, from `arm_colours`.
    """
    bars = {metric: {arm.name: estimate_arm(metric, arm) for arm in arms} for metric in metrics}
    runs = ", ".join(f"{arm.name}\N{NO-BREAK SPACE}{len(arm.runs)}" for arm in arms)
    caption = f"Whiskers: {ARM_INTERVALS}. Counts: over all runs. Training runs: {runs}."
    return bars_figure(bars, path, colours=colours, caption=caption)


def bars_figure(
    bars: Mapping[Metric, Mapping[str, Share]], path: Path, *, colours: Mapping[str, str], caption: str
) -> Path:
    """One panel a metric, one bar a name, each with its interval and its count.

    Args:
        bars: shares by metric, from left to right, and by name, from top to bottom; the same names everywhere.
        path: PNG or SVG.
        colours: by name, from `arm_colours`.
        caption: what the whiskers are.
    """
    names = list(next(iter(bars.values())))
    with house_style():
        figure = new_figure(2.2 + 2.35 * len(bars), 1.35 + 0.46 * len(names))
        panels = figure.subplots(1, len(bars), squeeze=False, sharey=True)[0]
        for panel, (metric, shares) in zip(panels, bars.items(), strict=True):
            _rate_panel(panel, metric, [shares[name] for name in names], [colours[name] for name in names])
        panels[0].set_yticks(range(len(names)), names, color=INK, fontsize=9.5)
        panels[0].set_ylim(len(names) - 0.45, -0.55)
        lines = textwrap.wrap(caption, round(figure.get_figwidth() * LETTERS), break_on_hyphens=False)
        figure.text(0.012, 0.02, "\n".join(lines), fontsize=7.5, color=QUIET, linespacing=1.3)
        figure.tight_layout(rect=(0, (0.1 + 0.14 * len(lines)) / figure.get_figheight(), 1, 1), w_pad=1.6)
        return save(figure, path)


def _rate_panel(panel: Any, metric: Metric, rates: Sequence[Share], colours: Sequence[str]) -> None:
    wanted = "higher is better" if metric.better is Better.HIGHER else "lower is better"
    panel.set_title(metric.title, pad=16)
    panel.text(0, 1.0, wanted, transform=panel.transAxes, fontsize=7.5, color=QUIET, va="bottom")
    counted = [rate for rate in rates if rate.total]
    top = max((100 * rate.interval.high for rate in counted), default=100.0)
    panel.set_xlim(0, top * 1.62)
    panel.set_xticks([tick for tick in range(0, 101, 10 if top < 45 else 25) if tick <= top * 1.1])
    panel.xaxis.grid(visible=True)
    panel.tick_params(length=0, labelsize=8)
    panel.spines["bottom"].set_visible(False)
    for place, (rate, colour) in enumerate(zip(rates, colours, strict=True)):
        _rate_bar(panel, place, rate, colour)


def _rate_bar(panel: Any, place: int, rate: Share, colour: str) -> None:
    if not rate.total:
        panel.annotate("nothing to count", (0, place), (4, 0), textcoords="offset points", va="center", color=QUIET)
        return
    value, low, high = 100 * rate.value, 100 * rate.interval.low, 100 * rate.interval.high
    panel.barh(place, value, height=0.58, color=colour, alpha=0.85, linewidth=0)
    panel.plot([low, high], [place, place], color=INK, linewidth=1.3, solid_capstyle="butt")
    panel.plot([low, high], [place, place], linestyle="none", marker="|", markersize=6, color=INK)
    label = f"{value:.1f} %"
    panel.annotate(label, (high, place), (5, 5), textcoords="offset points", va="center", fontsize=8.5, weight="bold")
    count = f"{rate.successes}/{rate.total}"
    panel.annotate(count, (high, place), (5, -6), textcoords="offset points", va="center", fontsize=7, color=QUIET)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a `metrics.jsonl`."""
    return list(read_jsonl(path))


def curves_figure(
    arms: Mapping[str, Sequence[MetricsRows]],
    path: Path,
    *,
    colours: Mapping[str, str],
    curves: Sequence[Curve] = CURVES,
) -> Path:
    """One panel a curve: a faint line for each run, a strong one for the mean of the arm's runs.

    Args:
        arms: for each arm its runs; steps at which a key is absent are skipped.
        path: PNG or SVG.
        colours: by arm name, from `arm_colours`.
        curves: which keys to draw.
    """
    with house_style():
        columns, rows = min(COLUMNS, len(curves)), math.ceil(len(curves) / COLUMNS)
        figure = new_figure(3.3 * columns, 0.3 + 2.6 * rows)
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel in panels[len(curves) :]:
            panel.set_visible(False)
        for panel, curve in zip(panels, curves, strict=False):
            _curve_panel(panel, curve)
            for name, runs in arms.items():
                series = [trailing_mean(run, curve) for run in runs]
                _arm_lines(panel, name, colours[name], series, faintness=_faintness(arms))
            _say_if_empty(panel)
        drawn = {name: line for panel in panels for line, name in zip(*panel.get_legend_handles_labels(), strict=True)}
        ordered = [name for name in arms if name in drawn]
        figure.legend([drawn[name] for name in ordered], ordered, loc="lower center", ncols=6, fontsize=8.5)
        legend = 0.1 + 0.2 * math.ceil(max(1, len(ordered)) / 6)
        figure.tight_layout(rect=(0, legend / figure.get_figheight(), 1, 1), w_pad=2.0, h_pad=2.0)
        return save(figure, path)


def loss_figure(run: MetricsRows, path: Path) -> Path:
    """The loss of a supervised run: of every update faintly, its trailing mean, and that of the rows held back.

    Args:
        run: rows with `loss`, and `validation_loss` where it was measured.
        path: PNG or SVG.
    """
    learned = Curve(key="loss", title="Loss", unit="nats a token")
    with house_style():
        figure = new_figure(5.2, 3.2)
        panel = figure.subplots()
        _curve_panel(panel, learned)
        panel.plot(*recorded(run, learned), color=GREY, linewidth=0.8)
        panel.plot(*trailing_mean(run, learned), color=BLUE, linewidth=1.8, label="learned")
        steps_T, values_T = recorded(run, Curve(key="validation_loss", title=""))
        if steps_T.size:
            panel.plot(steps_T, values_T, color=VERMILLION, linewidth=1.8, marker="o", markersize=3, label="held back")
        panel.legend(fontsize=8.5)
        figure.tight_layout()
        return save(figure, path)


def _curve_panel(panel: Any, curve: Curve) -> None:
    panel.set_title(curve.title, pad=16)
    unit = "%" if curve.share else curve.unit
    subtitle = ", ".join(filter(None, (unit, f"mean of the last {WINDOW} steps")))
    panel.text(0, 1.02, subtitle, transform=panel.transAxes, fontsize=7.5, color=QUIET, va="bottom")
    panel.set_xlabel("step", fontsize=8)
    panel.yaxis.grid(visible=True)
    panel.tick_params(length=0, labelsize=8)


def _say_if_empty(panel: Any) -> None:
    if not panel.lines:
        panel.set_xticks([])
        panel.set_yticks([])
        panel.text(0.5, 0.5, "not recorded", transform=panel.transAxes, ha="center", color=QUIET)


def recorded(run: MetricsRows, curve: Curve) -> tuple[Series, Series]:
    """Steps and values of one run. Both of shape [T], T = steps at which the key was written."""
    key = curve.key if any(row.get(curve.key) is not None for row in run) else curve.instead
    points = [(row["step"], row[key]) for row in run if row.get(key) is not None]
    steps_T = np.array([step for step, _ in points], dtype=np.float64)
    values_T = np.array([value for _, value in points], dtype=np.float64) * (100 if curve.share else 1)
    return steps_T, values_T


def trailing_mean(run: MetricsRows, curve: Curve) -> tuple[Series, Series]:
    """Steps and means of the last `WINDOW` values of one run; shapes as of `recorded`."""
    steps_T, values_T = recorded(run, curve)
    sums_T = np.concatenate([[0.0], np.cumsum(values_T)])
    first_T = np.maximum(np.arange(len(values_T)) + 1 - WINDOW, 0)
    last_T = np.arange(len(values_T)) + 1
    return steps_T, (sums_T[last_T] - sums_T[first_T]) / np.maximum(last_T - first_T, 1)


def _faintness(arms: Mapping[str, Sequence[MetricsRows]]) -> float:
    """Opacity of the lines of single runs: many of them must not hide the means."""
    return min(0.35, 3 / max(1, sum(len(runs) for runs in arms.values())))


def _arm_lines(panel: Any, name: str, colour: str, runs: Sequence[tuple[Series, Series]], *, faintness: float) -> None:
    drawn = [(steps_T, values_T) for steps_T, values_T in runs if steps_T.size]
    if not drawn:
        return
    if len(drawn) > 1:
        for steps_T, values_T in drawn:
            panel.plot(steps_T, values_T, color=colour, linewidth=0.8, alpha=faintness)
    grid_T, values_ST = on_one_grid(drawn)
    panel.plot(grid_T, values_ST.mean(axis=0), color=colour, linewidth=1.8, label=name)


def on_one_grid(runs: Sequence[tuple[Series, Series]]) -> tuple[Series, Series]:
    """The steps that all runs cover, and each run there, shapes [T] and [S, T]; of at least one run, none is empty."""
    grid_T = np.unique(np.concatenate([steps_T for steps_T, _ in runs]))
    grid_T = grid_T[(grid_T >= max(s[0] for s, _ in runs)) & (grid_T <= min(s[-1] for s, _ in runs))]
    return grid_T, np.stack([np.interp(grid_T, steps_T, values_T) for steps_T, values_T in runs])
