"""One or more runs of a benchmark as Markdown with pictures: official accuracy first, recovery beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fission_grpo.evaluation.events import error_events
from fission_grpo.evaluation.metrics import (
    ACCURACY,
    BENCHMARK_METRICS,
    ERR_TURN_CLEAN,
    NCR,
    OFFICIAL_ERR,
    ONE_SHOT,
    RECOVERY_METRICS,
    Metric,
    error_classes,
    harness_faults,
    recovered_within,
    steps_to_recover,
    tokens_to_recover,
)
from fission_grpo.evaluation.paired import category_of, clusters_of, estimate
from fission_grpo.evaluation.records import EpisodeRecord
from fission_grpo.evaluation.statistics import Estimate
from fission_grpo.report.figures import bars_figure
from fission_grpo.report.flow import flow_figure
from fission_grpo.report.style import arm_colours
from fission_grpo.report.tables import error_name, markdown_table
from fission_grpo.types import ErrorClass

Runs = Mapping[str, Sequence[EpisodeRecord]]
"""Records by the name of the run."""

CURVE = 5
"""Next-call recovery is shown within 1 to 5 steps."""
INTERVALS = "95 % intervals by bootstrap over scenarios, which the categories share"


def benchmark_sections(runs: Runs, folder: Path) -> list[str]:
    """Everything about some runs, as paragraphs of a `summary.md` in `folder`; draws the pictures there."""
    colours = arm_colours(runs)
    shown = (ACCURACY, ONE_SHOT, OFFICIAL_ERR, ERR_TURN_CLEAN, NCR)
    bars = {metric: {name: estimate(metric, records) for name, records in runs.items()} for metric in shown}
    bars_figure(bars, folder / "recovery.png", colours=colours, caption=f"Whiskers: {INTERVALS}.")
    flow_figure(runs, folder / "flow.png")
    by_class = [f"\n{name}:\n\n{class_table(records)}" for name, records in runs.items()]
    return [
        "\n## Accuracy\n",
        accuracy_table(runs),
        "\n## Recovery\n\n![recovery](recovery.png)\n",
        recovery_table(runs),
        recovery_effort_table(runs),
        "\n## What becomes of an error\n\n![flow](flow.png)\n",
        curve_table(runs),
        "\n## By class of error\n",
        *by_class,
        f"\nCells: share, {INTERVALS}, count. Definitions: docs/evaluation.md.\n",
    ]


def accuracy_table(runs: Runs) -> str:
    """Official accuracy by category and overall, and how many entries faults of ours made invalid."""
    categories = sorted({category_of(record) for records in runs.values() for record in records})
    rows = [[name or "all", *(str(_accuracy(records, name)) for records in runs.values())] for name in categories]
    if len(categories) > 1:
        overall = [str(estimate(ACCURACY, records, stratum=category_of)) for records in runs.values()]
        rows.append([f"mean of {len(categories)} categories", *overall])
    rows.append(["harness faults (excluded)", *map(_faults, runs.values())])
    return markdown_table(["Accuracy ↑", *runs], rows)


def recovery_table(runs: Runs) -> str:
    """Metrics by runs; the arrow points to the better side."""
    return markdown_table(["", *runs], [[metric.heading, *_cells(metric, runs)] for metric in BENCHMARK_METRICS])


def class_table(records: Sequence[EpisodeRecord]) -> str:
    """Recovery metrics of one run by the class of the error; only classes that occur."""
    header = [metric.heading for metric in RECOVERY_METRICS]
    classes = {error_name(error): error for error in error_classes(records)} | {"all": None}
    rows = [_class_row(name, error, records) for name, error in classes.items()]
    return markdown_table(["Class", *header, "Steps", "Tokens"], rows)


def curve_table(runs: Runs) -> str:
    """Recovery within 1 to `CURVE` steps of the same user turn, over all errors."""
    rows = [[f"within {steps}", *_cells(recovered_within(steps), runs)] for steps in range(1, CURVE + 1)]
    return markdown_table(["An error-free step", *runs], rows)


def recovery_effort_table(runs: Runs) -> str:
    """What a recovery costs, where there is one."""
    rows = [
        ["Steps per recovery", *(str(steps_to_recover(records)) for records in runs.values())],
        ["Tokens per recovery", *(str(tokens_to_recover(records)) for records in runs.values())],
    ]
    return markdown_table(["Mean [95 %]", *runs], rows)


def _cells(metric: Metric, runs: Runs) -> list[str]:
    return [str(estimate(metric, records)) for records in runs.values()]


def _accuracy(records: Sequence[EpisodeRecord], category: str) -> Estimate:
    return estimate(ACCURACY, [record for record in records if category_of(record) == category])


def _faults(records: Sequence[EpisodeRecord]) -> str:
    rate = harness_faults(records)
    return f"{rate.successes}/{rate.total}"


def _class_row(name: str, error: ErrorClass | None, records: Sequence[EpisodeRecord]) -> list[str]:
    relevant = [record for record in records if error is None or error_events(record, error=error)]
    clusters = clusters_of(records)
    metrics = [replace(metric, error=error) for metric in RECOVERY_METRICS]
    estimates = [str(estimate(metric, relevant, clusters=clusters)) for metric in metrics]
    return [name, *estimates, str(steps_to_recover(relevant, error)), str(tokens_to_recover(relevant, error))]
