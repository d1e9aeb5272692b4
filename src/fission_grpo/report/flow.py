"""Where errors go: from their class to what the very next step made of them, as ribbons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from fission_grpo.evaluation.events import Fate
from fission_grpo.evaluation.metrics import fates
from fission_grpo.evaluation.records import EpisodeRecord
from fission_grpo.report.style import BLUE, GREY, INK, ORANGE, PURPLE, QUIET, VERMILLION, house_style, new_figure, save
from fission_grpo.report.tables import error_name
from fission_grpo.types import ErrorClass

FATE_COLOURS: Mapping[Fate, str] = {
    Fate.RECOVERED: BLUE,
    Fate.REPEATED: VERMILLION,
    Fate.OTHER_ERROR: ORANGE,
    Fate.GAVE_UP: PURPLE,
    Fate.CUT_OFF: GREY,
}
FATE_NAMES: Mapping[Fate, str] = {
    Fate.RECOVERED: "recovered",
    Fate.REPEATED: "same call again",
    Fate.OTHER_ERROR: "another error",
    Fate.GAVE_UP: "gave up",
    Fate.CUT_OFF: "cut off",
}
Fates = Mapping[ErrorClass, Mapping[Fate, int]]
"""How many errors of each class ended how."""

_GAP = 0.035
"""Between the bars of a side; the bars and gaps of a side share the height 1."""
_LEAST = 0.03
"""Height below which a bar would not be seen, and its label would touch the next one."""
_BAR = 0.022
"""Width of a bar; the panel goes from 0 to 1."""


@dataclass(slots=True)
class FlowBar:
    """One end of some ribbons; y grows upwards."""

    top: float
    height: float
    count: int
    used: float = 0.0

    def take(self, count: int) -> tuple[float, float]:
        """Top and bottom of the next ribbon."""
        high = self.top - self.used
        self.used += self.height * count / self.count
        return high, self.top - self.used


def flow_figure(runs: Mapping[str, Sequence[EpisodeRecord]], path: FilePath) -> FilePath:
    """One panel a run: error classes on the left, what became of them on the right, counts on both sides.

    Args:
        runs: records by name; harness faults are left out, a probe's injected error counts as one.
        path: PNG or SVG.
    """
    counts = {name: fates(records) for name, records in runs.items()}
    rows = max((len(one) for one in counts.values()), default=1)
    with house_style():
        figure = new_figure(6.6 * max(len(counts), 1), 1.5 + 0.5 * max(rows, len(Fate)))
        panels = figure.subplots(1, max(len(counts), 1), squeeze=False)[0]
        for panel, (name, one) in zip(panels, counts.items(), strict=False):
            _panel(panel, name, one)
        figure.tight_layout(w_pad=2.0)
        return save(figure, path)


def _panel(panel: Any, name: str, counts: Fates) -> None:
    panel.set_axis_off()
    panel.set_xlim(-0.52, 1.36)
    panel.set_ylim(-0.02, 1.04)
    total = sum(sum(row.values()) for row in counts.values())
    panel.set_title(name, pad=20)
    panel.text(0, 1.01, _subtitle(total), transform=panel.transAxes, fontsize=8, color=QUIET, va="bottom")
    if not total:
        panel.text(0.42, 0.5, "no errors", ha="center", color=QUIET)
        return
    ends = {fate: sum(row[fate] for row in counts.values()) for fate in Fate}
    left = flow_bars({error: sum(row.values()) for error, row in counts.items()})
    right = flow_bars({fate: count for fate, count in ends.items() if count})
    _ribbons(panel, counts, left, right)
    for error, bar in left.items():
        _label(panel, 0.0, bar, error_name(error), INK, total)
    for fate, bar in right.items():
        _label(panel, 1.0, bar, FATE_NAMES[fate], FATE_COLOURS[fate], total)


def _subtitle(total: int) -> str:
    return f"{total:,} errors, and what the very next step made of them"


def flow_bars(counts: Mapping[Any, int]) -> dict[Any, FlowBar]:
    """Bars from the top down, as high as their counts but never too thin to be seen."""
    room = 1 - _GAP * (len(counts) - 1)
    total = sum(counts.values())
    heights = {key: max(_LEAST, room * count / total) for key, count in counts.items()}
    shrink = room / sum(heights.values())
    bars, top = {}, 1.0
    for key, count in counts.items():
        bars[key] = FlowBar(top=top, height=heights[key] * shrink, count=count)
        top -= heights[key] * shrink + _GAP
    return bars


def _ribbons(panel: Any, counts: Fates, left: Mapping[ErrorClass, FlowBar], right: Mapping[Fate, FlowBar]) -> None:
    for error, row in counts.items():
        for fate, count in row.items():
            if count:
                ends = (left[error].take(count), right[fate].take(count))
                panel.add_patch(_ribbon(*ends, FATE_COLOURS[fate]))


def _ribbon(start: tuple[float, float], end: tuple[float, float], colour: str) -> PathPatch:
    """Two curves that leave and arrive level, and the area between them."""
    (high, low), (end_high, end_low) = start, end
    begin, stop, middle = _BAR, 1 - _BAR, 0.5
    points = [(begin, high), (middle, high), (middle, end_high), (stop, end_high)]
    points += [(stop, end_low), (middle, end_low), (middle, low), (begin, low), (begin, high)]
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3, Path.CLOSEPOLY]
    return PathPatch(Path(points, codes), facecolor=colour, alpha=0.42, linewidth=0)


def _label(panel: Any, x: float, bar: FlowBar, name: str, colour: str, total: int) -> None:
    """A bar with its name and its count, on the outer side."""
    outer, side = (x - 0.02, "right") if x == 0 else (x + 0.02, "left")
    corner = (0.0 if x == 0 else 1 - _BAR, bar.top - bar.height)
    panel.add_patch(Rectangle(corner, _BAR, bar.height, facecolor=colour, linewidth=0))
    middle = bar.top - bar.height / 2
    count = f"{bar.count:,} · {100 * bar.count / total:.0f} %"
    panel.annotate(name, (outer, middle), (0, 4.5), textcoords="offset points", ha=side, va="center", fontsize=8.5)
    panel.annotate(
        count, (outer, middle), (0, -5), textcoords="offset points", ha=side, va="center", fontsize=7.5, color=QUIET
    )
