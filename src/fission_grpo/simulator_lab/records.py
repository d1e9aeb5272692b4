"""Records that an Error Simulator learns from, as JSON Lines, with a checker that names every problem at once.

    {"id", "split", "api", "origin", "error", "system", "tools", "dialogue", "failed": {"name", "arguments"},
     "answer", "reference": [{"name", "arguments"}, ...], "diagnosis", "teacher", "fields": [...]}

`split` is train, validation or test, and an `api` belongs to one split alone. `dialogue` is everything before the
failed call, in OpenAI messages, without the system message. `answer` is what the world said to a call that succeeded
and was wrong; it is null where the call failed, because there the world's words are the `diagnosis`. `fields` are the
arguments at fault, with an empty one for the tool's name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from fission_grpo.chat.parse import render_call
from fission_grpo.environments.dialogue import call_record
from fission_grpo.environments.schema import explain_problems
from fission_grpo.environments.validation import schema_problems
from fission_grpo.errors import DataError
from fission_grpo.files import parse_json, raw_lines, write_pieces
from fission_grpo.simulator.base import Case, FailedCall
from fission_grpo.simulator.fault_fields import NAME, names_field
from fission_grpo.simulator.leak import Known, Leak, find_leaks
from fission_grpo.types import ErrorClass, Message, OutcomeKind, ParsedMessage, Tool, ToolCall, ToolOutcome


class RecordSplit(StrEnum):
    """Whom a record is for; a whole API belongs to one of them."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class RecordOrigin(StrEnum):
    """Where the failed call comes from."""

    POLICY = "policy"
    """A policy made it, in a training run."""
    CORRUPTION = "corruption"
    """A gold call, corrupted on purpose or made too early."""


_METHOD = re.compile(r"\b[A-Z]\w*\.(?=\w+\(\))")
WORLD_TEACHER = "world"
"""The teacher of a diagnosis that is the world's own error text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorRecord:
    """One failed call and what should be said about it."""

    id: str
    split: RecordSplit
    api: str
    origin: RecordOrigin
    error: ErrorClass
    system: str
    tools: tuple[Tool, ...]
    dialogue: tuple[Message, ...]
    failed: ToolCall
    answer: str | None
    """What the world said to a call that succeeded; None where it failed."""
    reference: tuple[ToolCall, ...]
    diagnosis: str
    teacher: str
    """`world`, or the name of the simulator that wrote the diagnosis."""
    fields: tuple[str, ...]
    """Arguments at fault, an empty one for the tool's name; none at all where the call itself is right."""

    def case(self) -> Case:
        """The failed call as its world saw it."""
        text = self.diagnosis if self.answer is None else self.answer
        lived = self.answer is not None or self.teacher == WORLD_TEACHER
        return self._case((ToolOutcome(kind=self._kind(), text=text, error=self.error),) if lived else ())

    def target_text(self) -> str:
        """The diagnosis as a model can learn it; ours.

        The class that Python puts before a method is in no prompt, so it is left out. Where an argument is at fault
        and the diagnosis names none, a hint says where to look: which one it is can be seen from the reference, what it
        should be is not said.
        """
        text = _METHOD.sub("", self.diagnosis)
        if not self.fields or any(names_field(text, field, self.failed) for field in self.fields):
            return text
        named = ", ".join(f"'{field}'" for field in self.fields if field != NAME)
        return f"{text}\nhint: look at {named or 'the tool'}"

    def worldless_case(self) -> Case:
        """The same where no world answered."""
        return self._case(())

    def _kind(self) -> OutcomeKind:
        kinds = {ErrorClass.SILENT: OutcomeKind.SUCCESS, ErrorClass.SOFT: OutcomeKind.SOFT_FAILURE}
        return kinds.get(self.error, OutcomeKind.ERROR)

    def _case(self, outcomes: tuple[ToolOutcome, ...]) -> Case:
        system = ({"role": "system", "content": self.system},) if self.system else ()
        failed = FailedCall(
            messages=(*system, *self.dialogue),
            tools=self.tools,
            text=render_call(self.failed),
            parsed=ParsedMessage(content="", calls=(self.failed,), failures=()),
            outcomes=outcomes,
            error=self.error,
        )
        return Case(failed=failed, reference=self.reference)


def write_simulator_records(path: Path, records: Iterable[SimulatorRecord]) -> None:
    """Write records, one a line, replacing the file as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_pieces(path, (json.dumps(_plain(record), ensure_ascii=False) + "\n" for record in records))


def read_simulator_records(path: Path, *, split: RecordSplit | None = None) -> list[SimulatorRecord]:
    """The records of a sound file, or those of one split.

    Raises:
        DataError: the file has problems; all of them are listed.
    """
    records, problems = _scan(path)
    if problems:
        raise DataError(str(path), problems)
    return [record for record in records if split in (None, record.split)]


def check_simulator_records(path: Path) -> list[str]:
    """Every problem of a file, each with its line; empty for a sound one."""
    return _scan(path)[1]


def looks_like_records(path: Path) -> bool:
    """Whether the first line of a file is a record of this kind and no task."""
    try:
        first = next((parse_json(line) for _, line in _lines(path)), None)
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and "diagnosis" in first


_Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=False)]


class _Call(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: _Text
    arguments: dict[str, Any]

    def call(self) -> ToolCall:
        return ToolCall(name=self.name, arguments=self.arguments)


class _Function(BaseModel):
    name: _Text
    parameters: dict[str, Any] = {}


class _Tool(BaseModel):
    function: _Function


class _Message(BaseModel):
    role: str


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: _Text
    split: RecordSplit
    api: _Text
    origin: RecordOrigin
    error: ErrorClass
    system: str
    tools: list[_Tool]
    dialogue: list[_Message]
    failed: _Call
    answer: str | None
    reference: list[_Call]
    diagnosis: _Text
    teacher: _Text
    fields: list[str]


def _scan(path: Path) -> tuple[list[SimulatorRecord], list[str]]:
    records: list[SimulatorRecord] = []
    problems: list[str] = []
    owners: dict[str, tuple[RecordSplit, int]] = {}
    ids: dict[str, int] = {}
    try:
        for number, line in _lines(path):
            record, found = _read(line)
            if record is not None:
                found += _inconsistent(record, number, owners, ids)
                records.append(record)
            problems += [f"line {number}: {problem}" for problem in found]
    except DataError as error:
        problems += error.problems
    except OSError as error:
        problems.append(f"cannot be read: {error}")
    if not records and not problems:
        problems.append("holds no record; expected one JSON object a line")
    return records, problems


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    return ((number, line) for number, line in raw_lines(path) if line.strip())


def _read(line: bytes) -> tuple[SimulatorRecord | None, list[str]]:
    """The record of a line, or what is wrong with its shape; of a record, what is wrong with what it says."""
    try:
        plain = parse_json(line)
    except ValueError as error:
        return None, [f"is no JSON: {error}"]
    try:
        read = _Line.model_validate(plain)
    except ValidationError as error:
        return None, [f"{'.'.join(map(str, one['loc'])) or 'line'}: {one['msg']}" for one in error.errors()]
    record = SimulatorRecord(
        **{name: getattr(read, name) for name in _PLAIN},
        tools=tuple(plain["tools"]),
        dialogue=tuple(plain["dialogue"]),
        failed=read.failed.call(),
        reference=tuple(call.call() for call in read.reference),
        fields=tuple(read.fields),
    )
    return record, list(_wrong(record))


_PLAIN = ("id", "split", "api", "origin", "error", "system", "answer", "diagnosis", "teacher")


def _wrong(record: SimulatorRecord) -> Iterator[str]:
    unusable = [
        f"tools ({tool['function']['name']}): parameters: {problem}"
        for tool in record.tools
        for problem in schema_problems(tool["function"].get("parameters", {}))
    ]
    if unusable:
        yield from unusable
        return
    for place, call in enumerate(record.reference):
        if breach := explain_problems(call, record.tools):
            yield f"reference.{place}: {breach}"
    if not any(message.get("role") == "user" for message in record.dialogue):
        yield "dialogue: holds no user message"
    if any(message.get("role") == "system" for message in record.dialogue):
        yield "dialogue: holds a system message; it belongs into `system`"
    silent = record.error in (ErrorClass.SILENT, ErrorClass.SOFT)
    if silent != (record.answer is not None):
        yield f"answer: is {'missing' if silent else 'given'} for a call of class {record.error}"
    if record.failed in record.reference[:1]:
        yield "failed: is the very call that was due"
    yield from (
        f"diagnosis: gives away {leak.literal!r} of {leak.argument or 'the name'}" for leak in taught_leaks(record)
    )


def taught_leaks(record: SimulatorRecord) -> tuple[Leak, ...]:
    """Leaks that whoever learns this diagnosis would learn: an error text excuses nothing that it lists itself."""
    failed = record.worldless_case().failed
    return find_leaks(record.diagnosis, record.reference, Known.of(failed, record.answer or ""))


def _inconsistent(
    record: SimulatorRecord, number: int, owners: dict[str, tuple[RecordSplit, int]], ids: dict[str, int]
) -> list[str]:
    """What does not agree with earlier lines."""
    found = []
    split, line = owners.setdefault(record.api, (record.split, number))
    if split is not record.split:
        found.append(f"api {record.api} is in split {record.split} here and in {split} on line {line}")
    if ids.setdefault(record.id, number) != number:
        found.append(f"id {record.id!r} was used on line {ids[record.id]} already")
    return found


def _plain(record: SimulatorRecord) -> Mapping[str, Any]:
    shallow = {field.name: getattr(record, field.name) for field in fields(record)}
    return {
        **shallow,
        "tools": [dict(tool) for tool in record.tools],
        "dialogue": [dict(message) for message in record.dialogue],
        "failed": call_record(record.failed),
        "reference": [call_record(call) for call in record.reference],
        "fields": list(record.fields),
    }
