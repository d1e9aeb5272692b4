"""Plays tasks with an agent in our own protocol: for probes, which begin in the middle of a dialogue.

Unlike the official protocol it answers a malformed message with an error in the tool channel, as in training.
"""

from __future__ import annotations

from collections.abc import Generator

from fission_grpo.agents.base import AgentFault, Answer, Conversation, FaultKind
from fission_grpo.environments.base import Environment
from fission_grpo.errors import EnvironmentFault
from fission_grpo.evaluation.interleave import Played
from fission_grpo.evaluation.records import EpisodeRecord, TurnRecord
from fission_grpo.rollout import malformed_reply
from fission_grpo.types import EndReason, FinishReason, Message, Task, ToolOutcome

MAX_STEPS = 20
"""Most messages with calls in one user turn."""


def play_task(task: Task, environment: Environment) -> Played[EpisodeRecord]:
    """Play one task from where its messages end, through its follow-ups; the environment is reset first.

    Raises:
        ConfigError: the task has no world of this kind.
    """
    play = _Play(task, environment)
    first_turn = play.user_turn
    try:
        environment.reset(task)
        end = yield from play.turns()
        verdict = environment.score() if end is not EndReason.HARNESS_FAULT else None
    except EnvironmentFault:
        end, verdict = EndReason.HARNESS_FAULT, None
    return EpisodeRecord(
        task=task.id,
        turns=tuple(play.records),
        end=end,
        verdict=verdict,
        gold_calls=sum(map(len, task.gold[first_turn:])),
        first_call_right=None,
        meta=task.meta,
    )


class _Play:
    """What is known in the middle of a task."""

    def __init__(self, task: Task, environment: Environment) -> None:
        self.user_turn = sum(message["role"] == "user" for message in task.messages) - 1
        self.records: list[TurnRecord] = []
        self._followups = task.followups
        self._messages: list[Message] = list(task.messages)
        self._environment = environment

    def turns(self) -> Generator[Conversation, Answer | AgentFault, EndReason]:
        """All user turns from here on."""
        end = yield from self._turn()
        for text in self._followups:
            if end is not EndReason.ANSWERED:
                return end
            self._messages.append({"role": "user", "content": text})
            self._environment.next_turn()
            self.user_turn += 1
            end = yield from self._turn()
        return end

    def _turn(self) -> Generator[Conversation, Answer | AgentFault, EndReason]:
        for _ in range(MAX_STEPS):
            answer = yield Conversation(messages=tuple(self._messages), tools=self._environment.tools)
            if isinstance(answer, AgentFault):
                return EndReason.HARNESS_FAULT if answer.kind is FaultKind.MACHINERY else EndReason.CONTEXT
            outcomes = self._outcomes(answer)
            self.records.append(
                TurnRecord(
                    user_turn=self.user_turn,
                    text=answer.text,
                    calls=answer.calls,
                    failures=() if answer.calls else answer.failures,
                    outcomes=outcomes,
                    finish=answer.finish,
                    tokens=answer.tokens,
                )
            )
            self._messages += [answer.message, *answer.replies(outcomes)]
            if answer.finish is FinishReason.LENGTH:
                return EndReason.LENGTH
            if not outcomes:
                return EndReason.ANSWERED
        return EndReason.MAX_TURNS

    def _outcomes(self, answer: Answer) -> tuple[ToolOutcome, ...]:
        if answer.failures and not answer.calls:
            return (malformed_reply(answer.failures),)
        return tuple(map(self._environment.execute, answer.calls))
