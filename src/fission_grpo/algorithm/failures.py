"""Which trajectory failed, at which turn, why, and by whose fault (arXiv:2601.15625, stage 2).

A failure is a verdict on a trajectory, not an exception: exceptions are ours, and appear here only as outcomes of kind
HARNESS_FAULT, which are never fissioned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from fission_grpo.types import ErrorClass, FinishReason, OutcomeKind, ToolOutcome, Turn, Verdict


class Fault(StrEnum):
    """Who has to answer for a failure."""

    MODEL = "model"
    """The policy erred: material for fission."""
    TOOL = "tool"
    """A call hit our time or size cap: the policy saw an error text and can learn from it, but may be blameless."""
    INFRASTRUCTURE = "infrastructure"
    """Our machinery failed: counted and masked, never fissioned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The first thing that went wrong in a trajectory."""

    turn: int
    """Index of the failed assistant message: the tau_err of a corrective context."""
    error: ErrorClass | None
    """None exactly when `fault` is INFRASTRUCTURE."""
    fault: Fault
    reason: str
    """One line for whoever reads the trace. It may name what would be right: never show it to a policy."""


def find_failure(
    turns: Sequence[Turn], *, correctness: float | None, verdict: Verdict | None, delta: float = 1.0
) -> Failure | None:
    """The first failure of a trajectory, or None.

    1. In order of turns: a malformed or cut-off message (E0), an explicit error (the first of the message, by its
       class), a fault of ours. In an episode that counts even if later turns mend it: the turn failed, and what the
       policy did next is what fission practises. At a decision point that is right by its gold calls, only E0 counts.
    2. Else, if the trajectory is wrong by its gold calls or by the world: the first soft failure.
    3. Else, if it is wrong, a SILENT failure of the last turn that made a call, or of the last turn where none did.

    Args:
        turns: the assistant messages of one rollout, with their outcomes.
        correctness: R_corr of a decision point in [0, 1]; None in an episode.
        verdict: the world's judgement; None where there is no world.
        delta: delta_corr, the least correctness that is no failure (ours: anything imperfect fails).
    """
    right = correctness is not None and correctness >= delta and (verdict is None or verdict.ok)
    for index, turn in enumerate(turns):
        failure = _malformed(index, turn) or _harness_fault(index, turn)
        failure = failure or (None if right else _explicit(index, turn))
        if failure:
            return failure
    complaint = _complaint(correctness, verdict, delta)
    if not turns or complaint is None:
        return None
    return _soft(turns) or _silent(turns, complaint)


def _malformed(index: int, turn: Turn) -> Failure | None:
    if turn.parsed.failures:
        return _by_model(index, ErrorClass.FORMAT, turn.parsed.failures[0].detail)
    if turn.completion.finish is FinishReason.LENGTH:
        tokens = len(turn.completion.ids)
        return _by_model(index, ErrorClass.FORMAT, f"the message was cut off at the limit of {tokens} tokens")
    return None


def _harness_fault(index: int, turn: Turn) -> Failure | None:
    for outcome in turn.outcomes:
        if outcome.kind is OutcomeKind.HARNESS_FAULT:
            return Failure(turn=index, error=None, fault=Fault.INFRASTRUCTURE, reason=_line(outcome))
    return None


def _explicit(index: int, turn: Turn) -> Failure | None:
    for outcome in turn.outcomes:
        if outcome.is_error:
            fault = Fault.TOOL if outcome.kind is OutcomeKind.TIMEOUT else Fault.MODEL
            return Failure(turn=index, error=outcome.error, fault=fault, reason=_line(outcome))
    return None


def _soft(turns: Sequence[Turn]) -> Failure | None:
    for index, turn in enumerate(turns):
        for outcome in turn.outcomes:
            if outcome.kind is OutcomeKind.SOFT_FAILURE:
                return _by_model(index, ErrorClass.SOFT, _line(outcome))
    return None


def _silent(turns: Sequence[Turn], complaint: str) -> Failure:
    calling = [index for index, turn in enumerate(turns) if turn.parsed.calls]
    return _by_model(calling[-1] if calling else len(turns) - 1, ErrorClass.SILENT, complaint)


def _complaint(correctness: float | None, verdict: Verdict | None, delta: float) -> str | None:
    """Why a trajectory without any error is wrong all the same; None when it is not."""
    if correctness is not None and correctness < delta:
        return f"correctness {correctness:.3f} is below {delta:.3f}"
    if verdict is not None and not verdict.ok:
        return f"the world's verdict: {verdict.error_type} {verdict.detail}".strip()
    return None


def _by_model(turn: int, error: ErrorClass, reason: str) -> Failure:
    return Failure(turn=turn, error=error, fault=Fault.MODEL, reason=reason)


def _line(outcome: ToolOutcome, width: int = 200) -> str:
    return " ".join(outcome.text.split())[:width]
