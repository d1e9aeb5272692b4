"""Charts as inline SVG: lines, stacked bars, shares and ribbons. Every name is escaped; the page mixes the colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fission_grpo.evaluation.events import Fate
from fission_grpo.evaluation.statistics import Share
from fission_grpo.report.flow import FATE_COLOURS, FATE_NAMES, Fates, flow_bars
from fission_grpo.report.tables import error_name

CHART_WIDTH, CHART_HEIGHT = 320, 168
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 8, 8, 22
_TICKS = 4
_DIGITS = 4
"""Significant ones of what is drawn: enough for a screen, and a page stays small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartLine:
    """One line of a chart; steps rise, values are finite."""

    name: str
    colour: str
    steps: Sequence[float]
    values: Sequence[float]
    low: Sequence[float] = ()
    """Lower edge of a band around it; empty without one."""
    high: Sequence[float] = ()
    faint: Sequence[float] = ()
    """The same before it was smoothed; empty where it is not shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One panel of lines over steps."""

    title: str
    unit: str
    lines: tuple[ChartLine, ...]
    note: str = ""
    """A sentence under the title."""

    @property
    def points(self) -> list[dict[str, object]]:
        """What the page shows under the pointer."""
        return [
            {"name": one.name, "colour": one.colour, "x": [*map(short, one.steps)], "y": [*map(short, one.values)]}
            for one in self.lines
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """From values to places on the sheet."""

    steps: tuple[float, float]
    values: tuple[float, float]

    @classmethod
    def around(cls, lines: Sequence[ChartLine]) -> Frame:
        """The smallest one with round ticks that holds all lines; shares and counts begin at 0."""
        steps = [step for one in lines for step in one.steps]
        values = [value for one in lines for value in (*one.values, *one.low, *one.high, *one.faint)]
        low, high = min(0.0, *values), max(values)
        if low == high:
            high = low + 1
        tick = tick_size(high - low)
        last = max(steps)
        return cls(
            steps=(min(steps), last if last > min(steps) else last + 1),
            values=(math.floor(low / tick) * tick, math.ceil(high / tick) * tick),
        )

    def x(self, step: float) -> float:
        first, last = self.steps
        return round(_LEFT + (step - first) / (last - first) * (CHART_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        low, high = self.values
        return round(CHART_HEIGHT - _BOTTOM - (value - low) / (high - low) * (CHART_HEIGHT - _TOP - _BOTTOM), 1)


def short(value: float) -> float:
    """Rounded to what is seen."""
    return float(f"{value:.{_DIGITS}g}")


def tick_text(value: float) -> str:
    """A round value in few letters: `60 k`, `0.2`, `5e-5`."""
    if abs(value) >= 10_000:
        return f"{value / 1000:g} k"
    return f"{value:.4g}".replace("e-0", "e-")


def tick_size(extent: float) -> float:
    """A step of 1, 2 or 5 times a power of ten that gives about four ticks."""
    rough = extent / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)


def line_chart(chart: Chart) -> Markup:
    """The panel; `data-frame` lets the page translate the pointer back into a step."""
    frame = Frame.around(chart.lines)
    drawn = Markup("").join(_line(frame, one) for one in chart.lines)
    plot = f"{_LEFT},{CHART_WIDTH - _RIGHT},{frame.steps[0]:g},{frame.steps[1]:g}"
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}" data-frame="{}">{}{}'
        '<line class="cursor" y1="{}" y2="{}" hidden/></svg>'
    ).format(
        CHART_WIDTH,
        CHART_HEIGHT,
        f"{chart.title}: {_spoken(chart)}",
        plot,
        _axes(frame),
        drawn,
        _TOP,
        CHART_HEIGHT - _BOTTOM,
    )


def _spoken(chart: Chart) -> str:
    """The chart for whoever does not see it: where each line begins and ends."""
    return "; ".join(f"{one.name} from {one.values[0]:.3g} to {one.values[-1]:.3g}" for one in chart.lines)


def _axes(frame: Frame) -> Markup:
    (low, high), (first, last) = frame.values, frame.steps
    tick = tick_size(high - low)
    lines = []
    for place in range(round((high - low) / tick) + 1):
        value = low + place * tick
        lines.append(
            Markup('<line class="grid" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/><text x="{3}" y="{4}">{5}</text>').format(
                _LEFT, CHART_WIDTH - _RIGHT, frame.y(value), _LEFT - 6, frame.y(value) + 3.5, tick_text(value)
            )
        )
    between = tick_size(last - first)
    whole = max(1, round(between))
    step = math.ceil(first / whole) * whole
    while step <= last:
        lines.append(
            Markup('<text class="step" x="{}" y="{}">{}</text>').format(frame.x(step), CHART_HEIGHT - 7, f"{step:g}")
        )
        step += whole
    return Markup("").join(lines)


def _points(frame: Frame, steps: Sequence[float], values: Sequence[float]) -> str:
    return " ".join(f"{frame.x(step):g},{frame.y(value):g}" for step, value in zip(steps, values, strict=True))


def _line(frame: Frame, one: ChartLine) -> Markup:
    parts = []
    if one.low:
        edge = _points(frame, one.steps, one.high) + " " + _points(frame, one.steps[::-1], one.low[::-1])
        parts.append(Markup('<polygon class="band" points="{}"/>').format(edge))
    if one.faint:
        parts.append(Markup('<polyline class="faint" points="{}"/>').format(_points(frame, one.steps, one.faint)))
    parts.append(Markup('<polyline class="line" points="{}"/>').format(_points(frame, one.steps, one.values)))
    return Markup('<g data-name="{}" style="--c:{}">{}</g>').format(one.name, one.colour, Markup("").join(parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One colour of stacked bars."""

    name: str
    colour: str
    counts: Sequence[float]
    """One for each bar."""


def stacked_bars(stacks: Sequence[Stack], *, steps: Sequence[int], title: str, width: int = 1100) -> Markup:
    """Bars over steps, the first stack at the bottom."""
    height, bars = 190, max(len(steps), 1)
    tallest = max((sum(column) for column in zip(*(one.counts for one in stacks), strict=True)), default=0) or 1
    room, wide = height - _TOP - _BOTTOM, (width - _LEFT - _RIGHT) / bars
    filled = [0.0] * bars
    drawn = []
    for one in stacks:
        rects = []
        for place, count in enumerate(one.counts):
            if count:
                top, tall = filled[place] + count, room * count / tallest
                where = (_LEFT + place * wide, height - _BOTTOM - room * top / tallest)
                rects.append(
                    Markup('<rect x="{}" y="{}" width="{}" height="{}"/>').format(
                        *(f"{number:.1f}" for number in (*where, max(wide - 0.8, 0.5), tall))
                    )
                )
                filled[place] = top
        drawn.append(Markup('<g style="--c:{}">{}</g>').format(one.colour, Markup("").join(rects)))
    marks = [Markup('<text x="{}" y="{}">{}</text>').format(_LEFT - 6, _TOP + 6, f"{tallest:g}")]
    between = max(1, round(tick_size(bars) / 1))
    marks += [
        Markup('<text class="step" x="{}" y="{}">{}</text>').format(
            f"{_LEFT + (place + 0.5) * wide:.1f}", height - 7, steps[place]
        )
        for place in range(0, len(steps), between)
    ]
    return Markup('<svg class="chart bars" viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}</svg>').format(
        width, height, title, Markup("").join(marks), Markup("").join(drawn)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One part of a bar that is a whole."""

    name: str
    colour: str
    count: float
    share: float
    """In [0, 1]."""


def slices(counts: Mapping[str, tuple[float, str]]) -> tuple[Slice, ...]:
    """Parts of a whole by name, each a count and a colour; those of nothing are left out."""
    total = sum(count for count, _ in counts.values())
    return tuple(
        Slice(name=name, colour=colour, count=count, share=count / total)
        for name, (count, colour) in counts.items()
        if count
    )


def fate_slices(counts: Fates) -> tuple[Slice, ...]:
    """What became of all errors together."""
    return slices({FATE_NAMES[fate]: (sum(row[fate] for row in counts.values()), FATE_COLOURS[fate]) for fate in Fate})


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimated:
    """One row of a chart of shares."""

    name: str
    colour: str
    share: Share


_RATE_WIDTH, _RATE_LEFT, _RATE_RIGHT, _RATE_ROW = 440, 152, 148, 25


def rates_chart(rows: Sequence[Estimated], *, title: str) -> Markup:
    """Shares with their 95 % intervals, all on the scale from 0 to 100 %."""
    height = _RATE_ROW * len(rows) + 24
    wide = _RATE_WIDTH - _RATE_LEFT - _RATE_RIGHT

    def x(share: float) -> float:
        return round(_RATE_LEFT + wide * share, 1)

    parts = [
        Markup(
            '<line class="grid" x1="{0}" x2="{0}" y1="2" y2="{1}"/><text class="step" x="{0}" y="{2}">{3}</text>'
        ).format(x(tick / 100), height - 20, height - 6, tick)
        for tick in (0, 50, 100)
    ]
    for place, row in enumerate(rows):
        middle = _RATE_ROW * (place + 0.5)
        parts.append(Markup('<text class="name" x="{}" y="{}">{}</text>').format(_RATE_LEFT - 10, middle + 4, row.name))
        if not row.share.total:
            parts.append(
                Markup('<text class="value quiet" x="{}" y="{}">nothing to count</text>').format(x(0) + 6, middle + 4)
            )
            continue
        low, high = x(row.share.interval.low), x(row.share.interval.high)
        parts.append(
            Markup(
                '<g style="--c:{}"><rect class="bar" x="{}" y="{}" width="{}" height="14" rx="2"/>'
                '<path class="whisker" d="M{} {}H{}M{} {}v8M{} {}v8"/></g>'
                '<text class="value" x="{}" y="{}"><tspan class="strong">{}</tspan>'
                '<tspan class="quiet" dx="6">{}</tspan></text>'
            ).format(
                row.colour,
                x(0),
                middle - 7,
                max(x(row.share.value) - x(0), 1),
                low,
                middle,
                high,
                low,
                middle - 4,
                high,
                middle - 4,
                max(high, x(1)) + 8,
                middle + 4,
                f"{100 * row.share.value:.1f} %",
                f"{row.share.successes:,} of {row.share.total:,}",
            )
        )
    return Markup('<svg class="rates" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _RATE_WIDTH, height, title, Markup("").join(parts)
    )


_FLOW_WIDTH, _FLOW_LEFT, _FLOW_RIGHT, _FLOW_BAR = 700, 268, 152, 10
_ROW, _LOWEST = 34, 236


def flow_chart(counts: Fates, *, title: str) -> Markup:
    """Error classes on the left, what the very next step made of them on the right; empty without errors."""
    total = sum(sum(row.values()) for row in counts.values())
    if not total:
        return Markup("")
    ends = {fate: sum(row[fate] for row in counts.values()) for fate in Fate}
    left = flow_bars({error: sum(row.values()) for error, row in counts.items()})
    right = flow_bars({fate: count for fate, count in ends.items() if count})
    height = max(_ROW * max(len(left), len(right)) + 12, _LOWEST)
    begin, end = _FLOW_LEFT, _FLOW_WIDTH - _FLOW_RIGHT

    def down(place: float) -> float:
        return round(6 + (1 - place) * (height - 12), 1)

    parts = []
    for error, row in counts.items():
        for fate, count in row.items():
            if count:
                (high, low), (end_high, end_low) = left[error].take(count), right[fate].take(count)
                x1, x2, middle = begin + _FLOW_BAR, end - _FLOW_BAR, (begin + end) / 2
                path = (
                    f"M{x1} {down(high)}C{middle} {down(high)} {middle} {down(end_high)} {x2} {down(end_high)}"
                    f"L{x2} {down(end_low)}C{middle} {down(end_low)} {middle} {down(low)} {x1} {down(low)}Z"
                )
                told = f"{error_name(error)}, {FATE_NAMES[fate]}: {count:,}"
                parts.append(
                    Markup('<path style="--c:{}" d="{}"><title>{}</title></path>').format(
                        FATE_COLOURS[fate], path, told
                    )
                )
    sides = [
        *((begin, bar, error_name(error), "var(--ink)", "end", begin - 8) for error, bar in left.items()),
        *((end - _FLOW_BAR, bar, FATE_NAMES[f], FATE_COLOURS[f], "start", end + 8) for f, bar in right.items()),
    ]
    for x, bar, name, colour, anchor, at in sides:
        middle = down(bar.top - bar.height / 2)
        tall = round(bar.height * (height - 12), 1)
        parts.append(
            Markup(
                '<rect style="--c:{}" x="{}" y="{}" width="{}" height="{}"/>'
                '<text text-anchor="{}" x="{}" y="{}">{}<tspan class="quiet" dx="6">{}</tspan></text>'
            ).format(
                colour,
                x,
                down(bar.top),
                _FLOW_BAR,
                tall,
                anchor,
                at,
                middle + 4,
                name,
                f"{bar.count:,} · {100 * bar.count / total:.0f} %",
            )
        )
    return Markup('<svg class="flow" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _FLOW_WIDTH, height, title, Markup("").join(parts)
    )
