"""Dialogue in, assistant message out: the seam between an evaluation and the model that it evaluates.

Training needs tokens (`policy/`); an evaluation by an official protocol needs messages, because that protocol renders
the whole dialogue again at every step, and because a server takes nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from fission_grpo.chat.parse import call_id
from fission_grpo.types import FinishReason, Message, ParseFailure, Tool, ToolCall, ToolOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What the model is shown."""

    messages: tuple[Message, ...]
    """OpenAI messages, ending with a user or tool message. An assistant message that was answered by an `Answer` is
    that answer's `message`, unchanged."""
    tools: tuple[Tool, ...]
    """The tools on offer now, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model said."""

    text: str
    """The whole assistant text as the model wrote it, tags included; of a server that hides them, the content."""
    message: Message
    """The assistant message for the history of the dialogue."""
    calls: tuple[ToolCall, ...]
    """Calls that are to be executed, in order."""
    failures: tuple[ParseFailure, ...] = ()
    """Malformed calls. What a protocol does about them is its own affair; they are always recorded."""
    finish: FinishReason = FinishReason.STOP
    prompt_tokens: int = 0
    """0 where a server does not say."""
    tokens: int = 0
    """Sampled tokens; 0 where a server does not say."""
    seconds: float = 0.0
    """Waiting time of a server, retries included; 0 for a local policy."""

    def replies(self, outcomes: Sequence[ToolOutcome]) -> list[Message]:
        """A tool message for each outcome, under the ids of the answer's own calls; ours where it has none."""
        asked = self.message.get("tool_calls") or ()
        ids = [call["id"] for call in asked if isinstance(call, Mapping) and "id" in call]
        if len(ids) != len(outcomes):
            ids = [call_id(place) for place in range(len(outcomes))]
        pairs = zip(ids, outcomes, strict=True)
        return [{"role": "tool", "tool_call_id": id_, "content": outcome.text} for id_, outcome in pairs]


class Agent(Protocol):
    """A model under evaluation."""

    name: str
    """For reports; never used as a key."""
    width: int
    """Dialogues that it likes to answer side by side: the batch of a local model, the concurrency of a server."""

    def answer(self, dialogues: Sequence[Conversation], *, seed: int) -> list[Answer | AgentFault]:
        """One answer for each dialogue, in order.

        A dialogue that could not be answered gets a fault and no exception: the others stay good.

        Raises:
            PolicyError: nothing can be answered any more (a local model that broke).
            ConfigError: the server refuses this kind of request for good (no such model, no authorisation).
        """
        ...


class FaultKind(StrEnum):
    """Whose doing it is that a dialogue was not answered."""

    MACHINERY = "machinery"
    """Ours or the server's: never scored as the model's."""
    DIALOGUE = "dialogue"
    """The dialogue cannot be put before this model: it is too long for the context window, or the model's own words
    cannot be written down again. What that means for the score is the protocol's affair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFault:
    """There is no answer."""

    reason: str
    kind: FaultKind = FaultKind.MACHINERY
