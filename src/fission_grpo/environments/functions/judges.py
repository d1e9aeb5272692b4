"""How an episode is judged where the world has no `score` of its own: by what was called, or by what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from fission_grpo.call_matching import call_key
from fission_grpo.environments.functions.world import FunctionWorld
from fission_grpo.environments.limits import CallLimits
from fission_grpo.errors import ToolError
from fission_grpo.types import OutcomeKind, ToolCall, ToolOutcome, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeCall:
    """One call and its outcome."""

    call: ToolCall
    outcome: ToolOutcome
    reached: bool
    """Whether its tool ran to the end, so that a replay has to run it again."""


CallLog: TypeAlias = tuple[tuple[MadeCall, ...], ...]
"""Calls for each user turn begun."""
GoldJudge: TypeAlias = Callable[
    [Sequence[Sequence[ToolCall]], CallLog, Callable[[], FunctionWorld], CallLimits], Verdict
]
"""Gold calls per user turn, the calls made, a maker of worlds as the task begins in, and the limits of a call."""


def every_gold_call(
    gold: Sequence[Sequence[ToolCall]], log: CallLog, born: Callable[[], FunctionWorld], limits: CallLimits
) -> Verdict:
    """Right where every gold call of every turn begun was made with success, in any order; more are forgiven."""
    missing = []
    for calls, turn in zip(gold, log, strict=False):
        made = Counter(call_key(one.call) for one in turn if one.outcome.kind is OutcomeKind.SUCCESS)
        missing.append(Counter(map(call_key, calls)) - made)
    right = sum(not turn for turn in missing)
    if right == len(missing):
        return Verdict(ok=True, matched=1.0)
    first = next(key for turn in missing for key in turn)
    return Verdict(ok=False, error_type="gold_call_missing", detail=first, matched=right / len(missing))


def same_world(
    gold: Sequence[Sequence[ToolCall]], log: CallLog, born: Callable[[], FunctionWorld], limits: CallLimits
) -> Verdict:
    """Right where each turn begun leaves the world as the gold calls do, and has brought every answer that they bring.

    Looking up more is forgiven, and so are errors that changed nothing; answers may have been had in an earlier turn.
    The idea is that of BFCL's official multi-turn checker.
    """
    made = [[one.call for one in turn if one.reached] for turn in log]
    wrong = [*map(_difference, _walk(born(), made, limits), _walk(born(), gold, limits))]
    found = [one for one in wrong if one]
    if not found:
        return Verdict(ok=True, matched=1.0)
    (kind, detail), right = found[0], len(wrong) - len(found)
    return Verdict(ok=False, error_type=kind, detail=detail, matched=right / len(wrong))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stand:
    """Where a walk stands at the end of a turn."""

    attributes: Mapping[str, str]
    answers: Counter[str]
    """Of the successful calls of the turn."""
    gathered: Counter[str]
    """Of those of all turns so far."""


def _walk(world: FunctionWorld, turns: Sequence[Sequence[ToolCall]], limits: CallLimits) -> Iterator[_Stand]:
    gathered: Counter[str] = Counter()
    for calls in turns:
        answers = Counter(answer for call in calls for answer in _answer(world, call, limits))
        gathered = gathered + answers
        yield _Stand(attributes=world.attributes(), answers=answers, gathered=gathered)


def _answer(world: FunctionWorld, call: ToolCall, limits: CallLimits) -> tuple[str, ...]:
    try:
        return (world.call(call, limits),)
    except ToolError:
        return ()


def _difference(made: _Stand, gold: _Stand) -> tuple[str, str] | None:
    """Kind and detail of the first thing that is wrong."""
    names = made.attributes.keys() | gold.attributes.keys()
    if differing := sorted(name for name in names if made.attributes.get(name) != gold.attributes.get(name)):
        return "state_differs", ", ".join(differing)
    return next((("answer_missing", answer) for answer in gold.answers - made.gathered), None)
