"""Markdown tables for `summary.md`: every share with its count and its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from fission_grpo.evaluation.group_outcomes import GroupAccount
from fission_grpo.evaluation.metrics import (
    EPISODE_METRICS,
    ERR,
    PROBE,
    Better,
    Macro,
    Metric,
    excess_calls,
    harness_faults,
    repeats_by_class,
    steps_to_recover,
)
from fission_grpo.evaluation.paired import (
    Compared,
    Comparison,
    EvaluatedArm,
    estimate_arm,
    estimate_macro,
    estimate_slices,
)
from fission_grpo.evaluation.records import EpisodeRecord
from fission_grpo.evaluation.statistics import Rate, Share
from fission_grpo.types import ErrorClass

Costs: TypeAlias = Mapping[str, str]
"""What each policy spent, in words; those that nothing is known of are not in it."""

ARM_INTERVALS = "95 % intervals by bootstrap over runs and tasks, of a single run Wilson's over its tasks"
"""Of an arm's share, wherever it stands in a table or a picture."""
NOTHING_VARIES = "all runs and tasks agree and leave nothing to draw an interval from"
"""Why a difference is not settled though its interval has no width."""

_CLASSES = {
    "E0": ("malformed call", "no JSON, no name, or arguments that are no object"),
    "E1": ("unknown tool", "no tool has this name"),
    "E2": (
        "missing or unexpected argument",
        "the tool asks for an argument that is not there, or knows none of this name",
    ),
    "E3": ("argument type", "a text where a number is due, and the like"),
    "E4": ("value not found", "well formed, but it names nothing in this world: no such file, id or user"),
    "E5": ("illegal value", "outside a list of choices, a range or a date format"),
    "E6": ("precondition unmet", "the world is not ready: not logged in, doors unlocked"),
    "E7": ("conflict", "it exists already, or is closed already"),
    "E8": ("time or size limit", "the call took longer, or gave back more, than we allow"),
    "S": ("soft failure", "the call was carried out and its answer says no, without being an error"),
    "W": ("silent", "the call succeeded, and only the verdict knows that it was the wrong one"),
}
"""`ErrorClass` in words: its name, and what it means."""

_EMPTY = Rate(0, 0)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A GitHub table; the first column is text, the others are right-aligned."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def aligned(table: str) -> str:
    """What `markdown_table` gives, padded for a terminal."""
    lines = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in table.rstrip("\n").split("\n")]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines[1] = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = ([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)


def error_name(error: str) -> str:
    """`E6 precondition unmet`."""
    name, _ = _CLASSES.get(error, ("", ""))
    return f"{error} {name}".strip()


def classes_glossary(errors: Iterable[ErrorClass]) -> str:
    """One line for each class, in order: its name and what it means."""
    return "".join(f"- *{error_name(error)}*: {_CLASSES[error][1]}.\n" for error in sorted(set(errors)))


def _by_arm(arms: Sequence[EvaluatedArm], cell: Callable[[tuple[EpisodeRecord, ...]], object]) -> list[str]:
    return [str(cell(arm.records)) for arm in arms]


def _arms_table(first: str, arms: Iterable[str], rows: Iterable[Sequence[str]], costs: Costs | None) -> str:
    """A column for each arm; right beneath the header what it spent, where costs are given."""
    names = list(arms)
    spent = [] if costs is None else [["*Spent by a run*", *(costs.get(name, "-") for name in names)]]
    return markdown_table([first, *names], [*spent, *rows])


def _names(arms: Sequence[EvaluatedArm]) -> list[str]:
    return [arm.name for arm in arms]


def metrics_table(
    arms: Sequence[EvaluatedArm], metrics: Sequence[Metric] = EPISODE_METRICS, *, costs: Costs | None = None
) -> str:
    """Metrics by arms, counted over all runs of an arm; the arrow points to the better side."""
    rows = [[metric.heading, *(str(estimate_arm(metric, arm)) for arm in arms)] for metric in metrics]
    rows.append(["Training runs", *(str(len(arm.runs)) for arm in arms)])
    rows.append(["Harness faults (excluded)", *_by_arm(arms, lambda r: f"{harness_faults(r).successes}/{len(r)}")])
    return _arms_table("", _names(arms), rows, costs)


def macro_table(macro: Macro, arms: Sequence[EvaluatedArm], name: Callable[[str], str], *, costs: Costs) -> str:
    """ERR of each slice, their unweighted mean with an interval over runs and tasks, ERR itself, and what is left out.

    Args:
        name: of a slice.
    """
    found = [estimate_slices(macro.rates, arm) for arm in arms]
    rows = [[name(key), *(str(one.get(key, _EMPTY)) for one in found)] for key in macro.slices]
    if macro.slices:
        rows.append([f"**{macro.heading}**", *(str(estimate_macro(macro, arm)) for arm in arms)])
    rows.append([ERR.heading, *(str(estimate_arm(ERR, arm)) for arm in arms)])
    left = ", ".join(f"{name(key)} {episodes}" for key, episodes in macro.left_out.items())
    return _arms_table("Recovered after", _names(arms), rows, costs) + (
        f"\nLeft out of the table and its mean, with fewer than {macro.floor} episodes over all runs: {left}.\n"
        if left
        else ""
    )


def effort_table(arms: Sequence[EvaluatedArm], *, costs: Costs | None = None) -> str:
    """Means that are no shares: how long recovery takes, and how much is wasted."""
    rows = [
        ["Steps from an error to the next clean call", *_by_arm(arms, steps_to_recover)],
        ["Calls beyond gold, in solved episodes", *_by_arm(arms, excess_calls)],
    ]
    return _arms_table("Mean [95 %, Student, runs pooled]", _names(arms), rows, costs)


def _sliced_table(
    first: str, arms: Sequence[EvaluatedArm], slices: Sequence[Mapping[ErrorClass, Share]], costs: Costs | None
) -> str:
    keys = sorted({key for one in slices for key in one})
    rows = [[error_name(key), *(str(one.get(key, _EMPTY)) for one in slices)] for key in keys]
    return _arms_table(first, _names(arms), rows, costs)


def repeats_table(arms: Sequence[EvaluatedArm], *, costs: Costs | None = None) -> str:
    """Identical repeats by the class of the error that was not heeded."""
    slices = [estimate_slices(lambda record: repeats_by_class([record]), arm) for arm in arms]
    return _sliced_table("Identical repeat after", arms, slices, costs)


def _probed(record: EpisodeRecord) -> dict[ErrorClass, Rate]:
    return {record.probe.error: PROBE.count(record)} if record.probe else {}


def probes_by_class_table(arms: Sequence[EvaluatedArm], *, costs: Costs | None = None) -> str:
    """Next call right, by the class of the injected error."""
    slices = [estimate_slices(_probed, arm) for arm in arms]
    return _sliced_table("Next call right after", arms, slices, costs)


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
    return f"{100 * one.value:.1f} %" if one.total else "-"


def comparisons_table(comparisons: Sequence[Comparison], *, costs: Costs | None = None) -> str:
    """Paired differences in points, with the tasks that changed sides and those that a harness fault excluded.

    Args:
        costs: what each side spent goes to a last column, where they are given.
    """
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
        *(["spent by a run"] if costs is not None else []),
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
            *([" → ".join(costs.get(arm, "-") for arm in (one.baseline, one.treatment))] if costs is not None else []),
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
    word = judgement(comparison, settled=settled) + ("" if settled else f": {_open_because(comparison)}")
    change = "" if math.isnan(comparison.difference) else f"{points(comparison)} points, "
    tasks = f"{comparison.tasks} tasks" + (f" ({comparison.excluded} excluded)" if comparison.excluded else "")
    return (
        f"{comparison.title}: {comparison.baseline} {_share(comparison.before)} → "
        f"{comparison.treatment} {_share(comparison.after)}, {change}{tasks}, "
        f"{comparison.runs[0]} and {comparison.runs[1]} runs: {word}."
    )


def _open_because(one: Comparison) -> str:
    """Why the interval settles nothing."""
    if math.isnan(one.difference):
        sides = ((one.baseline, one.before), (one.treatment, one.after))
        return f"nothing to count for {' and '.join(name for name, side in sides if not side.total)}"
    return NOTHING_VARIES if one.interval.low == one.interval.high else "the interval holds 0"


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


def groups_table(accounts: Mapping[str, GroupAccount], *, costs: Costs | None = None) -> str:
    """How the groups of each arm came out."""
    rows = [[title, *(str(pick(account)) for account in accounts.values())] for title, pick in _GROUP_ROWS]
    return _arms_table("", accounts, rows, costs)
