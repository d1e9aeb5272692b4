"""Accuracy and recovery on a benchmark with an official verdict, over everything or for one class of error.

Notation of `metrics`, with V(i) = the checker's verdict alone (how the episode ended is not asked) and, for the user
turns t that the policy played and the checker judges, ok(i, t) = the checker's test of the turn, made even after an
earlier one failed, clean(i, t) = 1 where no earlier judged turn of the episode was wrong, and e(i, t) = 1 where some
step of the turn erred. Metrics over turns count nothing where a record does not know ok(i, t).

All are ours but V: arXiv:2601.15625 reports an "error recovery rate" without a public formula, and ERR follows its
wording. The first identity of `metrics` holds here with V: accuracy = P(error) ERR + (1 - P(error)) clean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from fission_grpo.evaluation.events import ErrorEvent, Fate, Follow, error_events, probe_event
from fission_grpo.evaluation.metrics import Better, Metric
from fission_grpo.evaluation.records import EpisodeRecord
from fission_grpo.evaluation.statistics import Mean, Rate
from fission_grpo.types import EndReason, ErrorClass

_NOTHING = Rate(0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayedTurn:
    """One user turn that the policy played and the checker judged."""

    ok: bool
    clean: bool
    """No earlier judged turn was wrong."""
    events: tuple[ErrorEvent, ...]


def played_turns(episode: EpisodeRecord) -> Iterator[PlayedTurn]:
    """The judged turns in which the policy said something; none where the record does not know."""
    played = {turn.user_turn for turn in episode.turns}
    clean = True
    for place, ok in enumerate(episode.turn_ok or ()):
        if ok is not None and place in played:
            yield PlayedTurn(ok=ok, clean=clean, events=error_events(episode, user_turn=place))
        clean = clean and ok is not False


ACCURACY = Metric(
    name="accuracy",
    title="Accuracy",
    meaning="verdict right, over all episodes",
    count=lambda episode: Rate.of(episode.valid),
)
CLEAN_ACCURACY = Metric(
    name="clean_accuracy",
    title="Accuracy without errors",
    meaning="verdict right, over episodes without an error",
    count=lambda episode: Rate.of(episode.valid, given=not episode.erred),
)
ONE_SHOT = Metric(
    name="one_shot",
    title="One-shot turns",
    meaning="turn right, over judged turns without an error",
    count=lambda episode: _over_turns(episode, lambda turn: not turn.events),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Among:
    """Which errors are counted: all, or those of one class."""

    error: ErrorClass | None = None

    def events(self, events: Iterable[ErrorEvent]) -> list[ErrorEvent]:
        return [event for event in events if self.error in (None, event.error)]

    def of(self, episode: EpisodeRecord) -> list[ErrorEvent]:
        return self.events(error_events(episode))


ALL = Among()


def _over_turns(episode: EpisodeRecord, given: Callable[[PlayedTurn], bool]) -> Rate:
    return sum((Rate.of(turn.ok, given=given(turn)) for turn in played_turns(episode)), start=_NOTHING)


def _over_errors(
    among: Among, success: Callable[[ErrorEvent], bool], given: Callable[[ErrorEvent], bool] = lambda event: True
) -> Callable[[EpisodeRecord], Rate]:
    def count(episode: EpisodeRecord) -> Rate:
        return sum((Rate.of(success(event), given=given(event)) for event in among.of(episode)), start=_NOTHING)

    return count


def err(among: Among = ALL) -> Metric:
    """Error recovery rate: the headline."""
    return Metric(
        name="err",
        title="ERR",
        meaning="verdict right, over episodes with at least one error or malformed message",
        count=lambda episode: Rate.of(episode.valid, given=bool(among.of(episode))),
    )


def err_turn(among: Among = ALL) -> Metric:
    """The same, turn by turn."""
    return Metric(
        name="err_turn",
        title="ERR_turn",
        meaning="turn right, over judged turns with at least one error",
        count=lambda episode: _over_turns(episode, lambda turn: bool(among.events(turn.events))),
    )


def err_turn_clean(among: Among = ALL) -> Metric:
    """The diagnosis to prefer: failures that were inherited from an earlier turn are left out."""
    return Metric(
        name="err_turn|clean",
        title="ERR_turn given clean",
        meaning="turn right, over judged turns with at least one error and no wrong turn before them",
        count=lambda episode: _over_turns(episode, lambda turn: turn.clean and bool(among.events(turn.events))),
    )


def next_call_recovery(steps: int, among: Among = ALL) -> Metric:
    """NCR@k."""
    return Metric(
        name=f"ncr@{steps}",
        title=f"NCR@{steps}",
        meaning=f"an error-free step within {steps} step(s) of the same user turn, over all errors",
        count=_over_errors(among, lambda event: event.clean_after is not None and event.clean_after <= steps),
    )


def identical_repeat(among: Among = ALL) -> Metric:
    """RIR."""
    return Metric(
        name="repeat",
        title="Identical repeat",
        meaning="the next step holds, word for word, a call that just failed, over errors that a step follows",
        count=_over_errors(among, lambda event: event.repeated, given=lambda event: event.follow is Follow.CALLED),
        better=Better.LOWER,
    )


def abandoned(among: Among = ALL) -> Metric:
    """The policy hears of the error and stops calling."""
    return Metric(
        name="abandon",
        title="Abandoned",
        meaning="answered in words right after the error, over all errors",
        count=_over_errors(among, lambda event: event.fate is Fate.GAVE_UP),
        better=Better.LOWER,
    )


def stopped(among: Among = ALL) -> Metric:
    """Neither heard nor given up: limits, and malformed messages that end an official turn."""
    return Metric(
        name="stopped",
        title="Cut off",
        meaning="no next step, because of a limit or because the malformed message ended the turn, over all errors",
        count=_over_errors(among, lambda event: event.fate is Fate.CUT_OFF),
        better=Better.LOWER,
    )


def false_success(among: Among | None = None) -> Metric:
    """It believes that it is done. For one class: over the episodes with an error of it."""
    return Metric(
        name="false_success",
        title="False success",
        meaning="ended in words with no error left standing, yet the verdict is wrong, over all episodes "
        "(for one class: those with an error of it)",
        count=lambda episode: Rate.of(_believes(episode), given=among is None or bool(among.of(episode))),
        better=Better.LOWER,
    )


def recovery_metrics(error: ErrorClass | None = None) -> tuple[Metric, ...]:
    """Everything that can be asked of the errors of one class, or of all of them."""
    among = Among(error=error)
    return (
        *(err(among), err_turn(among), err_turn_clean(among)),
        *(next_call_recovery(1, among), next_call_recovery(3, among)),
        *(identical_repeat(among), abandoned(among), stopped(among)),
        false_success(None if error is None else among),
    )


ERRED = Metric(
    name="erred",
    title="Episodes with an error",
    meaning="at least one error or malformed message, over all episodes",
    count=lambda episode: Rate.of(episode.erred),
    better=Better.LOWER,
)
BENCHMARK_METRICS: tuple[Metric, ...] = (ACCURACY, ERRED, CLEAN_ACCURACY, ONE_SHOT, *recovery_metrics())
"""What a benchmark with an official verdict is measured by."""

PROBE_TURN = Metric(
    name="probe_turn",
    title="Probe: turn right",
    meaning="the user turn of the injected error ends right by the checker's test, over probes with a known one",
    count=lambda episode: _probe_turn(episode),
)


def error_classes(records: Iterable[EpisodeRecord]) -> list[ErrorClass]:
    """The classes that occur, in order."""
    return sorted({event.error for record in records if not record.harness_fault for event in error_events(record)})


def fates(records: Iterable[EpisodeRecord]) -> dict[ErrorClass, dict[Fate, int]]:
    """What became of the errors of each class at the very next step; a probe's injected error counts as one."""
    counts: dict[ErrorClass, dict[Fate, int]] = {}
    for record in records:
        injected = probe_event(record)
        for event in (*([injected] if injected else []), *error_events(record)):
            if not record.harness_fault:
                row = counts.setdefault(event.error, dict.fromkeys(Fate, 0))
                row[event.fate] += 1
    return dict(sorted(counts.items()))


def steps_to_recover(records: Iterable[EpisodeRecord], among: Among = ALL) -> Mean:
    """Steps from an error to the first error-free step of the same user turn, over errors that have one."""
    return Mean.of([event.clean_after for event in _events(records, among) if event.clean_after is not None])


def tokens_to_recover(records: Iterable[EpisodeRecord], among: Among = ALL) -> Mean:
    """Sampled tokens on that way, the error-free step included; errors whose tokens nobody counted are left out."""
    return Mean.of([event.tokens_after for event in _events(records, among) if event.tokens_after is not None])


def _events(records: Iterable[EpisodeRecord], among: Among) -> Iterator[ErrorEvent]:
    return (event for record in records if not record.harness_fault for event in among.of(record))


def _believes(episode: EpisodeRecord) -> bool:
    stands = any(event.follow is Follow.ANSWERED for event in error_events(episode))
    return not episode.valid and episode.end is EndReason.ANSWERED and not stands


def _probe_turn(episode: EpisodeRecord) -> Rate:
    if episode.probe is None or episode.turn_ok is None or not episode.turns:
        return _NOTHING
    turn = episode.turns[0].user_turn
    ok = episode.turn_ok[turn] if turn < len(episode.turn_ok) else None
    return Rate.of(ok is True, given=ok is not None)
