"""What an Error Simulator says, measured against records whose truth is known.

Leaks, specificity (the right class, the right field), fidelity to real error texts, harm, length, latency, cost. Every
share comes with its interval and with what it was counted over.
"""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fission_grpo.call_matching import value_score
from fission_grpo.environments.bfcl.outcomes import classify
from fission_grpo.evaluation.statistics import Mean, Rate
from fission_grpo.progress import ProgressCallback
from fission_grpo.simulator.base import ErrorSimulator, Fallback, Feedback, ReferencedSimulator, diagnose
from fission_grpo.simulator.fault_fields import names_field
from fission_grpo.simulator.guarded import LeakGuardedSimulator
from fission_grpo.simulator.leak import Known, Leak, LiteralKind, find_leaks, literals
from fission_grpo.simulator.prompts import Candidate, NoCandidate, Prompt, Writer
from fission_grpo.simulator_lab.records import WORLD_TEACHER, SimulatorRecord
from fission_grpo.types import ErrorClass

EXAMPLES = 5
_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosed:
    """One record and what was said about it."""

    record: SimulatorRecord
    text: str
    leaks: tuple[Leak, ...]
    seconds: float
    tokens: int
    fallback: Fallback | None
    """Why another simulator had to write; then `text` is that one's."""

    @property
    def named_class(self) -> bool:
        """Whether the text speaks of the class of error that it was."""
        return said_class(self.text) is self.record.error

    @property
    def named_field(self) -> bool:
        return any(names_field(self.text, field, self.record.failed) for field in self.record.fields)

    @property
    def harmful(self) -> bool:
        return misleads(self.text, self.record)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakExample:
    """A leak for people to look at."""

    record: str
    kind: str
    argument: str
    literal: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The measures of one simulator on one set of records."""

    simulator: str
    records: int
    leak: Rate
    """Texts with at least one leak."""
    leak_by_kind: Mapping[str, Rate]
    """Over texts whose reference has a literal of this kind."""
    leak_examples: tuple[LeakExample, ...]
    right_class: Rate
    """Over all records."""
    class_by_error: Mapping[str, Rate]
    right_field: Rate
    """Over explicit errors of calls that have a field at fault."""
    field_by_error: Mapping[str, Rate]
    exact: Rate
    """Over real error texts: the same text."""
    same_template: Rate
    """The same but for names, values and numbers."""
    likeness: Mean
    """F1 of words with the real text, in [0, 1]."""
    harmful: Rate
    """Texts that suggest or blame only what is wrong or blameless."""
    fallbacks: Mapping[str, int]
    words: Mean
    seconds: Mean
    tokens: Mean
    candidates: Audit | None
    """The same measures of what a learned simulator wrote itself, leaking or not, over the records for which it wrote
    anything; None for a simulator without a leak guard."""

    def table(self) -> list[tuple[str, str]]:
        """Rows for a person: measure, value with interval; candidates behind what was said."""
        candidate_texts = (
            [] if self.candidates is None else [(f"candidates: {row}", value) for row, value in self.candidates.table()]
        )
        return [
            ("leaks", str(self.leak)),
            *((f"leaks, {kind}", str(rate)) for kind, rate in self.leak_by_kind.items()),
            ("right class", str(self.right_class)),
            *((f"right class, {error}", str(rate)) for error, rate in self.class_by_error.items()),
            ("right field", str(self.right_field)),
            *((f"right field, {error}", str(rate)) for error, rate in self.field_by_error.items()),
            ("real text, word for word", str(self.exact)),
            ("real text, same template", str(self.same_template)),
            ("real text, F1 of words", str(self.likeness)),
            ("misleading", str(self.harmful)),
            *((f"fallback, {reason}", str(count)) for reason, count in self.fallbacks.items()),
            ("words", str(self.words)),
            ("seconds", f"{self.seconds.value:.4f}"),
            ("tokens", str(self.tokens)),
            *candidate_texts,
        ]

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        rates = ("leak", "right_class", "right_field", "exact", "same_template", "harmful")
        tables = ("leak_by_kind", "class_by_error", "field_by_error")
        return {
            "simulator": self.simulator,
            "records": self.records,
            **{name: rate_record(getattr(self, name)) for name in rates},
            **{name: {key: rate_record(rate) for key, rate in getattr(self, name).items()} for name in tables},
            **{name: getattr(self, name).value for name in ("likeness", "words", "seconds", "tokens")},
            "fallbacks": dict(self.fallbacks),
            "drafts": None if self.candidates is None else self.candidates.plain(),
            "leak_examples": [
                {name: getattr(example, name) for name in LeakExample.__slots__} for example in self.leak_examples
            ],
        }


def rate_record(rate: Rate) -> dict[str, Any]:
    """A share as JSON values; None where nothing was counted."""
    value = rate.value if rate.total else None
    return {"value": value, "low": rate.interval.low, "high": rate.interval.high, "k": rate.successes, "n": rate.total}


def audit(
    simulator: ErrorSimulator | ReferencedSimulator,
    records: Sequence[SimulatorRecord],
    *,
    worldless: bool = False,
    progress: ProgressCallback = lambda done, note: None,
) -> Audit:
    """Ask for a feedback on every record and measure.

    A leak-guarded simulator is measured twice: by what is said in the end, with the texts of the fallback, and by its
    writer's candidates alone, with every leak as it was written.

    Args:
        worldless: show no simulator what the world said; a learned one is never shown an error text.
        progress: called with how many records are done.

    Raises:
        SimulatorError: a fault of ours.
    """
    said: list[Diagnosed] = []
    candidates: list[Diagnosed] = []
    for first in range(0, len(records), _BATCH):
        chunk = records[first : first + _BATCH]
        began = time.perf_counter()
        feedback, candidate_texts = _feedback(simulator, chunk, worldless)
        share = (time.perf_counter() - began) / len(chunk)
        said += [_diagnosed(record, one, share) for record, one in zip(chunk, feedback, strict=True)]
        candidates += [
            replace(one, text=text, leaks=_leaks(text, one.record), fallback=None)
            for one, text in zip(said[first:], candidate_texts, strict=True)
            if text is not None
        ]
        progress(len(said), "")
    return audit_of(simulator.name, said, candidates if isinstance(simulator, LeakGuardedSimulator) else None)


def audit_of(name: str, diagnosed: Sequence[Diagnosed], candidates: Sequence[Diagnosed] | None = None) -> Audit:
    """The measures of what was said, and of the candidates for it."""
    explicit = [one for one in diagnosed if one.record.teacher == WORLD_TEACHER]
    faulty = [one for one in explicit if one.record.fields]
    leaking = [one for one in diagnosed if one.leaks]
    return Audit(
        simulator=name,
        records=len(diagnosed),
        leak=Rate(len(leaking), len(diagnosed)),
        leak_by_kind=_leaks_by_kind(diagnosed),
        leak_examples=tuple(_example(one) for one in leaking[:EXAMPLES]),
        right_class=_rate(diagnosed, lambda one: one.named_class),
        class_by_error=_by_error(diagnosed, lambda one: one.named_class),
        right_field=_rate(faulty, lambda one: one.named_field),
        field_by_error=_by_error(faulty, lambda one: one.named_field),
        exact=_rate(explicit, lambda one: _line(one.text) == _line(one.record.diagnosis)),
        same_template=_rate(explicit, lambda one: template(one.text) == template(one.record.diagnosis)),
        likeness=Mean.of([value_score(one.text, one.record.diagnosis) for one in explicit]),
        harmful=_rate(diagnosed, lambda one: one.harmful),
        fallbacks=dict(Counter(str(one.fallback) for one in diagnosed if one.fallback is not None)),
        words=Mean.of([len(one.text.split()) for one in diagnosed]),
        seconds=Mean.of([one.seconds for one in diagnosed]),
        tokens=Mean.of([one.tokens for one in diagnosed]),
        candidates=None if candidates is None else audit_of(name, candidates),
    )


_SAID: tuple[tuple[ErrorClass, re.Pattern[str]], ...] = tuple(
    (error, re.compile(pattern, re.IGNORECASE))
    for error, pattern in (
        (ErrorClass.FORMAT, r"malformed|well-formed json|tool_call>"),
        (ErrorClass.SOFT, r"succeeded, but its answer means no"),
        (ErrorClass.SILENT, r"succeeded"),
        (ErrorClass.UNKNOWN_TOOL, r"unknown tool|no such tool|is not defined|no tool (is )?(named|called)"),
        (ErrorClass.ARGUMENT_SCHEMA, r"missing (\d+ |an? |the )?(required |positional )*(argument|parameter)"),
        (ErrorClass.ARGUMENT_SCHEMA, r"unexpected (keyword )?(argument|parameter)|is (required|missing)\b"),
        (ErrorClass.ARGUMENT_TYPE, r"must be (an? )?(string|integer|number|boolean|list|object|array)|wrong type"),
        (ErrorClass.PRECONDITION, r"log(ged)? in|authenticat|must be (locked|pressed|closed)|\bfirst\b|before\b"),
        (ErrorClass.CONFLICT, r"already|exists"),
        (ErrorClass.NOT_FOUND, r"not found|no such|does not exist|unknown|there is no"),
        (ErrorClass.ILLEGAL_VALUE, r"must be|invalid|out of range|not (a )?valid|allowed|between"),
    )
)
"""Class of a text in no world's words, by its own; first match wins."""


def said_class(text: str) -> ErrorClass | None:
    """The class of error that a text speaks of; None where it cannot be told.

    The first line counts: hints follow behind it. Texts in the words of BFCL's worlds are read by their own table.
    """
    first = text.strip().split("\nhint:")[0]
    _, error = classify(first)
    if error not in (None, ErrorClass.SOFT):
        return error
    return next((error for error, pattern in _SAID if pattern.search(first)), error)


_SUGGESTED = re.compile(
    r"(?:did you mean|should be|use|try|instead of|expected|must be|nearest tools? (?:is|are)) "
    r"((?:['\"`][^'\"`\n]+['\"`](?:, (?:and |or )?)?)+|-?\d+(?:\.\d+)?)",
    re.IGNORECASE,
)
_BLAMED = re.compile(r"(?:argument|parameter|field)s? ['\"`](\w+)", re.IGNORECASE)
_QUOTED = re.compile(r"['\"`]([^'\"`\n]+)['\"`]|(-?\d+(?:\.\d+)?)")


def misleads(text: str, record: SimulatorRecord) -> bool:
    """Whether a text sends its reader the wrong way: all it suggests is wrong, or all it blames is blameless."""
    right = {text_ for call in record.reference for text_ in _atoms((call.name, call.arguments))}
    suggested = [a or b for one in _SUGGESTED.finditer(text) for a, b in _QUOTED.findall(one[1])]
    if suggested and not any(one.lower() in right for one in suggested):
        return True
    blamed = set(_BLAMED.findall(text))
    return bool(blamed and record.fields) and not blamed & {*record.fields}


def template(text: str) -> str:
    """A text without what differs from call to call: quoted names, values, numbers, the class before a method."""
    bare = re.sub(r"\w+\.(?=\w+\()", "", _line(text))
    bare = re.sub(r"\w+(?=\(\))", "F", bare)
    bare = re.sub(r"'[^']*'|(?<=ID )\S+|(?<=: )'?[\w./-]+'?(?=: )", "V", bare)
    return re.sub(r"-?\d+(\.\d+)?", "0", bare)


def _feedback(
    simulator: ErrorSimulator | ReferencedSimulator, records: Sequence[SimulatorRecord], worldless: bool
) -> tuple[list[Feedback], list[str | None]]:
    """What is said about each record, and the candidate for it where a writer made one."""
    cases = [record.worldless_case() if worldless else record.case() for record in records]
    if not isinstance(simulator, LeakGuardedSimulator):
        return diagnose(simulator, cases), [None] * len(records)
    recorder = _Recorder(simulator.writer)
    feedback = LeakGuardedSimulator(recorder).diagnose_cases(cases)
    return feedback, [recorder.candidates.get(place) for place in range(len(records))]


class _Recorder:
    """A writer that remembers its candidates; every record is one prompt."""

    def __init__(self, writer: Writer) -> None:
        self.name = writer.name
        self.remote = writer.remote
        self.candidates: dict[int, str] = {}
        self._writer = writer

    def write(self, prompts: Sequence[Prompt]) -> list[Candidate | NoCandidate]:
        answers = self._writer.write(prompts)
        self.candidates = {place: answer.text for place, answer in enumerate(answers) if isinstance(answer, Candidate)}
        return answers


def _diagnosed(record: SimulatorRecord, feedback: Feedback, seconds: float) -> Diagnosed:
    """With the world's answer to a call that succeeded taken off: nobody wrote that."""
    text = feedback.texts[0]
    if record.answer is not None:
        text = text.removeprefix(record.answer).lstrip()
    return Diagnosed(
        record=record,
        text=text,
        leaks=_leaks(text, record),
        seconds=seconds,
        tokens=feedback.cost.prompt_tokens + feedback.cost.tokens,
        fallback=feedback.fallback,
    )


def _leaks(text: str, record: SimulatorRecord) -> tuple[Leak, ...]:
    return find_leaks(text, record.reference, Known.of(record.case().failed))


def _leaks_by_kind(diagnosed: Sequence[Diagnosed]) -> dict[str, Rate]:
    rates: dict[str, Rate] = defaultdict(lambda: Rate(0, 0))
    for one in diagnosed:
        leaked = {leak.kind for leak in one.leaks}
        for kind in kinds_of(one.record):
            rates[str(kind)] += Rate.of(kind in leaked)
    return dict(sorted(rates.items()))


def kinds_of(record: SimulatorRecord) -> set[LiteralKind]:
    """What the reference of a record could leak."""
    return {literal.kind for call in record.reference for literal in literals(call)}


def _by_error(diagnosed: Sequence[Diagnosed], holds: Callable[[Diagnosed], bool]) -> dict[str, Rate]:
    errors = sorted({str(one.record.error) for one in diagnosed})
    return {error: _rate([one for one in diagnosed if one.record.error == error], holds) for error in errors}


def _rate(diagnosed: Iterable[Diagnosed], holds: Callable[[Diagnosed], bool]) -> Rate:
    return sum((Rate.of(holds(one)) for one in diagnosed), Rate(0, 0))


def _example(one: Diagnosed) -> LeakExample:
    leak = one.leaks[0]
    return LeakExample(
        record=one.record.id, kind=str(leak.kind), argument=leak.argument, literal=leak.literal, text=one.text
    )


def _line(text: str) -> str:
    return " ".join(text.split())


def _atoms(value: Any) -> Iterator[str]:
    """Every name and every value inside, in lower case."""
    if isinstance(value, Mapping):
        yield from map(str.lower, value)
        yield from (atom for item in value.values() for atom in _atoms(item))
    elif isinstance(value, list | tuple):
        yield from (atom for item in value for atom in _atoms(item))
    else:
        yield str(value).lower()
