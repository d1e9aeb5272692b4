"""Trajectories of training as episode records, so that one set of functions counts in training and in evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fission_grpo.chat.parse import parse_message
from fission_grpo.evaluation.events import Fate, probe_event
from fission_grpo.evaluation.records import EpisodeRecord, Probe, TurnRecord
from fission_grpo.report.flow import Fates
from fission_grpo.report.page.sources import Trace
from fission_grpo.types import (
    EndReason,
    ErrorClass,
    FinishReason,
    GroupKind,
    OutcomeKind,
    ToolCall,
    ToolOutcome,
    Verdict,
)

UNSEEN = (ErrorClass.SOFT, ErrorClass.SILENT)
"""Failures that no tool message told of: a recovery from one has no explicit error to come after."""


def exploration_episodes(traces: Iterable[Trace]) -> list[EpisodeRecord]:
    """What the policy did by itself; the groups are the clusters, since G trajectories share a task."""
    return [
        episode_of(trace, trajectory)
        for trace in traces
        if trace["kind"] == GroupKind.EXPLORATION
        for trajectory in trace["trajectories"]
    ]


def recovery_episodes(traces: Iterable[Trace], known: Mapping[str, Trace]) -> list[EpisodeRecord]:
    """Recoveries from explicit errors, each a continuation after the failed call of its corrective context.

    Args:
        known: groups by id, among them the parents.
    """
    return list(_recoveries(traces, known))


def _recoveries(traces: Iterable[Trace], known: Mapping[str, Trace]) -> Iterator[EpisodeRecord]:
    for trace in traces:
        if trace["kind"] == GroupKind.FISSION and trace["error"] and trace["error"] not in UNSEEN:
            probe = Probe(
                kind=GroupKind.FISSION,
                error=ErrorClass(trace["error"]),
                call=_failed_call(trace, known),
                next_call_right=False,
            )
            for trajectory in trace["trajectories"]:
                yield episode_of(trace, trajectory, probe=probe)


def recovery_fates(records: Iterable[EpisodeRecord]) -> Fates:
    """What the first step of each recovery made of the error it was given, by class."""
    found = Counter(
        (event.error, event.fate)
        for record in records
        if not record.harness_fault and (event := probe_event(record)) is not None
    )
    return {error: {fate: found[error, fate] for fate in Fate} for error in sorted({error for error, _ in found})}


def _failed_call(trace: Trace, known: Mapping[str, Trace]) -> ToolCall:
    """The first call with an error in the failed message; one without a name after a malformed message."""
    parent = trace["parent"]
    group = known.get(str(parent["group"]))
    if group is not None:
        failed, turn = group["trajectories"][parent["trajectory"]], parent["turn"]
        for call, outcome in zip(failed["calls"][turn], failed["outcomes"][turn], strict=False):
            if outcome["error"] is not None:
                return ToolCall(name=call["name"], arguments=call["arguments"])
    return ToolCall(name="", arguments={})


def episode_of(trace: Trace, trajectory: Mapping[str, Any], *, probe: Probe | None = None) -> EpisodeRecord:
    """One trajectory; whether it is right is what training said, whatever judged it there.

    A decision point ends after its one message; where training calls that right, the record ends in words, because a
    record that a limit cut is never right.
    """
    success, valid = bool(trajectory["success"]), trajectory["reward"] is not None
    end = EndReason.ANSWERED if success else EndReason(trajectory["end"])
    return EpisodeRecord(
        task=str(trace["task"]),
        turns=tuple(_turns(trajectory)),
        end=end if valid else EndReason.HARNESS_FAULT,
        verdict=Verdict(ok=success) if valid else None,
        gold_calls=0,
        first_call_right=None,
        probe=probe,
        meta={"scenario": str(trace["group"])},
    )


def _turns(trajectory: Mapping[str, Any]) -> Iterator[TurnRecord]:
    """A plain answer closes a user turn, as in `record_episode`."""
    spans: Sequence[Sequence[int]] = trajectory["sampled"]
    texts: Sequence[str] = trajectory["text"]
    tokens = [stop - start for start, stop in spans] if len(spans) == len(texts) else [0] * len(texts)
    user_turn = 0
    for place, text in enumerate(texts):
        calls = tuple(ToolCall(name=one["name"], arguments=one["arguments"]) for one in trajectory["calls"][place])
        failures = parse_message(text).failures if trajectory["malformed"][place] else ()
        cut = place == len(texts) - 1 and trajectory["end"] == EndReason.LENGTH
        yield TurnRecord(
            user_turn=user_turn,
            text=text,
            calls=calls,
            failures=failures,
            outcomes=tuple(_outcomes(trajectory["replies"][place], trajectory["outcomes"][place])),
            finish=FinishReason.LENGTH if cut else FinishReason.STOP,
            tokens=tokens[place],
        )
        user_turn += not (calls or failures)


def _outcomes(replies: Sequence[str], outcomes: Sequence[Mapping[str, Any]]) -> Iterator[ToolOutcome]:
    for text, outcome in zip(replies, outcomes, strict=True):
        error = ErrorClass(outcome["error"]) if outcome["error"] else None
        yield ToolOutcome(kind=OutcomeKind(outcome["kind"]), text=text, error=error)
