"""The official multi-turn verdict of BFCL, with everything that depends on the gold alone computed once.

For each turn with gold calls, in this order: the policy must have called something; every public attribute of every
instance must equal the gold instance's; and the results of the gold calls *of this turn* must be a sub-multiset of
all results of the policy *so far*. The first turn that fails decides. Turns without gold calls are not judged.

The official checker runs policy and gold in one process, turn by turn, and what the official classes hold in common is
one object for both: what the policy does to it happens to gold. `together` judges like that. Until something of it has
changed (`BfclWorld.disturbed`) gold by itself comes to the same, and is computed once.
"""

from __future__ import annotations

import marshal
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from typing import Any

from fission_grpo.environments.bfcl.world import BfclWorld, spelled
from fission_grpo.environments.limits import CallLimits, CallTimeout
from fission_grpo.errors import ConfigError, EnvironmentFault
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


_RIGHT = Judgement(error=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicState:
    """What the official checker sees of one gold instance."""

    owner: str
    """Class name."""
    attributes: tuple[str, ...]
    values: Any
    """As `read` reads them; shared by all judges, never called."""
    read: Callable[[Any], Any]

    @classmethod
    def of(cls, owner: str, instance: Any) -> PublicState | None:
        """The public attributes of an instance; None when it has none."""
        attributes = tuple(name for name in vars(instance) if not name.startswith("_"))
        if not attributes:
            return None
        read = attrgetter(*attributes)
        return cls(owner=owner, attributes=attributes, values=read(instance), read=read)

    def differences(self, instance: Any) -> list[str]:
        """Names of the attributes that differ from the gold instance's."""
        if self.read(instance) == self.values:
            return []
        values = self.values if len(self.attributes) > 1 else (self.values,)
        pairs = zip(self.attributes, values, strict=True)
        return [f"{self.owner}.{name}" for name, expected in pairs if getattr(instance, name) != expected]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldTurn:
    """What a turn must lead to."""

    results: Mapping[str, int]
    """Official text of this turn's gold calls -> how often; empty when the turn is not judged."""
    states: tuple[PublicState, ...]
    """The gold instances as they stood at the end of the turn."""
    disturbed: bool = False
    """A gold call has changed what the official checker lets policy and gold share."""


def world_key(config: Mapping[str, Any]) -> bytes:
    """A world's config as bytes, equal for equal configs and cheap enough for every reset.

    Raises:
        ConfigError: the config holds something that JSON cannot.
    """
    try:
        return marshal.dumps(dict(config), _PLAIN)
    except ValueError as error:
        raise ConfigError(f"a BFCL world's config must be plain JSON values; got {config!r:.200}") from error


def gold_key(gold: Sequence[Sequence[ToolCall]]) -> bytes:
    """Gold calls as bytes, equal for equal calls.

    Raises:
        ConfigError: an argument is no JSON value.
    """
    try:
        return marshal.dumps([[(call.name, dict(call.arguments)) for call in turn] for turn in gold], _PLAIN)
    except ValueError as error:
        raise ConfigError(f"gold calls must have plain JSON arguments; got {gold!r:.200}") from error


_PLAIN = 2
"""The marshal format without references, in which equal values have equal bytes."""


@lru_cache(maxsize=4096)
def gold_turns(world: bytes, gold: bytes, limits: CallLimits) -> tuple[GoldTurn, ...]:
    """Replay the gold calls of `gold_key` in the world of `world_key`, once for each pair.

    Raises:
        ConfigError: the world cannot be built.
        EnvironmentFault: a gold call overran its time; nothing is kept, and the next request replays it anew.
    """
    live = BfclWorld.initial(world)
    turns = []
    for calls in marshal.loads(gold):  # our own bytes, never a file
        results = Counter(replayed(live, name, arguments, limits) for name, arguments in calls)
        instances = BfclWorld.thaw(live.freeze()).instances if results else {}
        states = (PublicState.of(owner, instance) for owner, instance in instances.items())
        kept = tuple(state for state in states if state)
        turns.append(GoldTurn(results=results, states=kept, disturbed=live.disturbed()))
    return tuple(turns)


def replayed(live: BfclWorld, name: str, arguments: Mapping[str, Any], limits: CallLimits) -> str:
    """The text of a call that is not the policy's own: gold, or recorded in a dialogue.

    Raises:
        EnvironmentFault: it overran its time, which says something of the machine and nothing of the call.
    """
    try:
        return live.call_in_time(name, arguments, limits)
    except CallTimeout as slow:
        raise EnvironmentFault(
            f"{name} took longer than {limits.seconds:g} s when it was replayed; expected an answer in time. "
            "The machine may be busy: give it fewer processes"
        ) from slow


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
    if different := [name for state in gold.states for name in state.differences(instances[state.owner])]:
        return Judgement(error=TurnError.STATE, detail="; ".join(different))
    had = Counter(chain.from_iterable(results))
    if missing := [text for text, needed in gold.results.items() if had[text] < needed]:
        return Judgement(error=TurnError.RESPONSE, detail=f"never returned: {missing[0]}")
    return _RIGHT


def judge_episode(
    config: Mapping[str, Any],
    gold: Sequence[Sequence[ToolCall]],
    turns: Sequence[Sequence[ToolCall]],
    limits: CallLimits,
) -> Verdict:
    """The official verdict on calls that are known in full, for instance from stored traces.

    Like the official checker it runs every function of the world's classes, whatever tools were on offer, reads calls
    as `spelled` does, and judges `together` where that makes a difference.

    Args:
        config: of the world.
        gold: gold calls per turn.
        turns: the policy's calls per turn; turns beyond the gold's are ignored.
        limits: caps on each call.
    """
    world = world_key(config)
    live, results, judgements = BfclWorld.initial(world), [], []
    for expected, calls in zip(gold_turns(world, gold_key(gold), limits), turns, strict=False):
        results.append([_text(live, call, limits) for call in calls])
        if expected.disturbed or live.disturbed():
            return verdict(together(world, gold, turns, limits))
        judgements.append(judge(expected, live.instances, results))
    return verdict(judgements)


def together(
    world: bytes, gold: Sequence[Sequence[ToolCall]], turns: Sequence[Sequence[ToolCall]], limits: CallLimits
) -> list[Judgement | None]:
    """The judgement on each turn as the official checker comes to it, which runs policy and gold side by side.

    Args:
        world: of `world_key`.
        gold: gold calls per turn.
        turns: the policy's calls per turn; turns beyond the gold's are ignored.
        limits: caps on each call.

    Raises:
        EnvironmentFault: a gold call overran its time.
    """
    policy, other = BfclWorld.pair(world)
    results: list[list[str]] = []
    judgements = []
    for expected, calls in zip(gold, turns, strict=False):
        results.append([_text(policy, call, limits) for call in calls])
        wanted = Counter(replayed(other, call.name, call.arguments, limits) for call in expected)
        states = (PublicState.of(owner, instance) for owner, instance in other.instances.items())
        now = GoldTurn(results=wanted, states=tuple(state for state in states if state))
        judgements.append(judge(now, policy.instances, results))
    return judgements


def _text(world: BfclWorld, call: ToolCall, limits: CallLimits) -> str:
    read = spelled(call)
    return world.call(read.name, read.arguments, limits)


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
