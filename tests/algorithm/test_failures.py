from __future__ import annotations

from dataclasses import replace

import pytest

from fission_grpo.algorithm.failures import Fault, find_failure
from fission_grpo.types import (
    Completion,
    ErrorClass,
    FinishReason,
    OutcomeKind,
    ParsedMessage,
    ParseFailure,
    ParseFailureKind,
    ToolCall,
    ToolOutcome,
    Turn,
    Verdict,
)

SOLVED = Verdict(ok=True, matched=1.0)
UNSOLVED = Verdict(ok=False, error_type="multi_turn:instance_state_mismatch", detail="folder b is missing")


def outcome(kind: OutcomeKind, error: ErrorClass | None = None, text: str = "text") -> ToolOutcome:
    return ToolOutcome(kind=kind, text=text, error=error)


OK = outcome(OutcomeKind.SUCCESS)
SOFT = outcome(OutcomeKind.SOFT_FAILURE, ErrorClass.SOFT, '{"login_status": false}')
NOT_FOUND = outcome(OutcomeKind.ERROR, ErrorClass.NOT_FOUND, "no such\nfile")
TIMEOUT = outcome(OutcomeKind.TIMEOUT, ErrorClass.LIMIT)
HARNESS = outcome(OutcomeKind.HARNESS_FAULT, None, "socket closed")


def calling(*outcomes: ToolOutcome) -> Turn:
    return Turn(
        completion=Completion(ids=(1, 2), logprobs=(0.0, 0.0), finish=FinishReason.STOP),
        text="",
        parsed=ParsedMessage(content="", calls=(ToolCall(name="ls", arguments={}),) * len(outcomes), failures=()),
        outcomes=outcomes,
    )


ANSWER = calling()
CUT_OFF = replace(ANSWER, completion=Completion(ids=(1, 2), logprobs=(0.0, 0.0), finish=FinishReason.LENGTH))
MALFORMED = replace(
    ANSWER,
    parsed=ParsedMessage(
        content="",
        calls=(),
        failures=(ParseFailure(kind=ParseFailureKind.UNCLOSED, start=0, text="<tool_call>", detail="no closing tag"),),
    ),
    outcomes=(outcome(OutcomeKind.ERROR, ErrorClass.FORMAT),),
)


@pytest.mark.parametrize(
    ("turns", "verdict", "expected"),
    [
        ([calling(OK), ANSWER], SOLVED, None),
        ([calling(SOFT), ANSWER], SOLVED, None),  # a no can be the gold answer
        ([calling(OK), MALFORMED], SOLVED, (1, ErrorClass.FORMAT, Fault.MODEL)),
        ([calling(OK), CUT_OFF], UNSOLVED, (1, ErrorClass.FORMAT, Fault.MODEL)),
        ([calling(OK), calling(OK, NOT_FOUND), MALFORMED], UNSOLVED, (1, ErrorClass.NOT_FOUND, Fault.MODEL)),
        ([calling(NOT_FOUND), calling(OK), ANSWER], SOLVED, (0, ErrorClass.NOT_FOUND, Fault.MODEL)),  # mended later
        ([calling(TIMEOUT, NOT_FOUND)], UNSOLVED, (0, ErrorClass.LIMIT, Fault.TOOL)),
        ([calling(SOFT), calling(NOT_FOUND)], UNSOLVED, (1, ErrorClass.NOT_FOUND, Fault.MODEL)),  # explicit first
        ([calling(OK), calling(SOFT), calling(OK), ANSWER], UNSOLVED, (1, ErrorClass.SOFT, Fault.MODEL)),
        ([calling(OK), calling(OK), ANSWER], UNSOLVED, (1, ErrorClass.SILENT, Fault.MODEL)),
        ([ANSWER, ANSWER], UNSOLVED, (1, ErrorClass.SILENT, Fault.MODEL)),  # never called
        ([calling(HARNESS, NOT_FOUND)], UNSOLVED, (0, None, Fault.INFRASTRUCTURE)),
        ([calling(OK), calling(HARNESS)], UNSOLVED, (1, None, Fault.INFRASTRUCTURE)),
        ([calling(NOT_FOUND), calling(HARNESS)], UNSOLVED, (0, ErrorClass.NOT_FOUND, Fault.MODEL)),  # came before
        ([calling(OK)], None, None),
        ([], UNSOLVED, None),
    ],
)
def test_episodes(
    turns: list[Turn], verdict: Verdict | None, expected: tuple[int, ErrorClass | None, Fault] | None
) -> None:
    failure = find_failure(turns, correctness=None, verdict=verdict)
    assert (failure and (failure.turn, failure.error, failure.fault)) == expected


@pytest.mark.parametrize(
    ("turn", "correctness", "delta", "expected"),
    [
        (calling(OK), 1.0, 1.0, None),
        (calling(), 1.0, 1.0, None),
        (calling(), 0.75, 1.0, ErrorClass.SILENT),
        (calling(), 0.75, 0.5, None),
        (calling(OK), 0.75, 1.0, ErrorClass.SILENT),
        (calling(SOFT), 0.75, 1.0, ErrorClass.SOFT),
        (calling(NOT_FOUND), 0.75, 1.0, ErrorClass.NOT_FOUND),
        (calling(NOT_FOUND), 1.0, 1.0, None),  # the gold call itself errs in this world
        (MALFORMED, 0.0, 1.0, ErrorClass.FORMAT),
        (CUT_OFF, 1.0, 1.0, ErrorClass.FORMAT),
    ],
)
def test_decision_points(turn: Turn, correctness: float, delta: float, expected: ErrorClass | None) -> None:
    failure = find_failure([turn], correctness=correctness, verdict=None, delta=delta)
    assert (failure and failure.error) == expected


def test_right_calls_in_a_world_that_says_no_are_a_failure() -> None:
    failure = find_failure([calling(NOT_FOUND)], correctness=1.0, verdict=UNSOLVED)
    assert failure is not None
    assert failure.error is ErrorClass.NOT_FOUND


def test_reasons_say_what_happened_in_one_line() -> None:
    def reason(*turns: Turn, correctness: float | None = None) -> str:
        failure = find_failure(turns, correctness=correctness, verdict=UNSOLVED if correctness is None else None)
        assert failure is not None
        return failure.reason

    assert reason(MALFORMED) == "no closing tag"
    assert reason(CUT_OFF) == "the message was cut off at the limit of 2 tokens"
    assert reason(calling(NOT_FOUND)) == "no such file"
    assert reason(calling(OK)) == "the world's verdict: multi_turn:instance_state_mismatch folder b is missing"
    assert reason(calling(OK), correctness=0.5) == "correctness 0.500 is below 1.000"
