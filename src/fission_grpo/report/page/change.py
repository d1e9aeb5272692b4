"""What a training run changed: the same metrics over its first and its last steps, on the trajectories it explored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fission_grpo.evaluation.metrics import (
    ERR,
    ERRED,
    FINAL,
    FIRST_ATTEMPT,
    NCR,
    REPEAT,
    Better,
    Metric,
    Quantity,
    fates,
)
from fission_grpo.evaluation.paired import EvaluatedArm, estimate
from fission_grpo.evaluation.records import EpisodeRecord
from fission_grpo.evaluation.statistics import Interval, Share, unpaired_interval
from fission_grpo.report.figures import WINDOW
from fission_grpo.report.flow import Fates
from fission_grpo.report.page.episodes import exploration_episodes, recovery_episodes, recovery_fates
from fission_grpo.report.page.sources import PageRun, Trace
from fission_grpo.types import EndReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """One metric over the first and over the last steps; different tasks, so nothing is paired."""

    metric: Quantity
    before: Share
    after: Share

    @property
    def difference(self) -> float:
        return self.after.value - self.before.value

    @property
    def interval(self) -> Interval:
        return unpaired_interval(self.before, self.after)

    @property
    def counted(self) -> bool:
        return bool(self.before.total and self.after.total)

    @property
    def judgement(self) -> str:
        """In a word."""
        if not self.interval.excludes_zero:
            return "not settled"
        return "better" if (self.difference > 0) == (self.metric.better is Better.HIGHER) else "worse"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunChange:
    """The first and the last steps of one run."""

    window: int
    """Steps at either end."""
    single_messages: bool
    """Exploration is single messages: no trajectory goes on after its error; only recoveries show what follows one."""
    own: tuple[Shift, ...]
    """Of what the policy did by itself."""
    recoveries: Shift
    """Right recoveries from explicit errors, over those sampled."""
    ends: tuple[EvaluatedArm, EvaluatedArm]
    """What was explored in the first and in the last steps."""
    fates: Mapping[str, Fates]
    """By title: what became of the policy's errors, or of those that recoveries were given, before and after."""

    def shift(self, metric: Metric) -> Shift | None:
        """That of a metric, where it counted something at both ends."""
        return next((one for one in self.own if one.metric.name == metric.name and one.counted), None)


def run_change(run: PageRun) -> RunChange | None:
    """None without traces, or with a single step."""
    steps = sorted({trace["step"] for trace in run.traces})
    if len(steps) < 2:
        return None
    window = min(WINDOW, max(1, len(steps) // 3))
    known = {str(trace["group"]): trace for trace in run.traces}
    first, last = ({*steps[:window]}, {*steps[-window:]})
    ends = [[trace for trace in run.traces if trace["step"] in chosen] for chosen in (first, last)]
    before, after = map(exploration_episodes, ends)
    early, late = (recovery_episodes(traces, known) for traces in ends)
    single = all(one["end"] == EndReason.HORIZON for trace in ends[0] for one in _explored(trace))
    metrics = (FINAL, FIRST_ATTEMPT, ERRED) if single else (FINAL, FIRST_ATTEMPT, ERRED, ERR, NCR, REPEAT)
    return RunChange(
        window=window,
        single_messages=single,
        own=tuple(_shift(metric, before, after) for metric in metrics),
        recoveries=_shift(FINAL, early, late),
        ends=(_end("first", window, before), _end("last", window, after)),
        fates=_fates(single, window, (before, after), (early, late)),
    )


def _end(when: str, window: int, records: Sequence[EpisodeRecord]) -> EvaluatedArm:
    return EvaluatedArm(name=f"{when} {window} steps", runs={0: tuple(records)})


def _explored(trace: Trace) -> Sequence[Mapping[str, object]]:
    found: Sequence[Mapping[str, object]] = trace["trajectories"] if trace["parent"] is None else ()
    return found


def _shift(metric: Metric, before: Sequence[EpisodeRecord], after: Sequence[EpisodeRecord]) -> Shift:
    return Shift(metric=metric, before=estimate(metric, before), after=estimate(metric, after))


def _fates(
    single: bool,
    window: int,
    own: tuple[Sequence[EpisodeRecord], Sequence[EpisodeRecord]],
    given: tuple[Sequence[EpisodeRecord], Sequence[EpisodeRecord]],
) -> dict[str, Fates]:
    if single:
        titles, found = ("recoveries", map(recovery_fates, given))
    else:
        titles, found = ("its own errors", map(fates, own))
    return {f"{titles}, {when} {window} steps": one for when, one in zip(("first", "last"), found, strict=True)}
