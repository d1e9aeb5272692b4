"""The official multi-turn verdict of BFCL, with everything that depends on the gold alone computed once.

For each turn with gold calls, in this order: the policy must have called something; every public attribute of every
instance must equal the gold instance's; and the results of the gold calls *of this turn* must be a sub-multiset of
all results of the policy *so far*. The first turn that fails decides. Turns without gold calls are not judged.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from fission_grpo.environments.bfcl_world import BfclWorld
from fission_grpo.environments.limits import CallLimits
from fission_grpo.types import ToolCall, Verdict


class TurnError(StrEnum):
    """The official names of what can be wrong with a turn."""

    EMPTY = "multi_turn:empty_turn_model_response"
    STATE = "multi_turn:instance_state_mismatch"
    RESPONSE = "multi_turn:execution_response_mismatch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One judged turn."""

    error: TurnError | None
    """None: the turn is right."""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldTurn:
    """What a turn must lead to."""

    results: tuple[str, ...]
    """Official texts of this turn's gold calls; empty when the turn is not judged."""
    state: Mapping[str, Any]
    """Class name -> gold instance as it stood at the end of the turn; shared by all judges, never called."""


def world_key(config: Mapping[str, Any]) -> str:
    """A world's config as JSON text: what a file cannot hold, a world cannot."""
    return json.dumps(config)


def gold_key(gold: Sequence[Sequence[ToolCall]]) -> str:
    """Gold calls as JSON text."""
    return json.dumps([[[call.name, dict(call.arguments)] for call in turn] for turn in gold])


@lru_cache(maxsize=4096)
def gold_turns(world: str, gold: str, limits: CallLimits) -> tuple[GoldTurn, ...]:
    """Replay the gold calls of `gold_key` in the world of `world_key`, once for each pair.

    Raises:
        ConfigError: the world cannot be built.
    """
    live = BfclWorld.initial(world)
    turns = []
    for calls in json.loads(gold):
        results = tuple(live.call(name, arguments, limits) for name, arguments in calls)
        state = BfclWorld.thaw(live.freeze()).instances if results else {}
        turns.append(GoldTurn(results=results, state=MappingProxyType(state)))
    return tuple(turns)


def judge(gold: GoldTurn, instances: Mapping[str, Any], results: Sequence[Sequence[str]]) -> Judgement | None:
    """Judge the turn that ends now; None when it has no gold calls.

    Args:
        gold: what this turn must lead to.
        instances: the policy's instances as they stand.
        results: texts of the policy's calls per turn, this turn last.
    """
    if not gold.results:
        return None
    if not results[-1]:
        return Judgement(error=TurnError.EMPTY, detail="no call was made in this turn")
    if different := _differences(gold.state, instances):
        return Judgement(error=TurnError.STATE, detail="; ".join(different))
    if missing := Counter(gold.results) - Counter(text for turn in results for text in turn):
        return Judgement(error=TurnError.RESPONSE, detail=f"never returned: {next(iter(missing))}")
    return Judgement(error=None)


def _differences(gold: Mapping[str, Any], instances: Mapping[str, Any]) -> list[str]:
    """Names of the public attributes that differ, compared by `!=` as the official checker does."""
    return [
        f"{name}.{attribute}"
        for name, instance in gold.items()
        for attribute, expected in vars(instance).items()
        if not attribute.startswith("_") and getattr(instances[name], attribute) != expected
    ]


def verdict(judgements: Iterable[Judgement | None]) -> Verdict:
    """The verdict on an episode from its turns in order; None stands for a turn that is not judged."""
    judged = [(turn, judgement) for turn, judgement in enumerate(judgements) if judgement is not None]
    wrong = [(turn, judgement) for turn, judgement in judged if judgement.error is not None]
    if not wrong:
        return Verdict(ok=True, matched=1.0)
    turn, first = wrong[0]
    return Verdict(
        ok=False,
        error_type=str(first.error),
        detail=f"turn {turn}: {first.detail}",
        matched=1 - len(wrong) / len(judged),
    )
