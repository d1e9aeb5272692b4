"""What a learned simulator is asked: one failed call, what led to it, and what would have been right.

arXiv:2601.15625, stage 2: system prompt, tools, dialogue, failed call and reference call in, one runtime-style message
out. An explicit error text of the world is never shown: to write such a text is the task, in training and in use. The
answer to a call that succeeded and was wrong is shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol

from fission_grpo.chat.parse import assistant_message, render_call, tool_message
from fission_grpo.environments.dialogue import call_record
from fission_grpo.simulator.base import NO_COST, Case, Cost, FailedCall, Fallback
from fission_grpo.simulator.findings import findings
from fission_grpo.types import ErrorClass, Message, Tool, ToolCall, ToolOutcome

INSTRUCTION = """\
You are the runtime of the tools below. An assistant has just made a wrong call. Write the one message that the \
runtime gives back: one line, at most 40 words, in the voice of an error message, naming the tool or the argument \
at fault and what is wrong with it. You also see the right call, which the assistant must find by itself: never \
write a value of it that the assistant cannot know from the tools, the dialogue or its own call. Types, formats \
and the values that a tool's description allows may be named. If the call succeeded, begin with "The call \
succeeded, but"."""


class PromptStyle(StrEnum):
    """How a prompt is put."""

    INSTRUCTED = "instructed"
    """In words, for models that follow instructions."""
    COMPACT = "compact"
    """The dialogue itself, the failed call, then the reference: for models that were trained on this."""
    FINDINGS = "findings"
    """What code has found out about the call, and nothing else: for small models that were trained on this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a writer is asked: to diagnose one call of a failed message."""

    case: Case
    place: int
    """Which call of the message."""

    @property
    def call(self) -> ToolCall:
        return self.case.failed.parsed.calls[self.place]

    @property
    def answer(self) -> str | None:
        """What the world said to a call that succeeded; None where it failed, or where there is no world."""
        return None if self.answered is None else self.answered.text

    @property
    def answered(self) -> ToolOutcome | None:
        """The same with its kind."""
        outcome = outcome_at(self.case.failed, self.place)
        return None if outcome is None or outcome.is_error else outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A diagnosis, not yet checked."""

    text: str
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class NoCandidate:
    """Why there is none."""

    reason: Fallback
    detail: str = ""
    cost: Cost = NO_COST


class Writer(Protocol):
    """Who answers prompts: a local model or a server."""

    @property
    def name(self) -> str: ...

    @property
    def remote(self) -> bool:
        """Whether its time is another machine's, so that something else can be done meanwhile."""
        ...

    def write(self, prompts: Sequence[Prompt]) -> list[Candidate | NoCandidate]:
        """One answer for each prompt, in order, in bounded time.

        Raises:
            RolloutError: a fault of ours.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptMessages:
    """A prompt in one style: its messages, with the tools that a chat template or a server has to show."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]


def outcome_at(failed: FailedCall, place: int) -> ToolOutcome | None:
    """The world's answer to one call of the message, if it got so far."""
    return failed.outcomes[place] if place < len(failed.outcomes) else None


def prompts_of(case: Case) -> list[Prompt]:
    """The calls to blame: those that failed; where none did, all that were made.

    None for a malformed, cut-off or wordy message, which has a fixed answer.
    """
    failed = case.failed
    if failed.parsed.failures or failed.error is ErrorClass.FORMAT:
        return []
    places = range(len(failed.parsed.calls))
    guilty = [place for place in places if (made := outcome_at(failed, place)) is not None and made.is_error]
    if not guilty and failed.outcomes and failed.error not in (ErrorClass.SILENT, ErrorClass.SOFT):
        return []
    return [Prompt(case=case, place=place) for place in guilty or places]


def prompt_messages(prompt: Prompt, style: PromptStyle) -> PromptMessages:
    """The prompt as a model gets it."""
    return _PROMPTS[style](prompt)


def shortened(shown: PromptMessages) -> PromptMessages:
    """Without what was said before the last user message of the dialogue but the system message."""
    *dialogue, asked = shown.messages
    users = [place for place, message in enumerate(dialogue) if message["role"] == "user"]
    system = [message for message in dialogue[:1] if message["role"] == "system"]
    recent = dialogue[users[-1] :] if users else dialogue
    return PromptMessages(messages=(*system, *recent, asked), tools=shown.tools)


def _compact(prompt: Prompt) -> PromptMessages:
    answer = () if prompt.answer is None else (tool_message(prompt.answer, 0),)
    right = json.dumps([call_record(call) for call in prompt.case.reference[:1]], ensure_ascii=False, default=dict)
    messages = (
        *prompt.case.failed.messages,
        assistant_message((prompt.call,)),
        *answer,
        {"role": "user", "content": right},
    )
    return PromptMessages(messages=messages, tools=prompt.case.failed.tools)


def _instructed(prompt: Prompt) -> PromptMessages:
    failed = prompt.case.failed
    tools = "\n".join(json.dumps(tool["function"], ensure_ascii=False, default=dict) for tool in failed.tools)
    parts = [
        f"Tools:\n{tools}",
        "Dialogue:\n" + "\n".join(map(_told, failed.messages)),
        f"Wrong call:\n{render_call(prompt.call)}",
        f"The world answered: {prompt.answer}" if prompt.answer is not None else "",
        "Right call (secret):\n" + "\n".join(map(render_call, prompt.case.reference[:1])),
        "The runtime's message:",
    ]
    content = "\n\n".join(filter(None, parts))
    return PromptMessages(
        messages=({"role": "system", "content": INSTRUCTION}, {"role": "user", "content": content}), tools=()
    )


def _findings(prompt: Prompt) -> PromptMessages:
    failed = prompt.case.failed
    found = findings(
        prompt.call,
        tools=failed.tools,
        messages=failed.messages,
        reference=prompt.case.reference,
        answer=prompt.answered,
    )
    return PromptMessages(messages=({"role": "user", "content": found},), tools=())


def _told(message: Message) -> str:
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    made = f" calls {json.dumps(calls, ensure_ascii=False, default=dict)}" if calls else ""
    return f"{message['role']}: {message.get('content') or ''}{made}"


_PROMPTS: Mapping[PromptStyle, Callable[[Prompt], PromptMessages]] = MappingProxyType(
    {PromptStyle.COMPACT: _compact, PromptStyle.FINDINGS: _findings, PromptStyle.INSTRUCTED: _instructed}
)

LONGEST = 600
"""Characters of a diagnosis that are kept."""


def cleaned(text: str) -> str:
    """What of a model's words is the message: nothing that it thought, one paragraph, no fence, not too long."""
    said = text.rpartition("</think>")[2].strip()
    return said.split("\n\n")[0].strip("` \n")[:LONGEST]
