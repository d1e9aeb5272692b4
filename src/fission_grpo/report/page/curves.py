"""The curves of the page: one panel a quantity, the same series as in `curves.png` and more of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fission_grpo.report.figures import Curve, Series, on_one_grid, recorded, trailing_mean
from fission_grpo.report.page.charts import Chart, ChartLine
from fission_grpo.report.results import MetricsRows
from fission_grpo.report.style import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION

RunsByName = Mapping[str, Sequence[MetricsRows]]
"""The runs of each arm; a run by itself is an arm of one."""
LINE_COLOURS = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY)
"""Of the lines of one run in a panel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Curves that belong in one picture."""

    title: str
    curves: Mapping[str, Curve]
    """By the name of the line."""
    note: str = ""


def _panel(title: str, unit: str, lines: Mapping[str, str], *, share: bool = False, note: str = "") -> Panel:
    curves = {name: Curve(key=key, title=title, unit=unit, share=share) for name, key in lines.items()}
    return Panel(title=title, curves=curves, note=note)


PANELS = (
    _panel("Success", "%", {"exploration": "success", "recoveries": "fission/success"}, share=True),
    _panel(
        "First-attempt errors",
        "%",
        {"first message errs": "first_error", "solved without any error": "first_attempt"},
        share=True,
        note="errors that rise say: it errs because recovery pays",
    ),
    _panel(
        "Groups with a gradient", "%", {"exploration": "groups/alive", "fission": "fission/groups/alive"}, share=True
    ),
    _panel("Reward by term", "unweighted", {}),
    _panel("Token entropy", "nats a token", {"entropy": "update/entropy"}, note="near 0: nothing new is sampled"),
    _panel("KL from the reference", "nats a token", {"KL": "update/kl"}),
    _panel("Gradient norm", "", {"norm": "update/grad_norm"}),
    _panel("Log-probability gap", "nats a token", {"gap": "update/logprob_gap"}, note="between sampling and training"),
    _panel(
        "Length of a message",
        "tokens",
        {"exploration": "completions/mean_length", "recoveries": "fission/completions/mean_length"},
    ),
    _panel("Messages of a trajectory", "", {"exploration": "turns", "recoveries": "fission/turns"}),
    _panel("Trained tokens of a step", "", {"unique": "update/unique_tokens", "as separate rows": "update/raw_tokens"}),
    _panel(
        "Age of a corrective context", "steps", {"age": "fission/age"}, note="between its failure and its recoveries"
    ),
)
TERMS = "rewards/"


def charts_of_run(rows: MetricsRows) -> list[Chart]:
    """One run: each panel with all of its lines, as recorded and smoothed."""
    charts = (_chart_of_run(panel, rows) for panel in _with_terms(PANELS, [rows]))
    return [chart for chart in charts if chart.lines]


def charts_of_arms(arms: RunsByName, colours: Mapping[str, str]) -> list[Chart]:
    """Several runs or arms: one panel a curve, one line an arm: the mean of its runs in a band from low to high."""
    runs = [rows for found in arms.values() for rows in found]
    charts = (
        Chart(
            title=panel.title if len(panel.curves) == 1 else f"{panel.title}: {name}",
            unit=_subtitle(curve),
            lines=tuple(_arm_lines(arms, curve, colours)),
            note=panel.note,
        )
        for panel in _with_terms(PANELS, runs)
        for name, curve in panel.curves.items()
    )
    return [chart for chart in charts if chart.lines]


def _with_terms(panels: Iterable[Panel], runs: Sequence[MetricsRows]) -> Iterator[Panel]:
    """The panel of the reward gets the terms that the runs have."""
    terms = sorted({key for rows in runs for row in rows for key in row if key.startswith(TERMS)})
    for panel in panels:
        if panel.curves or not terms:
            yield panel
        else:
            curves = {key.removeprefix(TERMS): Curve(key=key, title=panel.title, unit="unweighted") for key in terms}
            yield Panel(title=panel.title, curves=curves)


def _subtitle(curve: Curve) -> str:
    return "%" if curve.share else curve.unit


def _chart_of_run(panel: Panel, rows: MetricsRows) -> Chart:
    lines = []
    for (name, curve), colour in zip(panel.curves.items(), LINE_COLOURS, strict=False):
        steps_T, smooth_T = trailing_mean(rows, curve)
        if steps_T.size:
            raw_T = recorded(rows, curve)[1] if len(panel.curves) < 3 else ()
            lines.append(ChartLine(name=name, colour=colour, steps=[*steps_T], values=[*smooth_T], faint=[*raw_T]))
    first = next(iter(panel.curves.values()), None)
    return Chart(title=panel.title, unit=_subtitle(first) if first else "", lines=tuple(lines), note=panel.note)


def _arm_lines(arms: RunsByName, curve: Curve, colours: Mapping[str, str]) -> Iterator[ChartLine]:
    for name, runs in arms.items():
        found: list[tuple[Series, Series]] = [trailing_mean(rows, curve) for rows in runs]
        drawn = [(steps_T, values_T) for steps_T, values_T in found if steps_T.size]
        if drawn:
            grid_T, values_ST = on_one_grid(drawn)
            band = len(drawn) > 1
            yield ChartLine(
                name=name,
                colour=colours[name],
                steps=[*grid_T],
                values=[*values_ST.mean(axis=0)],
                low=[*values_ST.min(axis=0)] if band else (),
                high=[*values_ST.max(axis=0)] if band else (),
            )
