"""Markdown tables for `summary.md`: every share with its count and its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fission_grpo.evaluation.group_outcomes import GroupAccount
from fission_grpo.evaluation.metrics import (
    EPISODE_METRICS,
    PROBE,
    Better,
    Metric,
    by_slice,
    excess_calls,
    harness_faults,
    measure,
    repeats_by_class,
    steps_to_recover,
)
from fission_grpo.evaluation.paired import Compared, Comparison, EvaluatedArm
from fission_grpo.evaluation.records import EpisodeRecord
from fission_grpo.evaluation.statistics import Rate, Share

_CLASS_NAMES = {
    "E0": "malformed call",
    "E1": "unknown tool",
    "E2": "missing or unexpected argument",
    "E3": "argument type",
    "E4": "value not found",
    "E5": "illegal value",
    "E6": "precondition unmet",
    "E7": "conflict",
    "E8": "time or size limit",
    "S": "soft failure",
    "W": "silent",
}
"""`ErrorClass` in words."""

_EMPTY = Rate(0, 0)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A GitHub table; the first column is text, the others are right-aligned."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def error_name(error: str) -> str:
    """`E6 precondition unmet`."""
    return f"{error} {_CLASS_NAMES.get(error, '')}".strip()


def _by_arm(arms: Sequence[EvaluatedArm], cell: Callable[[tuple[EpisodeRecord, ...]], object]) -> list[str]:
    return [str(cell(arm.records)) for arm in arms]


def metrics_table(arms: Sequence[EvaluatedArm], metrics: Sequence[Metric] = EPISODE_METRICS) -> str:
    """Metrics by arms, all runs of an arm pooled; the arrow points to the better side."""
    rows = [
        [metric.heading, *_by_arm(arms, lambda records, metric=metric: measure(metric, records))]  # type: ignore[misc]
        for metric in metrics
    ]
    rows.append(["Training runs", *(str(len(arm.runs)) for arm in arms)])
    rows.append(["Harness faults (excluded)", *_by_arm(arms, lambda r: f"{harness_faults(r).successes}/{len(r)}")])
    return markdown_table(["", *(arm.name for arm in arms)], rows)


def effort_table(arms: Sequence[EvaluatedArm]) -> str:
    """Means that are no shares: how long recovery takes, and how much is wasted."""
    rows = [
        ["Steps from an error to the next clean call", *_by_arm(arms, steps_to_recover)],
        ["Calls beyond gold, in solved episodes", *_by_arm(arms, excess_calls)],
    ]
    return markdown_table(["Mean [95 %]", *(arm.name for arm in arms)], rows)


def _sliced_table(
    first: str, arms: Sequence[EvaluatedArm], slices: Sequence[Mapping[str, Rate]], name: Callable[[str], str]
) -> str:
    keys = sorted({key for one in slices for key in one})
    rows = [[name(key), *(str(one.get(key, _EMPTY)) for one in slices)] for key in keys]
    return markdown_table([first, *(arm.name for arm in arms)], rows)


def repeats_table(arms: Sequence[EvaluatedArm]) -> str:
    """Identical repeats by the class of the error that was not heeded."""
    slices = [{str(error): rate for error, rate in repeats_by_class(arm.records).items()} for arm in arms]
    return _sliced_table("Identical repeat after", arms, slices, error_name)


def _probe_class(record: EpisodeRecord) -> str:
    return record.probe.error if record.probe else ""


def _probes(arm: EvaluatedArm) -> list[EpisodeRecord]:
    return [record for record in arm.records if record.probe is not None]


def probes_by_class_table(arms: Sequence[EvaluatedArm]) -> str:
    """Next call right, by the class of the injected error."""
    return _sliced_table(
        "Next call right after", arms, [by_slice(PROBE, _probes(a), _probe_class) for a in arms], error_name
    )


def points(one: Compared) -> str:
    """The difference and its interval in points; nothing was counted: `-`."""
    if math.isnan(one.difference):
        return "-"
    low, high = 100 * one.interval.low, 100 * one.interval.high
    return f"{100 * one.difference:+.1f} [{low:+.1f}, {high:+.1f}]"


def p_value(one: Compared) -> str:
    """Two digits; no test: `-`."""
    return "-" if one.p_value is None else f"{one.p_value:.2g}"


def _share(one: Share) -> str:
    return f"{100 * one.value:.1f} %"


def comparisons_table(comparisons: Sequence[Comparison]) -> str:
    """Paired differences in points, with the tasks that changed sides and those that a harness fault excluded."""
    header = [
        "Metric",
        "baseline → treatment",
        "from",
        "to",
        "difference [95 %]",
        "fixed / broken",
        "p (sign)",
        "by seed",
        "tasks (excluded)",
    ]
    rows = [
        [
            one.metric.heading,
            f"{one.baseline} → {one.treatment}",
            *(f"{_share(side)} ({side.successes}/{side.total})" for side in (one.before, one.after)),
            points(one),
            f"{len(one.fixed)} / {len(one.broken)} of {one.change.comparable}",
            p_value(one),
            ", ".join(f"{100 * change:+.1f}" for change in one.seed_differences.values()) or "unpaired",
            f"{one.tasks} ({one.excluded})",
        ]
        for one in comparisons
    ]
    notes = dict.fromkeys(one.coverage_note for one in comparisons)
    return markdown_table(header, rows) + "".join(f"\n{note}\n" for note in notes)


def judgement(one: Compared, *, settled: bool) -> str:
    """In a word; what settles a comparison is another question for arms than for runs of a benchmark."""
    if not settled:
        return "not settled"
    return "better" if (one.difference > 0) == (one.metric.better is Better.HIGHER) else "worse"


def verdict_sentence(comparison: Comparison) -> str:
    """One sentence: from, to, difference with interval, and whether that settles anything."""
    # The interval alone: arms with different numbers of seeds have no p-value, and the sign test, whose unit is the
    # task, leaves out every task of which less than half of the runs changed.
    settled = comparison.interval.excludes_zero
    word = judgement(comparison, settled=settled) + ("" if settled else ": the interval holds 0")
    tasks = f"{comparison.tasks} tasks" + (f" ({comparison.excluded} excluded)" if comparison.excluded else "")
    return (
        f"{comparison.title}: {comparison.baseline} {_share(comparison.before)} → "
        f"{comparison.treatment} {_share(comparison.after)}, {points(comparison)} points, "
        f"{tasks}, {comparison.runs[0]} and {comparison.runs[1]} runs: {word}."
    )


_GROUP_ROWS: tuple[tuple[str, Callable[[GroupAccount], Rate]], ...] = (
    ("Exploration groups: all fail", lambda account: account.all_fail),
    ("Exploration groups: some right", lambda account: account.mixed),
    ("Exploration groups: all right", lambda account: account.all_right),
    ("Exploration groups with a gradient", lambda account: account.has_signal),
    ("All-fail groups with a fission group", lambda account: account.fissioned),
    ("All-fail groups rescued by fission", lambda account: account.rescued),
    ("Fission groups with a gradient", lambda account: account.fission_has_signal),
    ("Fission groups with a success", lambda account: account.fission_success),
)


def groups_table(accounts: Mapping[str, GroupAccount]) -> str:
    """How the groups of each arm came out."""
    rows = [[title, *(str(pick(account)) for account in accounts.values())] for title, pick in _GROUP_ROWS]
    return markdown_table(["", *accounts], rows)


PHASES = ("collect", "explore", "observe", "recover", "update")
"""Of a training step, by the names that `metrics.jsonl` gives their times."""


def _sum(run: Sequence[Mapping[str, Any]], *names: str) -> float:
    return sum(float(row.get(name, 0.0)) for row in run for name in names)


def budget_table(curves: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> str:
    """What each arm spent, as means over its runs, from the rows of `metrics.jsonl`."""
    spent: tuple[tuple[str, Callable[[Sequence[Mapping[str, Any]]], float]], ...] = (
        ("updates", len),
        ("rollouts", lambda run: _sum(run, "rollouts", "fission/rollouts", "collect/rollouts")),
        ("of these recoveries", lambda run: _sum(run, "fission/rollouts")),
        ("of these before the first update, for a pool", lambda run: _sum(run, "collect/rollouts")),
        ("sampled tokens", lambda run: _sum(run, "generate/sampled")),
        ("trained tokens, shared prefixes once", lambda run: _sum(run, "update/unique_tokens")),
        ("trained tokens, separate rows", lambda run: _sum(run, "update/raw_tokens")),
        ("seconds", lambda run: _sum(run, *(f"time/{phase}" for phase in PHASES))),
    )
    rows = [
        [title, *(f"{sum(map(count, runs)) / max(len(runs), 1):,.0f}" for runs in curves.values())]
        for title, count in spent
    ]
    return markdown_table(["Spent (mean of runs)", *curves], rows)
