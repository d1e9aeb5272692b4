"""What one evaluated episode leaves behind: enough to recompute every metric from the file alone.

One episode is one JSON line. Texts, calls and outcomes are kept as the policy and the world produced them; nothing is
judged here except whether the first call is one of the calls that were asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from fission_grpo.call_matching import call_key
from fission_grpo.errors import DataError
from fission_grpo.files import write_pieces
from fission_grpo.tasks.probe import ProbeItem
from fission_grpo.types import (
    EndReason,
    ErrorClass,
    FinishReason,
    OutcomeKind,
    ParseFailure,
    Task,
    ToolCall,
    ToolOutcome,
    Turn,
    Verdict,
)

RecordT = TypeVar("RecordT")
TRACES = "traces.jsonl"
"""The records of a benchmark, in its folder."""


def call_text(call: ToolCall) -> str:
    """The call word for word, key order aside: `5` and `5.0` differ, because a changed type can be a repair."""
    return json.dumps([call.name, dict(call.arguments)], sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRecord:
    """One assistant message and its replies."""

    user_turn: int
    """Which user message it serves, counted from the first of the dialogue."""
    text: str
    calls: tuple[ToolCall, ...]
    failures: tuple[ParseFailure, ...]
    """Malformed blocks. Not empty: none of `calls` was executed."""
    outcomes: tuple[ToolOutcome, ...]
    finish: FinishReason
    tokens: int
    """Sampled tokens."""

    @property
    def is_step(self) -> bool:
        """It asks for a call, well formed or not; a plain answer is no step."""
        return bool(self.calls or self.failures)

    @property
    def answered(self) -> bool:
        """Words only, and finished: the policy decided that this user turn is done."""
        return not self.is_step and self.finish is FinishReason.STOP

    @property
    def erred(self) -> bool:
        """e(s): an explicit error among the outcomes, or a malformed message. Soft failures are no errors."""
        return bool(self.failures) or any(outcome.is_error for outcome in self.outcomes)

    @property
    def error(self) -> ErrorClass | None:
        """Class of the first error, None where there is none."""
        if self.failures:
            return ErrorClass.FORMAT
        return next((outcome.error for outcome in self.outcomes if outcome.is_error), None)

    @property
    def failed_tool(self) -> str | None:
        """Name in the first call with an error; None where there is none, or the message is malformed."""
        pairs = zip(self.calls, self.outcomes, strict=False)
        return None if self.failures else next((call.name for call, outcome in pairs if outcome.is_error), None)

    @property
    def attempted(self) -> frozenset[str]:
        """Every call and malformed block, as text."""
        return frozenset([*map(call_text, self.calls), *(failure.text for failure in self.failures)])

    @property
    def failed(self) -> frozenset[str]:
        """The part of `attempted` that came back with an error."""
        if self.failures:
            return self.attempted
        pairs = zip(self.calls, self.outcomes, strict=False)
        return frozenset(call_text(call) for call, outcome in pairs if outcome.is_error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A fixed-error probe: every arm meets the same wrong call and its real error text, then goes on."""

    kind: str
    """How the call was made wrong (`unknown_name`, `precondition`, ...)."""
    error: ErrorClass
    call: ToolCall
    """The wrong call, which stands in the context as if the policy had made it."""
    next_call_right: bool
    """The first call after the error is a right one; see `first_call_right`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeRecord:
    """One episode, or the continuation after a probe's injected error."""

    task: str
    turns: tuple[TurnRecord, ...]
    end: EndReason
    verdict: Verdict | None
    """None exactly when a harness fault left nothing to judge."""
    gold_calls: int
    """Calls in the gold answer, from the user turn at which the policy takes over."""
    first_call_right: bool | None
    """None where the task names no target."""
    probe: Probe | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Slices, copied from the task."""
    asked: tuple[str, ...] = ()
    """What the user says in each user turn of the dialogue, from its first, those not reached included; empty in
    evaluations of before, and where a benchmark keeps the dialogue itself."""
    turn_ok: tuple[bool | None, ...] | None = None
    """The checker's test of each user turn of the dialogue that was reached, from its first, even after an earlier
    turn failed; None in the place of a turn that is not judged because its gold is empty. None: not known."""

    @property
    def ok(self) -> bool:
        """The world is right, and the policy itself ended the episode.

        A limit that happens to cut at a right moment is no success.
        """
        return self.verdict is not None and self.verdict.ok and self.end is EndReason.ANSWERED

    @property
    def valid(self) -> bool:
        """The checker's verdict alone, as an official score counts it: how the episode ended is not asked."""
        return self.verdict is not None and self.verdict.ok

    @property
    def harness_fault(self) -> bool:
        """Our machinery failed somewhere: excluded from every metric and counted apart."""
        if self.end is EndReason.HARNESS_FAULT:
            return True
        return any(outcome.kind is OutcomeKind.HARNESS_FAULT for turn in self.turns for outcome in turn.outcomes)

    @property
    def erred(self) -> bool:
        return any(turn.erred for turn in self.turns)

    @property
    def calls(self) -> int:
        """Calls asked for; a malformed block counts as one."""
        return sum(len(turn.calls) + len(turn.failures) for turn in self.turns)

    @property
    def tokens(self) -> int:
        return sum(turn.tokens for turn in self.turns)


def first_call_right(turns: Sequence[Turn], target: Sequence[ToolCall]) -> bool:
    """Whether the first call is one of the target calls, or, with an empty target, whether words come first.

    Only the first call of the first message is looked at, so a policy that makes parallel gold calls one after the
    other is as right as one that makes them at once. Numbers are compared by value.
    """
    return bool(turns) and _right(turns[0].parsed.calls, turns[0].parsed.failures, target)


def probed(item: ProbeItem, record: EpisodeRecord) -> EpisodeRecord:
    """The record of a probe that was played, with what had been injected and whether the next call is right."""
    right = bool(record.turns) and _right(record.turns[0].calls, record.turns[0].failures, item.task.target)
    kind = item.corruption.value if item.corruption else "precondition"
    probe = Probe(kind=kind, error=item.error, call=item.wrong, next_call_right=right)
    return replace(record, probe=probe, first_call_right=right)


def _right(calls: Sequence[ToolCall], failures: Sequence[ParseFailure], target: Sequence[ToolCall]) -> bool:
    if failures:
        return False
    if not calls or not target:
        return not calls and not target
    return call_key(calls[0]) in map(call_key, target)


def _user_turns(task: Task, turns: Sequence[Turn]) -> Iterator[int]:
    """A plain answer closes a user turn; the next message serves the next one."""
    current = max(0, sum(message["role"] == "user" for message in task.messages) - 1)
    for turn in turns:
        yield current
        current += not (turn.parsed.calls or turn.parsed.failures)


def record_episode(task: Task, turns: Sequence[Turn], *, verdict: Verdict | None, end: EndReason) -> EpisodeRecord:
    """Freeze a finished rollout.

    Args:
        task: what was asked; its `target` decides `first_call_right`, its `meta` becomes the slices.
        turns: what the policy sampled, without anything that already stood in `task.messages`.
        verdict: the world's judgement; None only after a harness fault.
        end: why the rollout ended.
    Raises:
        ValueError: an episode without a verdict that is not a harness fault.
    """
    user_turns = tuple(_user_turns(task, turns))
    target_known = bool(task.target) or task.world is None
    record = EpisodeRecord(
        task=task.id,
        turns=tuple(
            TurnRecord(
                user_turn=user_turn,
                text=turn.text,
                calls=turn.parsed.calls,
                failures=turn.parsed.failures,
                outcomes=turn.outcomes,
                finish=turn.completion.finish,
                tokens=len(turn.completion.ids),
            )
            for turn, user_turn in zip(turns, user_turns, strict=True)
        ),
        end=end,
        verdict=verdict,
        gold_calls=sum(map(len, task.gold[user_turns[0] :])) if task.gold and user_turns else len(task.target),
        first_call_right=first_call_right(turns, task.target) if target_known else None,
        meta=task.meta,
        asked=(*(message["content"] for message in task.messages if message["role"] == "user"), *task.followups),
    )
    if verdict is None and not record.harness_fault:
        raise ValueError(f"task {task.id}: ended with {end} and no verdict; expected one unless our machinery failed")
    return record


_ADAPTER = TypeAdapter(EpisodeRecord)


def to_line(record: EpisodeRecord) -> str:
    """One JSON line, without the line break."""
    return _ADAPTER.dump_json(record).decode()


def from_line(line: str | bytes) -> EpisodeRecord:
    """Inverse of `to_line`; keys it does not know are ignored.

    Raises:
        ValidationError: pydantic's, naming every field that does not fit.
    """
    return _ADAPTER.validate_json(line)


def write_records(path: Path, records: Iterable[EpisodeRecord]) -> None:
    """One line an episode, replacing the file as a whole or not at all."""
    write_pieces(path, (to_line(record) + "\n" for record in records))


def read_records(path: Path) -> tuple[EpisodeRecord, ...]:
    """All episodes of a file; see `read_lines`."""
    return tuple(read_lines(path, from_line))


def read_lines(path: Path, parse: Callable[[bytes], RecordT]) -> list[RecordT]:
    """What `parse` makes of each line; a last line that a crash cut off is passed over.

    Raises:
        DataError: with one entry for each line that is no record.
    """
    records, problems = [], []
    *lines, _unfinished = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            records.append(parse(line))
        except ValidationError as error:
            first = error.errors()[0]
            problems.append(f"line {number}: {'.'.join(map(str, first['loc']))}: {first['msg']}")
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        raise DataError(str(path), problems)
    return records


@dataclass(frozen=True, slots=True, kw_only=True)
class Format(Generic[RecordT]):
    """How records of one kind are written down."""

    key: Callable[[RecordT], str]
    """What was played."""
    sound: Callable[[RecordT], bool]
    """False where a fault of ours or of a server made it invalid: it is played again."""
    to_line: Callable[[RecordT], str]
    read: Callable[[Path], Sequence[RecordT]]
    """All whole lines of a file; raises DataError with every line that is no record."""


EPISODE_RECORDS: Format[EpisodeRecord] = Format(
    key=lambda record: record.task,
    sound=lambda record: not record.harness_fault,
    to_line=to_line,
    read=read_records,
)
