"""What is measured: pure functions of episode records, each a count over a count.

A metric maps one episode to the `Rate` that it contributes; over many episodes the rates add up. That makes every
denominator visible and lets two arms be compared item by item. Episodes with a harness fault contribute to none.

Notation, for an episode i with steps s (assistant messages that call a tool) inside one user turn: e(s) = 1 if a
result of s is an explicit error or the message is malformed; V(i) = the world's verdict. The recovery metrics are
ours: arXiv:2601.15625 reports an "error recovery rate" without a public formula, and ERR here follows its wording,
P(final success | at least one error in the episode).

Two identities hold by construction and are worth reading together, because ERR alone rewards making easy errors:
final = P(error) ERR + (1 - P(error)) clean, and final + false success + gave up + cut short = 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from fission_grpo.evaluation.events import ErrorEvent, Follow, error_events, probe_event
from fission_grpo.evaluation.records import EpisodeRecord
from fission_grpo.evaluation.statistics import Mean, Rate
from fission_grpo.types import EndReason, ErrorClass

_NOTHING = Rate(0, 0)


class Better(StrEnum):
    """Which way a metric should move."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A named count over a count."""

    name: str
    title: str
    meaning: str
    """One line: what is counted, over what."""
    count: Callable[[EpisodeRecord], Rate]
    """The contribution of one episode; `Rate(0, 0)` where it does not count."""
    better: Better = Better.HIGHER


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
    """Episodes spoiled by our machinery, over all episodes."""
    return sum((Rate.of(record.harness_fault) for record in records), start=_NOTHING)


def _always(event: ErrorEvent) -> bool:
    return True


def _called(event: ErrorEvent) -> bool:
    return event.follow is Follow.CALLED


def _over_errors(
    success: Callable[[ErrorEvent], bool], given: Callable[[ErrorEvent], bool] = _always
) -> Callable[[EpisodeRecord], Rate]:
    """The count of a metric whose unit is the error."""

    def count(episode: EpisodeRecord) -> Rate:
        return sum((Rate.of(success(event), given=given(event)) for event in error_events(episode)), start=_NOTHING)

    return count


def _over_probes(
    success: Callable[[ErrorEvent], bool], given: Callable[[ErrorEvent], bool] = _always
) -> Callable[[EpisodeRecord], Rate]:
    """The count of a metric whose unit is the injected error."""

    def count(episode: EpisodeRecord) -> Rate:
        event = probe_event(episode)
        return _NOTHING if event is None else Rate.of(success(event), given=given(event))

    return count


def _answered(episode: EpisodeRecord) -> bool:
    return episode.end is EndReason.ANSWERED


def _let_an_error_stand(episode: EpisodeRecord) -> bool:
    return any(event.follow is Follow.ANSWERED for event in error_events(episode))


FINAL = Metric(
    name="final",
    title="Final success",
    meaning="verdict right, over all episodes",
    count=lambda episode: Rate.of(episode.ok),
)
FIRST_ATTEMPT = Metric(
    name="first_attempt",
    title="First-attempt success",
    meaning="verdict right without a single error or malformed message, over all episodes",
    count=lambda episode: Rate.of(episode.ok and not episode.erred),
)
FIRST_CALL = Metric(
    name="first_call",
    title="First call right",
    meaning="the first call is a target call and its message makes no error, over episodes with a known target",
    count=lambda episode: Rate.of(
        episode.first_call_right is True and not episode.turns[0].erred, given=episode.first_call_right is not None
    ),
)
ERROR = Metric(
    name="error",
    title="Episodes with an error",
    meaning="at least one error or malformed message, over all episodes",
    count=lambda episode: Rate.of(episode.erred),
    better=Better.LOWER,
)
ERR = Metric(
    name="err",
    title="Error recovery (ERR)",
    meaning="verdict right, over episodes with at least one error or malformed message",
    count=lambda episode: Rate.of(episode.ok, given=episode.erred),
)
CLEAN = Metric(
    name="clean",
    title="Success without errors",
    meaning="verdict right, over episodes without an error",
    count=lambda episode: Rate.of(episode.ok, given=not episode.erred),
)


def recovered_within(steps: int) -> Metric:
    """NCR@k: some step among the next k of the user turn makes no error."""
    return Metric(
        name=f"ncr@{steps}",
        title="Next-call recovery (NCR)" if steps == 1 else f"Recovery within {steps} calls",
        meaning=f"an error-free step within {steps} step(s) of the same user turn, over all errors",
        count=_over_errors(lambda event: event.clean_after is not None and event.clean_after <= steps),
    )


NCR = recovered_within(1)
REPEAT = Metric(
    name="repeat",
    title="Identical repeat (RIR)",
    meaning="the next step repeats, word for word, a call that just failed, over errors that a step follows",
    count=_over_errors(lambda event: event.repeated, given=_called),
    better=Better.LOWER,
)
ABANDON = Metric(
    name="abandon",
    title="Abandoned after an error",
    meaning="answered in words right after the error, over all errors",
    count=_over_errors(lambda event: event.follow is Follow.ANSWERED),
    better=Better.LOWER,
)
CUT_OFF = Metric(
    name="cut_off",
    title="Cut off after an error",
    meaning="a limit ended the episode right after the error, over all errors",
    count=_over_errors(lambda event: event.follow is Follow.CUT_OFF),
    better=Better.LOWER,
)
FALSE_SUCCESS = Metric(
    name="false_success",
    title="False success",
    meaning="ended in words with no error left standing, yet the verdict is wrong, over all episodes",
    count=lambda episode: Rate.of(not episode.ok and _answered(episode) and not _let_an_error_stand(episode)),
    better=Better.LOWER,
)
GAVE_UP = Metric(
    name="gave_up",
    title="Gave up",
    meaning="ended in words, let an error stand, and the verdict is wrong, over all episodes",
    count=lambda episode: Rate.of(not episode.ok and _answered(episode) and _let_an_error_stand(episode)),
    better=Better.LOWER,
)
CUT_SHORT = Metric(
    name="cut_short",
    title="Cut short",
    meaning="ended by a limit (or after the one message of a decision point), verdict wrong, over all episodes",
    count=lambda episode: Rate.of(not episode.ok and not _answered(episode)),
    better=Better.LOWER,
)
PROBE = Metric(
    name="probe",
    title="Probe: next call right",
    meaning="the call after the injected error is a right one, over probes",
    count=lambda episode: Rate.of(
        episode.probe is not None and episode.probe.next_call_right, given=episode.probe is not None
    ),
)
PROBE_REPEAT = Metric(
    name="probe_repeat",
    title="Probe: identical repeat",
    meaning="the next step repeats the injected call word for word, over probes that a step follows",
    count=_over_probes(lambda event: event.repeated, given=_called),
    better=Better.LOWER,
)
PROBE_ABANDON = Metric(
    name="probe_abandon",
    title="Probe: abandoned",
    meaning="answered in words right after the injected error, over probes",
    count=_over_probes(lambda event: event.follow is Follow.ANSWERED),
    better=Better.LOWER,
)

EPISODE_METRICS: tuple[Metric, ...] = (
    *(FIRST_CALL, FIRST_ATTEMPT, FINAL, ERROR, ERR, CLEAN),
    *(NCR, recovered_within(3), REPEAT, ABANDON, CUT_OFF),
    *(FALSE_SUCCESS, GAVE_UP, CUT_SHORT),
)
PROBE_METRICS: tuple[Metric, ...] = (PROBE, PROBE_REPEAT, PROBE_ABANDON, FINAL)


def repeats_by_class(records: Iterable[EpisodeRecord]) -> dict[ErrorClass, Rate]:
    """`REPEAT`, split by the class of the error that was not heeded; injected errors of probes included."""
    rates: dict[ErrorClass, Rate] = {}
    for record in records:
        injected = probe_event(record)
        for event in (*error_events(record), *([injected] if injected else [])):
            if not record.harness_fault:
                repeat = Rate.of(event.repeated, given=_called(event))
                rates[event.error] = rates.get(event.error, _NOTHING) + repeat
    return dict(sorted(rates.items()))


def steps_per_recovery(records: Iterable[EpisodeRecord]) -> Mean:
    """Steps from an error to the first error-free step of the same user turn, over errors that have one."""
    events = (event for record in records if not record.harness_fault for event in error_events(record))
    return Mean.of([event.clean_after for event in events if event.clean_after is not None])


def excess_calls(records: Iterable[EpisodeRecord]) -> Mean:
    """Calls made beyond the gold ones, over episodes with a right verdict; the checker itself never charges waste."""
    return Mean.of([record.calls - record.gold_calls for record in records if record.ok and not record.harness_fault])
