"""What one played BFCL entry leaves behind: enough to score it again and to compute every metric from the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from fission_grpo.environments.bfcl.entries import BfclCategory
from fission_grpo.environments.dialogue import call_record
from fission_grpo.evaluation.records import EpisodeRecord, Format, TurnRecord, read_lines
from fission_grpo.files import parse_json
from fission_grpo.types import EndReason, FinishReason, ParseFailure, ToolCall, ToolOutcome, Verdict


class BfclEnd(StrEnum):
    """How an entry ended."""

    COMPLETE = "complete"
    """All user turns were played."""
    FORCE_QUIT = "force_quit"
    """More than 20 steps with calls in one user turn."""
    INFERENCE_ERROR = "inference_error"
    """The dialogue could not be put before the model any more; officially a wrong entry."""
    FAULT = "fault"
    """Our machinery or the server failed: not judged, never scored as the model's doing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One assistant message and its replies."""

    text: str
    """As the model wrote it, reasoning and tags included."""
    calls: tuple[ToolCall, ...]
    """Executed, in order; empty when the message ended its user turn."""
    failures: tuple[ParseFailure, ...]
    """Malformed calls; dropped, as officially: the model is not told."""
    outcomes: tuple[ToolOutcome, ...]
    """One for each call."""
    finish: FinishReason
    prompt_tokens: int
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BfclRecord:
    """One entry, played to its end."""

    entry: str
    category: BfclCategory
    scenario: int
    """The same number names the same scenario in all four categories."""
    apis: tuple[str, ...]
    turns: tuple[tuple[Step, ...], ...]
    """Steps of each user turn that was reached."""
    end: BfclEnd
    reason: str
    """Of an inference error or a fault, else empty."""
    verdict: Verdict | None
    """The official one; None exactly after a fault."""
    turn_ok: tuple[bool | None, ...]
    """The official test of each user turn that was reached, whatever became of earlier ones; None where the turn has no
    gold calls and is not judged."""
    gold_calls: int

    @property
    def force_quit(self) -> bool:
        return self.end is BfclEnd.FORCE_QUIT

    @property
    def calls(self) -> tuple[tuple[ToolCall, ...], ...]:
        """Executed calls of each user turn."""
        return tuple(tuple(call for step in turn for call in step.calls) for turn in self.turns)


_END: Mapping[BfclEnd, EndReason] = {
    BfclEnd.FORCE_QUIT: EndReason.MAX_TURNS,
    BfclEnd.INFERENCE_ERROR: EndReason.CONTEXT,
    BfclEnd.FAULT: EndReason.HARNESS_FAULT,
}


def as_episode(record: BfclRecord) -> EpisodeRecord:
    """The record as the general metrics read it.

    Broken blocks beside executed calls are left out: nobody was told of them, so there is nothing to recover from.
    """
    steps = [(turn, step) for turn, steps in enumerate(record.turns) for step in steps]
    return EpisodeRecord(
        task=record.entry,
        turns=tuple(_turn_record(turn, step) for turn, step in steps),
        end=_END.get(record.end)
        or (EndReason.ANSWERED if steps[-1][1].finish is FinishReason.STOP else EndReason.LENGTH),
        verdict=record.verdict,
        gold_calls=record.gold_calls,
        first_call_right=None,
        meta={"category": str(record.category), "scenario": record.scenario, "apis": record.apis},
        turn_ok=record.turn_ok,
    )


def _turn_record(user_turn: int, step: Step) -> TurnRecord:
    return TurnRecord(
        user_turn=user_turn,
        text=step.text,
        calls=step.calls,
        failures=() if step.calls else step.failures,
        outcomes=step.outcomes,
        finish=step.finish,
        tokens=step.tokens,
    )


def bfcl_to_line(record: BfclRecord) -> str:
    """One JSON line, without the line break; ASCII, because a model may write half a surrogate pair."""
    verdict = None if record.verdict is None else asdict(record.verdict)
    turns = [list(map(_step_value, steps)) for steps in record.turns]
    return json.dumps({**_shallow(record), "verdict": verdict, "turns": turns})


_ADAPTER = TypeAdapter(BfclRecord)


def bfcl_from_line(line: str | bytes) -> BfclRecord:
    """Inverse of `bfcl_to_line`; keys it does not know are ignored.

    Raises:
        ValueError: no such record.
    """
    return _ADAPTER.validate_python(parse_json(line))  # of JSON text pydantic refuses half a surrogate pair


def read_bfcl(path: Path) -> tuple[BfclRecord, ...]:
    """The records of a file, the last one of each entry, in order of first appearance; see `read_lines`."""
    return tuple({record.entry: record for record in read_lines(path, bfcl_from_line)}.values())


BFCL_RECORDS: Format[BfclRecord] = Format(
    key=lambda record: record.entry,
    sound=lambda record: record.end is not BfclEnd.FAULT,
    to_line=bfcl_to_line,
    read=read_bfcl,
)


def _shallow(value: Any) -> dict[str, Any]:
    """Fields of a dataclass as they are; `asdict` would walk through arguments, which a model may nest deeply."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _step_value(step: Step) -> dict[str, Any]:
    calls = list(map(call_record, step.calls))
    failures, outcomes = list(map(_shallow, step.failures)), list(map(_shallow, step.outcomes))
    return {**_shallow(step), "calls": calls, "failures": failures, "outcomes": outcomes}
