"""Signal accounting: which groups had a gradient, which of those that all failed fission rescued, and its share."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from fission_grpo.evaluation.group_outcomes import GroupAccount, GroupOutcome, account_groups, group_outcome
from fission_grpo.report.page.charts import Stack, stacked_bars
from fission_grpo.report.page.sources import PageRun, Trace
from fission_grpo.report.style import BLUE, GREEN, SAND, VERMILLION
from fission_grpo.types import GroupKind

BY_TRAJECTORY = ("grpo_unscaled",)
"""Objectives that weigh trajectories alike; the others weigh tokens alike (`algorithm/losses.py`)."""
STACKS = {"all right": BLUE, "some right": GREEN, "all wrong, rescued by fission": SAND, "all wrong": VERMILLION}
"""What an exploration group can be, and its colour."""


def account_run(run: PageRun) -> GroupAccount:
    """The account of all groups of a run."""
    return account_groups(outcome for outcome in map(group_outcome, run.traces) if outcome)


def group_bars(run: PageRun) -> Markup:
    """How the exploration groups of each step came out."""
    exploration: dict[int, list[GroupOutcome]] = {}
    fission = []
    for trace in run.traces:
        if (outcome := group_outcome(trace)) is None:
            continue
        if outcome.parent is None:
            exploration.setdefault(trace["step"], []).append(outcome)
        else:
            fission.append(outcome)
    steps = sorted(exploration)
    accounts = [account_groups([*exploration[step], *fission]) for step in steps]
    counts = {
        "all right": [one.all_right.successes for one in accounts],
        "some right": [one.mixed.successes for one in accounts],
        "all wrong, rescued by fission": [one.rescued.successes for one in accounts],
        "all wrong": [one.all_fail.successes - one.rescued.successes for one in accounts],
    }
    stacks = [Stack(name=name, colour=colour, counts=counts[name]) for name, colour in STACKS.items()]
    return stacked_bars(stacks, steps=steps, title="Exploration groups of each step by how they came out")


def gradient_share(traces: Iterable[Trace], objective: str) -> float:
    """Share of fission groups in the advantages of all updates; NaN where there are none.

    Each trajectory counts with |advantage|, times its sampled tokens where the objective weighs tokens, times the
    weight of its group where the trace has one. What it pulled, not where: directions may cancel.
    """
    pull: Counter[str] = Counter()
    for trace in traces:
        if trace["kind"] != GroupKind.COLLECTION:
            weight = float(trace.get("weight", 1.0))
            for one in trace["trajectories"]:
                pull[trace["kind"]] += abs(one["advantage"]) * weight * _size(one, objective)
    return pull[GroupKind.FISSION] / pull.total() if pull.total() else math.nan


def _size(trajectory: Mapping[str, Any], objective: str) -> float:
    if objective in BY_TRAJECTORY:
        return 1.0
    spans: Sequence[Sequence[int]] = trajectory["sampled"]
    return float(sum(stop - start for start, stop in spans))


def signal_sentence(run: PageRun) -> str:
    """Gradient share, age, and what became of the contexts."""
    share = gradient_share(run.traces, str(run.settings.get("trainer", {}).get("objective", "")))
    last, ages = run.rows[-1], [row["fission/age"] for row in run.rows if row.get("fission/contexts")]
    if not share or math.isnan(share):
        return "No fission group was trained on."
    words = [f"Fission groups made up {100 * share:.0f} % of the advantage (|A|, weighed as the loss weighs it)"]
    if ages:
        mean, oldest = sum(ages) / len(ages), max(ages)
        words.append(
            f"their contexts were {mean:.2f} steps old on average, and {oldest:.2f} in the step with the oldest"
            if oldest
            else "their contexts were all of the same step"
        )
    observed, used = (last.get(f"fission/{name}_total") for name in ("observed", "used"))
    if observed:
        words.append(
            f"of {observed:,.0f} failures with feedback {used:,.0f} were practised, "
            f"{last.get('fission/dropped_total', 0):,.0f} pushed out of the full buffer and "
            f"{last.get('fission/duplicates_total', 0):,.0f} were duplicates"
        )
    return "; ".join(words) + "."
