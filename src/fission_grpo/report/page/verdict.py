"""The top of the page: what came out in one sentence, the numbers behind it, and what to be careful about."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from fission_grpo.evaluation.compare_runs import PartContrast, RunComparison
from fission_grpo.evaluation.metrics import CUT_SHORT, ERR, FINAL, NCR, REPEAT, Metric, harness_faults, measure
from fission_grpo.evaluation.paired import Contrast, estimate
from fission_grpo.evaluation.records import EpisodeRecord
from fission_grpo.evaluation.statistics import Share
from fission_grpo.report.figures import WINDOW
from fission_grpo.report.headline import FEW_RUNS
from fission_grpo.report.page.change import RunChange, Shift
from fission_grpo.report.page.sources import PageRun
from fission_grpo.report.results import MetricsRows
from fission_grpo.report.tables import judgement, markdown_table, points
from fission_grpo.run.alarms import GAP, LARGEST_GAP, runaway
from fission_grpo.simulator.base import Leakage
from fission_grpo.types import EndReason, GroupKind

DEAD = 0.5
"""Share of exploration groups without a gradient from which the page warns; this and the other bounds are ours."""
TRUNCATED = 0.05
"""Share of trajectories or episodes that a limit ended."""
FALLBACKS = 0.05
"""Share of feedback that another simulator than the one asked had to write."""
APART = 0.05
"""Mean difference of the log-probabilities of sampling and training, in nats a token."""
FAR = 0.5
"""KL from the reference, in nats a token."""
COLLAPSED = 0.2
"""Entropy at the end as a share of that at the start."""
SPIKE = 10.0
"""Largest gradient norm as a multiple of the median."""

_LIMITS = {
    EndReason.LENGTH: "by the token limit of a message (rollouts.max_tokens)",
    EndReason.MAX_TURNS: "by the limit of messages (rollouts.max_turns)",
    EndReason.CONTEXT: "by the context window",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One number that matters."""

    label: str
    value: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Caution:
    """Something to know before the numbers are believed."""

    title: str
    text: str
    serious: bool = True
    """False where it is only good to know."""


def percent(share: Share) -> str:
    """`42.1 %`, or a dash where nothing was counted."""
    return f"{100 * share.value:.1f} %" if share.total else "-"


def counted(share: Share) -> str:
    """Interval and count."""
    if not share.total:
        return "nothing to count"
    low, high = 100 * share.interval.low, 100 * share.interval.high
    return f"{low:.1f} to {high:.1f} %, {share.successes:,} of {share.total:,}"


# One training run


def training_sentence(run: PageRun, change: RunChange) -> str:
    """From the first steps to the last, with the interval of the difference."""
    own = change.shift(FINAL)
    if own is None:
        return f"In {run.steps} steps no trajectory could be judged."
    what = "of the single messages right" if change.single_messages else "of its training tasks"
    verb = "got" if change.single_messages else "solved"
    first = (
        f"In the last {change.window} of its {run.steps} steps the policy {verb} {percent(own.after)} {what}, "
        f"in the first {change.window} {percent(own.before)}"
    )
    recovery = change.shift(ERR) or (change.recoveries if change.recoveries.counted else None)
    if recovery is None:
        return f"{first} ({interval_text(own)}); there is nothing to say of recovery."
    whose = "when one of its messages had failed it still got there" if change.shift(ERR) else "recoveries were right"
    return (
        f"{first} ({interval_text(own)}); {whose} in {percent(recovery.after)} of the cases, "
        f"at first in {percent(recovery.before)} ({interval_text(recovery)})."
    )


def interval_text(one: Shift) -> str:
    """The difference with its interval and what that settles."""
    low, high = 100 * one.interval.low, 100 * one.interval.high
    return f"{100 * one.difference:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}, {one.judgement}"


def shifts_table(change: RunChange) -> str:
    """Every metric of the first steps and of the last, as Markdown."""
    rows = [_shift_row(one.metric.heading, one) for one in change.own]
    rows += [_shift_row("Recoveries that are right ↑", change.recoveries)] if change.recoveries.counted else []
    header = ["While training", f"first {change.window} steps", f"last {change.window} steps", "difference"]
    return markdown_table(header, rows)


def _shift_row(heading: str, one: Shift) -> list[str]:
    return [heading, str(one.before), str(one.after), _difference_text(one) if one.counted else "-"]


def _difference_text(one: Shift) -> str:
    """As `interval_text`, for a cell of a table."""
    low, high = 100 * one.interval.low, 100 * one.interval.high
    return f"{100 * one.difference:+.1f} [{low:+.1f}, {high:+.1f}] points, {one.judgement}"


def training_tiles(run: PageRun, change: RunChange | None) -> list[Tile]:
    """Success, recovery, and what it cost."""
    tiles = []
    for one, label in _shown(change) if change else ():
        tiles.append(Tile(label=label, value=f"{percent(one.before)} → {percent(one.after)}", note=interval_text(one)))
    return tiles


def _shown(change: RunChange) -> Iterator[tuple[Shift, str]]:
    for metric, label in ((FINAL, "Exploration success"), (ERR, "Solved after an error of its own")):
        if one := change.shift(metric):
            yield one, label
    if change.recoveries.counted:
        yield change.recoveries, "Fission recoveries that are right"
    if one := change.shift(REPEAT):
        yield one, "Same failed call again, word for word"


def training_cautions(run: PageRun, change: RunChange | None) -> list[Caution]:
    """What the metrics and traces of one run warn of."""
    last = run.rows[-WINDOW:]
    found = [
        *_unfinished(run),
        *_signal(last),
        *_truncation(run),
        *_feedback(run),
        *_drift(run.rows),
        *_ran_away(run),
        *_faults(run.rows),
        *_provoked(change),
        Caution(
            title="One run",
            text="Another seed may come out differently, and without a control it stays open what fission did: "
            "`fission report CONTROL RUN` compares.",
            serious=False,
        ),
    ]
    return sorted(found, key=lambda one: not one.serious)


def _unfinished(run: PageRun) -> Iterator[Caution]:
    if run.steps < run.planned:
        yield Caution(title="Not finished", text=f"{run.steps} of {run.planned} steps have been made.")


def _signal(last: MetricsRows) -> Iterator[Caution]:
    dead = mean_of(last, "frac_reward_zero_std")
    if dead >= DEAD:
        right, wrong = mean_of(last, "groups/all_right"), mean_of(last, "groups/all_fail")
        yield Caution(
            title="Dead groups",
            text=f"{100 * dead:.0f} % of the exploration groups of the last {len(last)} steps had no gradient "
            f"(all right: {100 * right:.0f} %, all wrong: {100 * wrong:.0f} %). "
            f"{'Harder' if right >= wrong else 'Easier'} tasks, or larger groups, would give more to learn from.",
        )


def _truncation(run: PageRun) -> Iterator[Caution]:
    ends = Counter(one["end"] for trace in run.traces for one in trace["trajectories"])
    total = sum(ends.values())
    for reason, words in _LIMITS.items():
        if total and ends[reason] / total >= TRUNCATED:
            yield Caution(
                title="Truncation", text=f"{100 * ends[reason] / total:.1f} % of all trajectories were ended {words}."
            )


def _feedback(run: PageRun) -> Iterator[Caution]:
    given = [trace for trace in run.traces if trace["kind"] == GroupKind.FISSION]
    leaks = Counter(trace.get("feedback_leakage") for trace in given)
    if leaked := leaks[Leakage.LEAKED]:
        yield Caution(
            title="Leaks",
            text=f"{leaked:,} of {len(given):,} feedback texts gave the answer away and were replaced.",
        )
    elif given and leaks[Leakage.BLIND] + leaks[Leakage.CLEAN] == len(given):
        seen = f"{leaks[Leakage.CLEAN]:,} were checked against the reference" if leaks[Leakage.CLEAN] else ""
        blind = f"{leaks[Leakage.BLIND]:,} were written without the reference in sight" if leaks[Leakage.BLIND] else ""
        words = " and ".join(filter(None, (blind, seen)))
        yield Caution(title="No leaks", text=f"Of {len(given):,} feedback texts {words}.", serious=False)
    fallbacks = Counter(trace.get("feedback_fallback") for trace in given if trace.get("feedback_fallback"))
    if given and fallbacks.total() / len(given) >= FALLBACKS:
        reasons = ", ".join(f"{reason} {count}" for reason, count in fallbacks.most_common())
        yield Caution(title="Fallbacks", text=f"{fallbacks.total():,} of {len(given):,} feedback texts: {reasons}.")


def _drift(rows: MetricsRows) -> Iterator[Caution]:
    first, last = rows[:WINDOW], rows[-WINDOW:]
    known = GAP if any(GAP in row for row in last) else LARGEST_GAP  # older runs told the largest alone
    gap, distance = mean_of(last, known), mean_of(last, "update/kl")
    if gap > APART:
        yield Caution(
            title="Sampler and trainer differ",
            text=f"Their log-probabilities of the same tokens are {gap:.3f} nats apart on average.",
        )
    if distance > FAR:
        yield Caution(title="Drift", text=f"The policy has moved {distance:.2f} nats a token from its reference (KL).")
    early, late = mean_of(first, "update/entropy"), mean_of(last, "update/entropy")
    if early > 0 and late < COLLAPSED * early:
        yield Caution(
            title="Entropy fell",
            text=f"From {early:.3f} to {late:.3f} nats a token: the policy samples little that is new.",
        )
    norms = [row["update/grad_norm"] for row in rows if row.get("update/grad_norm")]
    if norms and max(norms) > SPIKE * median(norms):
        step = max(rows, key=lambda row: row.get("update/grad_norm") or 0.0)["step"]
        yield Caution(
            title="Gradient spike",
            text=f"Step {step}: norm {max(norms):.3g}, {max(norms) / median(norms):.0f} times the median.",
            serious=False,
        )


def _ran_away(run: PageRun) -> Iterator[Caution]:
    trainer = run.settings.get("trainer", {})
    remedy = {name: float(trainer.get(name, 0.0)) for name in ("learning_rate", "beta")}
    if said := runaway(run.rows, **remedy):
        yield Caution(title="Ran away", text=f"{said[0].upper()}{said[1:]}.")


def _faults(rows: MetricsRows) -> Iterator[Caution]:
    masked = sum(row.get("masked", 0) + row.get("fission/masked", 0) for row in rows)
    if masked:
        yield Caution(title="Faults of ours", text=f"{masked:,.0f} trajectories met a fault of the harness: masked.")


def _provoked(change: RunChange | None) -> Iterator[Caution]:
    """The policy may come to err because recovery pays."""
    for one in change.own if change else ():
        if one.metric.name == "erred" and one.counted and one.judgement == "worse":
            yield Caution(
                title="More errors",
                text=f"Trajectories with an error went from {percent(one.before)} to {percent(one.after)} "
                f"({interval_text(one)}): look whether it errs because recovery pays.",
            )


def mean_of(rows: MetricsRows, key: str) -> float:
    """Over the rows that have it; NaN without any."""
    values = [float(row[key]) for row in rows if row.get(key) is not None]
    return fmean(values) if values else math.nan


# Evaluations


def main_part(parts: Mapping[str, Sequence[EpisodeRecord]]) -> str:
    """The part that a headline is about: ordinary episodes before probes."""
    counted_parts = {name: records for name, records in parts.items() if records}
    return next((name for name, records in counted_parts.items() if not records[0].probe), next(iter(counted_parts)))


def evaluation_sentence(name: str, records: Sequence[EpisodeRecord]) -> str:
    """Success, and what follows an error."""
    final, recovery = (estimate(metric, records) for metric in (FINAL, ERR))
    solved = f"{name} solved {percent(final)} of {final.total:,} episodes (95 % interval {_interval(final)})"
    if not recovery.total:
        return f"{solved}; none of its messages failed, so nothing can be said of recovery."
    return (
        f"{solved}, and {percent(recovery)} of the {recovery.total:,} in which one of its messages had failed "
        f"({_interval(recovery)})."
    )


def _interval(share: Share) -> str:
    return f"{100 * share.interval.low:.1f} to {100 * share.interval.high:.1f} %"


def evaluation_tiles(records: Sequence[EpisodeRecord]) -> list[Tile]:
    """The same as numbers."""
    shown: tuple[tuple[Metric, str], ...] = (
        (FINAL, "Final success"),
        (ERR, "Solved after an error of its own"),
        (NCR, "Next step after an error is clean"),
        (REPEAT, "Same failed call again, word for word"),
    )
    shares = {label: estimate(metric, records) for metric, label in shown}
    return [Tile(label=label, value=percent(share), note=counted(share)) for label, share in shares.items()]


def evaluation_cautions(name: str, records: Sequence[EpisodeRecord]) -> list[Caution]:
    """Limits that cut episodes, and faults of ours."""
    cut, faults = measure(CUT_SHORT, records), harness_faults(records)
    found = []
    if cut.total and cut.value >= TRUNCATED:
        found.append(Caution(title="Cut short", text=f"{name}: a limit ended {percent(cut)} of the episodes."))
    if faults.successes:
        found.append(
            Caution(title="Faults of ours", text=f"{name}: {faults.successes} of {faults.total} episodes left out.")
        )
    return found


# Comparisons


def comparison_sentences(comparison: RunComparison) -> list[str]:
    """Each run against the first, on the part that a headline is about; the last run's comes first."""
    return [_contrast_sentence(one) for one in reversed([*_headline_parts(comparison)])]


def _headline_parts(comparison: RunComparison) -> Iterator[PartContrast]:
    for run in comparison.runs[1:]:
        found = [one for one in comparison.contrasts if one.treatment == run.name]
        plain = [one for one in found if not any(record.probe for record in one.paired.before)]
        yield (plain or found)[0]


def _contrast_sentence(one: PartContrast) -> str:
    """The headline of the part, and recovery where that is another."""
    by_name = {each.metric.name: each for each in one.contrasts}
    recovery = by_name.get(ERR.name)
    told = [one.headline, *([recovery] if recovery and recovery is not one.headline else [])]
    words = "; ".join(_told(each, one) for each in told)
    return f"On the {one.paired.entries} entries that both played, {words}."


def _told(each: Contrast, one: PartContrast) -> str:
    settled = each.p_value is not None and each.p_value < 0.05 and each.interval.excludes_zero
    after, before = percent(each.after), percent(each.before)
    sides = {
        FINAL.name: f"{one.treatment} solved {after} and {one.baseline} {before}",
        ERR.name: f"of those in which one of its own messages had failed, {one.treatment} got {after} right and "
        f"{one.baseline} {before}",
    }.get(each.metric.name, f"{each.title} of {one.treatment} is {after} and of {one.baseline} {before}")
    if math.isnan(each.difference):
        return f"{sides}: nothing to compare"
    low, high = 100 * each.interval.low, 100 * each.interval.high
    change = f"{100 * each.difference:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"
    return f"{sides}: {change}, {judgement(each, settled=settled)}"


def comparison_tiles(comparison: RunComparison) -> list[Tile]:
    """The headline metrics of the last run against the first."""
    one = [*_headline_parts(comparison)][-1]
    return [
        Tile(label=each.title, value=f"{percent(each.before)} → {percent(each.after)}", note=f"{points(each)} points")
        for each in one.contrasts[:4]
    ]


def few_runs(runs: int) -> list[Caution]:
    """Where training noise is hardly in an interval."""
    if runs >= FEW_RUNS:
        return []
    return [
        Caution(
            title="Few runs",
            text=f"{runs} training run{'s' if runs > 1 else ''} an arm: intervals say little of what other seeds "
            f"would give; {FEW_RUNS} or more do.",
        )
    ]


def ordered(cautions: Iterable[Caution]) -> list[Caution]:
    """Serious ones first, each once."""
    return sorted(dict.fromkeys(cautions), key=lambda one: not one.serious)


def settings_text(settings: Mapping[str, Any]) -> str:
    """One line: what was trained, and how."""
    trainer, fission = settings.get("trainer", {}), settings.get("fission")
    known = {
        "model": str(settings.get("model", "")).rpartition("/")[2],
        "objective": trainer.get("objective", ""),
        "group size": trainer.get("group_size", ""),
        "fission": "off" if "trainer" in settings and not fission else "",
        "seed": trainer.get("seed", settings.get("seed", "")),
    }
    return ", ".join(f"{name} {value}" for name, value in known.items() if value != "")
