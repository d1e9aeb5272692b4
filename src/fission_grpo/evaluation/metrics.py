"""What is measured: pure functions of episode records, each a count over a count.

A metric maps one episode to the `Rate` that it contributes; over many episodes the rates add up. That makes every
denominator visible and lets two arms be compared item by item. Episodes with a harness fault contribute to none.

Notation, for an episode i with steps s (assistant messages that call a tool) inside one user turn t: e(s) = 1 if a
result of s is an explicit error or the message is malformed; V(i) = the verdict. On our own tasks an episode is right
only if the policy itself ended it (`EpisodeRecord.ok`); an official verdict does not ask how it ended (`valid`). For
the user turns that the policy played and the checker judges, ok(i, t) = the checker's test of the turn, made even after
an earlier one failed; metrics over turns count nothing where a record does not know it.

The recovery metrics are ours: arXiv:2601.15625 reports an "error recovery rate" without a public formula, and ERR here
follows its wording, P(final success | at least one error in the episode).

Two identities hold by construction and are worth reading together, because ERR alone rewards making easy errors:
success = P(error) ERR + (1 - P(error)) clean, and final + false success + gave up + cut short = 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from enum import StrEnum

from fission_grpo.evaluation.events import ErrorEvent, Fate, Follow, error_events, probe_event
from fission_grpo.evaluation.records import EpisodeRecord
from fission_grpo.evaluation.statistics import Mean, Rate
from fission_grpo.types import EndReason, ErrorClass

_NOTHING = Rate(0, 0)


class Better(StrEnum):
    """Which way a metric should move."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """What is measured, by name."""

    name: str
    title: str
    meaning: str
    """One line: what is counted, over what."""
    better: Better = Better.HIGHER

    @property
    def heading(self) -> str:
        """The title with an arrow to the better side."""
        return f"{self.title} {'↑' if self.better is Better.HIGHER else '↓'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric(Quantity):
    """A named count over a count."""

    rule: Callable[[EpisodeRecord, ErrorClass | None], Rate]
    """The contribution of one episode, with the class of errors that matter; `Rate(0, 0)` where it does not count."""
    error: ErrorClass | None = None
    """Of the recovery metrics: only errors of this class are counted, and what has some."""

    def count(self, episode: EpisodeRecord) -> Rate:
        """The contribution of one episode."""
        return self.rule(episode, self.error)


def measure(metric: Metric, records: Iterable[EpisodeRecord]) -> Rate:
    """The metric over all episodes without a harness fault."""
    return sum((metric.count(record) for record in records if not record.harness_fault), start=_NOTHING)


def by_slice(metric: Metric, records: Iterable[EpisodeRecord], key: Callable[[EpisodeRecord], str]) -> dict[str, Rate]:
    """The metric for each value of `key`, in order of the values."""
    slices: dict[str, Rate] = {}
    for record in records:
        if not record.harness_fault:
            slices[key(record)] = slices.get(key(record), _NOTHING) + metric.count(record)
    return dict(sorted(slices.items()))


def harness_faults(records: Iterable[EpisodeRecord]) -> Rate:
    """Episodes that a fault of our machinery made invalid, over all episodes."""
    return sum((Rate.of(record.harness_fault) for record in records), start=_NOTHING)


# Over episodes

FINAL = Metric(
    name="final",
    title="Final success",
    meaning="verdict right and ended by the policy itself, over all episodes",
    rule=lambda episode, _: Rate.of(episode.ok),
)
ACCURACY = Metric(
    name="accuracy",
    title="Accuracy",
    meaning="verdict right, over all episodes",
    rule=lambda episode, _: Rate.of(episode.valid),
)
FIRST_ATTEMPT = Metric(
    name="first_attempt",
    title="First-attempt success",
    meaning="final success without a single error or malformed message, over all episodes",
    rule=lambda episode, _: Rate.of(episode.ok and not episode.erred),
)
FIRST_CALL = Metric(
    name="first_call",
    title="First call right",
    meaning="the first call is a target call and its message makes no error, over episodes with a known target",
    rule=lambda episode, _: Rate.of(
        episode.first_call_right is True and not episode.turns[0].erred, given=episode.first_call_right is not None
    ),
)
ERRED = Metric(
    name="erred",
    title="Episodes with an error",
    meaning="at least one error or malformed message, over all episodes",
    rule=lambda episode, _: Rate.of(episode.erred),
    better=Better.LOWER,
)
CLEAN = Metric(
    name="clean",
    title="Success without errors",
    meaning="final success, over episodes without an error",
    rule=lambda episode, _: Rate.of(episode.ok, given=not episode.erred),
)
CLEAN_ACCURACY = Metric(
    name="clean_accuracy",
    title="Accuracy without errors",
    meaning="verdict right, over episodes without an error",
    rule=lambda episode, _: Rate.of(episode.valid, given=not episode.erred),
)
GAVE_UP = Metric(
    name="gave_up",
    title="Gave up",
    meaning="ended in words, let an error stand, and the verdict is wrong, over all episodes",
    rule=lambda episode, _: Rate.of(_ended_wrong(episode) and _let_an_error_stand(episode)),
    better=Better.LOWER,
)
CUT_SHORT = Metric(
    name="cut_short",
    title="Cut short",
    meaning="ended by a limit (or after the one message of a decision point), no final success, over all episodes",
    rule=lambda episode, _: Rate.of(episode.end is not EndReason.ANSWERED),
    better=Better.LOWER,
)
FALSE_SUCCESS = Metric(
    name="false_success",
    title="False success",
    meaning="ended in words with no error left standing, yet the verdict is wrong, over all episodes "
    "(for one class: those with an error of it)",
    rule=lambda episode, error: Rate.of(
        _ended_wrong(episode) and not _let_an_error_stand(episode),
        given=error is None or bool(error_events(episode, error=error)),
    ),
    better=Better.LOWER,
)

# Over errors, and over the episodes and turns that have one

ERR = Metric(
    name="err",
    title="Error recovery (ERR)",
    meaning="final success, over episodes with at least one error or malformed message",
    rule=lambda episode, error: Rate.of(episode.ok, given=bool(error_events(episode, error=error))),
)
OFFICIAL_ERR = replace(
    ERR,
    meaning="verdict right, over episodes with at least one error or malformed message",
    rule=lambda episode, error: Rate.of(episode.valid, given=bool(error_events(episode, error=error))),
)
"""ERR with the official verdict, as ACCURACY is FINAL with it. Both are called `err`, because no evaluation has both:
in every file that is the key of the ERR that fits its tasks."""
ERR_TURN = Metric(
    name="err_turn",
    title="ERR_turn",
    meaning="turn right, over judged turns with at least one error",
    rule=lambda episode, error: _over_turns(episode, lambda turn: turn.erred(error)),
)
ERR_TURN_CLEAN = Metric(
    name="err_turn|clean",
    title="ERR_turn given clean",
    meaning="turn right, over judged turns with at least one error and no wrong turn before them",
    rule=lambda episode, error: _over_turns(episode, lambda turn: turn.clean and turn.erred(error)),
)
"""The diagnosis to prefer: failures that were inherited from an earlier turn are left out."""
ONE_SHOT = Metric(
    name="one_shot",
    title="One-shot turns",
    meaning="turn right, over judged turns without an error",
    rule=lambda episode, _: _over_turns(episode, lambda turn: not turn.events),
)


def recovered_within(steps: int) -> Metric:
    """NCR@k: some step among the next k of the user turn makes no error."""
    return Metric(
        name=f"ncr@{steps}",
        title="Next-call recovery (NCR@1)" if steps == 1 else f"Recovery within {steps} steps (NCR@{steps})",
        meaning=f"an error-free step within {steps} step(s) of the same user turn, over all errors",
        rule=_over_errors(lambda event: event.clean_after is not None and event.clean_after <= steps),
    )


def _over_errors(
    success: Callable[[ErrorEvent], bool], given: Callable[[ErrorEvent], bool] = lambda event: True
) -> Callable[[EpisodeRecord, ErrorClass | None], Rate]:
    """The rule of a metric whose unit is the error."""
    return lambda episode, error: sum(
        (Rate.of(success(event), given=given(event)) for event in error_events(episode, error=error)), start=_NOTHING
    )


def _over_injected(
    success: Callable[[ErrorEvent], bool], given: Callable[[ErrorEvent], bool] = lambda event: True
) -> Callable[[EpisodeRecord, ErrorClass | None], Rate]:
    """The rule of a metric whose unit is the injected error of a probe."""

    def rule(episode: EpisodeRecord, _: ErrorClass | None) -> Rate:
        event = probe_event(episode)
        return _NOTHING if event is None else Rate.of(success(event), given=given(event))

    return rule


def _called(event: ErrorEvent) -> bool:
    return event.follow is Follow.CALLED


NCR = recovered_within(1)
REPEAT = Metric(
    name="repeat",
    title="Identical repeat (RIR)",
    meaning="the next step holds, word for word, a call that just failed, over errors that a step follows",
    rule=_over_errors(lambda event: event.repeated, given=_called),
    better=Better.LOWER,
)
ABANDON = Metric(
    name="abandon",
    title="Abandoned after an error",
    meaning="answered in words right after the error, over all errors",
    rule=_over_errors(lambda event: event.fate is Fate.GAVE_UP),
    better=Better.LOWER,
)
CUT_OFF = Metric(
    name="stopped",
    title="Cut off after an error",
    meaning="no next step, because of a limit or because the malformed message ended the turn, over all errors",
    rule=_over_errors(lambda event: event.fate is Fate.CUT_OFF),
    better=Better.LOWER,
)

# Over probes: the error is injected

PROBE = Metric(
    name="probe",
    title="Probe: next call right",
    meaning="the call after the injected error is a right one, over probes",
    rule=lambda episode, _: Rate.of(
        episode.probe is not None and episode.probe.next_call_right, given=episode.probe is not None
    ),
)
PROBE_TURN = Metric(
    name="probe_turn",
    title="Probe: turn right",
    meaning="the user turn of the injected error ends right by the checker's test, over probes with a known one",
    rule=lambda episode, _: _probe_turn(episode),
)
PROBE_REPEAT = Metric(
    name="probe_repeat",
    title="Probe: identical repeat",
    meaning="the next step repeats the injected call word for word, over probes that a step follows",
    rule=_over_injected(lambda event: event.repeated, given=_called),
    better=Better.LOWER,
)
PROBE_ABANDON = Metric(
    name="probe_abandon",
    title="Probe: abandoned",
    meaning="answered in words right after the injected error, over probes",
    rule=_over_injected(lambda event: event.follow is Follow.ANSWERED),
    better=Better.LOWER,
)

EPISODE_METRICS: tuple[Metric, ...] = (
    *(FIRST_CALL, FIRST_ATTEMPT, FINAL, ERRED, ERR, CLEAN),
    *(NCR, recovered_within(3), REPEAT, ABANDON, CUT_OFF),
    *(FALSE_SUCCESS, GAVE_UP, CUT_SHORT),
)
"""What our own episodes are measured by."""
PROBE_METRICS: tuple[Metric, ...] = (PROBE, PROBE_REPEAT, PROBE_ABANDON, FINAL)
RECOVERY_METRICS: tuple[Metric, ...] = (
    *(OFFICIAL_ERR, ERR_TURN, ERR_TURN_CLEAN, NCR, recovered_within(3)),
    *(REPEAT, ABANDON, CUT_OFF, FALSE_SUCCESS),
)
"""What can be asked of the errors on a benchmark, of all of them or of one class."""
BENCHMARK_METRICS: tuple[Metric, ...] = (ACCURACY, ERRED, CLEAN_ACCURACY, ONE_SHOT, *RECOVERY_METRICS)
"""What a benchmark with an official verdict is measured by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayedTurn:
    """One user turn that the policy played and the checker judged."""

    ok: bool
    clean: bool
    """No earlier judged turn was wrong."""
    events: tuple[ErrorEvent, ...]

    def erred(self, error: ErrorClass | None) -> bool:
        """Some error, of this class if one is given."""
        return any(error in (None, event.error) for event in self.events)


def played_turns(episode: EpisodeRecord) -> Iterator[PlayedTurn]:
    """The judged turns in which the policy said something; none where the record does not know."""
    played = {turn.user_turn for turn in episode.turns}
    clean = True
    for place, ok in enumerate(episode.turn_ok or ()):
        if ok is not None and place in played:
            yield PlayedTurn(ok=ok, clean=clean, events=error_events(episode, user_turn=place))
        clean = clean and ok is not False


def _over_turns(episode: EpisodeRecord, given: Callable[[PlayedTurn], bool]) -> Rate:
    return sum((Rate.of(turn.ok, given=given(turn)) for turn in played_turns(episode)), start=_NOTHING)


def _ended_wrong(episode: EpisodeRecord) -> bool:
    return episode.end is EndReason.ANSWERED and not episode.valid


def _let_an_error_stand(episode: EpisodeRecord) -> bool:
    return any(event.follow is Follow.ANSWERED for event in error_events(episode))


def _probe_turn(episode: EpisodeRecord) -> Rate:
    if episode.probe is None or episode.turn_ok is None or not episode.turns:
        return _NOTHING
    turn = episode.turns[0].user_turn
    ok = episode.turn_ok[turn] if turn < len(episode.turn_ok) else None
    return Rate.of(ok is True, given=ok is not None)


# By tool and by class, and their unweighted means

MACRO_FLOOR = 10
"""Fewest episodes with an error of a tool or class, over everything compared, for it to be in the mean; where more runs
than that are compared, one a run on average. A slice in the mean weighs as much as any other, however few episodes it
has: this keeps out those that many runs do not meet at all, and in which single episodes decide the share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Macro(Quantity):
    """ERR as the unweighted mean over the tools that failed, or over the classes of error.

    ERR itself weighs a tool by how often it fails, so a policy can move it by failing elsewhere. An episode counts once
    for each distinct tool (class) among its errors. Slices that count nothing are left out of a mean.
    """

    keys: Callable[[EpisodeRecord], Set[str]]
    """The tools or classes among the errors of one episode."""
    slices: tuple[str, ...]
    """The tools or classes in the mean; those with the most episodes first."""
    left_out: Mapping[str, int]
    """Episodes of those below the floor."""
    floor: int
    """Fewest episodes of a slice."""

    def rates(self, episode: EpisodeRecord) -> dict[str, Rate]:
        """The contribution of one episode to the slices that it has."""
        return {key: Rate.of(episode.ok) for key in self.keys(episode) if key in self.slices}


def recovery_by_tool(runs: Sequence[Iterable[EpisodeRecord]], *, floor: int = MACRO_FLOOR) -> Macro:
    """By the tool of each step's first error; a malformed message names none.

    Args:
        runs: everything that is compared, so that all are averaged over the same tools.
        floor: fewest episodes of a tool, where `runs` are not more; see `MACRO_FLOOR`.
    """
    return _macro("tool", "tools", runs, _failed_tools, floor)


def recovery_by_class(runs: Sequence[Iterable[EpisodeRecord]], *, floor: int = MACRO_FLOOR) -> Macro:
    """By the class of each step's first error, malformed messages included; see `recovery_by_tool`."""
    return _macro("class", "error classes", runs, _failed_classes, floor)


def _macro(
    key: str,
    plural: str,
    runs: Sequence[Iterable[EpisodeRecord]],
    keys: Callable[[EpisodeRecord], Set[str]],
    floor: int,
) -> Macro:
    counts = Counter(name for run in runs for record in run if not record.harness_fault for name in keys(record))
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    fewest = max(floor, len(runs))
    return Macro(
        name=f"err_macro_{key}",
        title=f"ERR, mean over {plural}",
        meaning=f"unweighted mean over {plural} of final success, over episodes with an error of it",
        keys=keys,
        slices=tuple(name for name in ordered if counts[name] >= fewest),
        left_out={name: counts[name] for name in ordered if counts[name] < fewest},
        floor=fewest,
    )


def _failed_tools(episode: EpisodeRecord) -> set[str]:
    return {event.tool for event in error_events(episode) if event.tool is not None}


def _failed_classes(episode: EpisodeRecord) -> set[str]:
    return {event.error for event in error_events(episode)}


def error_classes(records: Iterable[EpisodeRecord]) -> list[ErrorClass]:
    """The classes that occur, in order."""
    return sorted({event.error for event in _events(records)})


def fates(records: Iterable[EpisodeRecord]) -> dict[ErrorClass, dict[Fate, int]]:
    """What became of the errors of each class at the very next step; a probe's injected error counts as one."""
    counts: dict[ErrorClass, dict[Fate, int]] = {}
    for event in _with_injected(records):
        counts.setdefault(event.error, dict.fromkeys(Fate, 0))[event.fate] += 1
    return dict(sorted(counts.items()))


def repeats_by_class(records: Iterable[EpisodeRecord]) -> dict[ErrorClass, Rate]:
    """`REPEAT`, split by the class of the error that was not heeded; injected errors of probes included."""
    rates: dict[ErrorClass, Rate] = {}
    for event in _with_injected(records):
        rates[event.error] = rates.get(event.error, _NOTHING) + Rate.of(event.repeated, given=_called(event))
    return dict(sorted(rates.items()))


def steps_to_recover(records: Iterable[EpisodeRecord], error: ErrorClass | None = None) -> Mean:
    """Steps from an error to the first error-free step of the same user turn, over errors that have one."""
    return Mean.of([event.clean_after for event in _events(records, error) if event.clean_after is not None])


def tokens_to_recover(records: Iterable[EpisodeRecord], error: ErrorClass | None = None) -> Mean:
    """Sampled tokens on that way, the error-free step included; errors whose tokens nobody counted are left out."""
    return Mean.of([event.tokens_after for event in _events(records, error) if event.tokens_after is not None])


def excess_calls(records: Iterable[EpisodeRecord]) -> Mean:
    """Calls made beyond the gold ones, over episodes with a right verdict; the checker itself never charges waste."""
    return Mean.of([record.calls - record.gold_calls for record in records if record.ok and not record.harness_fault])


def _events(records: Iterable[EpisodeRecord], error: ErrorClass | None = None) -> Iterator[ErrorEvent]:
    return (event for record in records if not record.harness_fault for event in error_events(record, error=error))


def _with_injected(records: Iterable[EpisodeRecord]) -> Iterator[ErrorEvent]:
    for record in records:
        if not record.harness_fault:
            injected = probe_event(record)
            yield from (*([injected] if injected else []), *error_events(record))
