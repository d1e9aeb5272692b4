"""Episode records written by hand: what was said and called, and how it ended."""

from __future__ import annotations

from fission_grpo.evaluation.records import EpisodeRecord, TurnRecord
from fission_grpo.types import (
    EndReason,
    ErrorClass,
    FinishReason,
    OutcomeKind,
    ParseFailure,
    ParseFailureKind,
    ToolCall,
    ToolOutcome,
    Verdict,
)

CALL, OTHER = ToolCall(name="cd", arguments={}), ToolCall(name="ls", arguments={})
BROKEN = ParseFailure(kind=ParseFailureKind.JSON, start=0, text="{", detail="not JSON")


def message(
    user_turn: int,
    call: ToolCall | None = None,
    error: ErrorClass | None = None,
    *,
    tokens: int = 3,
    broken: bool = False,
) -> TurnRecord:
    kind = OutcomeKind.SUCCESS if error is None else OutcomeKind.ERROR
    return TurnRecord(
        user_turn=user_turn,
        text="",
        calls=(call,) if call else (),
        failures=(BROKEN,) if broken else (),
        outcomes=(ToolOutcome(kind=kind, text="", error=error),) if call else (),
        finish=FinishReason.STOP,
        tokens=tokens,
    )


def episode(
    *turns: TurnRecord,
    ok: bool = True,
    end: EndReason = EndReason.ANSWERED,
    turn_ok: tuple[bool | None, ...] | None = None,
    scenario: int = 0,
    category: str = "base",
) -> EpisodeRecord:
    return EpisodeRecord(
        task=f"{category}_{scenario}",
        turns=turns,
        end=end,
        verdict=None if end is EndReason.HARNESS_FAULT else Verdict(ok=ok),
        gold_calls=1,
        first_call_right=None,
        meta={"scenario": scenario, "category": category},
        turn_ok=turn_ok,
    )
