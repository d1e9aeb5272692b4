"""Recovery without training: what better error messages, or one word, do for the same model.

Both are wrappers around an agent. They change what the model reads, never what the world does: calls, outcomes and
verdict are those of the real world, and the record keeps its real texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from fission_grpo.agents.base import Agent, AgentFault, Answer, Conversation
from fission_grpo.agents.formats import PromptFormat
from fission_grpo.chat.parse import parse_message
from fission_grpo.environments.bfcl.outcomes import classify
from fission_grpo.files import parse_json
from fission_grpo.simulator.base import FailedCall
from fission_grpo.simulator.rules import RulesSimulator
from fission_grpo.types import ErrorClass, Message, OutcomeKind, ParsedMessage, ToolCall, ToolOutcome

OutcomeReader: TypeAlias = Callable[[str], tuple[OutcomeKind, ErrorClass | None]]
"""What a tool's text means, in the world at hand; `classify` reads BFCL's."""

WAIT = "Wait"
"""The cue of Self-Correction Bench (arXiv:2507.02778)."""

ADVICE: Mapping[ErrorClass, tuple[str, str]] = {
    ErrorClass.UNKNOWN_TOOL: (
        "there is no tool of this name",
        "choose a name from the list of tools, letter by letter",
    ),
    ErrorClass.ARGUMENT_SCHEMA: (
        "an argument is missing, or one is not known to this tool",
        "call it again with exactly the arguments that it describes",
    ),
    ErrorClass.ARGUMENT_TYPE: (
        "an argument has the wrong type",
        "call it again with each value in the type that the tool describes",
    ),
    ErrorClass.NOT_FOUND: (
        "a value names nothing that exists here and now",
        "look up which values exist, or go where the value exists, then call it again",
    ),
    ErrorClass.ILLEGAL_VALUE: (
        "a value is not among those allowed",
        "call it again with an allowed value",
    ),
    ErrorClass.PRECONDITION: (
        "the call may be right, but something has to be done before it",
        "do first what the message says is missing, then make the call again",
    ),
    ErrorClass.CONFLICT: (
        "this has been done already, or exists already",
        "check what is there; go on without this call if nothing is missing",
    ),
    ErrorClass.LIMIT: (
        "the call needed too much time or space",
        "ask for less",
    ),
}
"""Diagnosis and suggestion by error class: of the call alone, blind to what would be right."""


class StructuredErrors:
    """Shows every tool error with a diagnosis and a suggestion behind the world's own words.

    After "Structured error contracts" (arXiv:2606.05037). The hint between them is the `rules` simulator's, which knows
    the tools, the call and the world's text, and never the reference.
    """

    def __init__(self, inner: Agent, *, read: OutcomeReader = classify) -> None:
        self.name = f"{inner.name} + structured errors"
        self.width = inner.width
        self._inner = inner
        self._simulator = RulesSimulator()
        self._read = read

    def answer(self, dialogues: Sequence[Conversation], *, seed: int) -> list[Answer | AgentFault]:
        """The inner agent's answers to the reworded dialogues.

        Raises:
            SimulatorError: a tool's schema cannot be read.
        """
        return self._inner.answer([self.reword(dialogue) for dialogue in dialogues], seed=seed)

    def reword(self, dialogue: Conversation) -> Conversation:
        """The dialogue with every tool error reworded; a pure function, so that history never changes its wording."""
        shown: list[Message] = []
        for start, results in _blocks(dialogue.messages):
            shown += dialogue.messages[len(shown) : start]
            shown += self._reworded(dialogue, start, results)
        return replace(dialogue, messages=(*shown, *dialogue.messages[len(shown) :]))

    def _reworded(self, dialogue: Conversation, start: int, results: Sequence[Message]) -> Iterator[Message]:
        outcomes = [_outcome(str(message["content"]), self._read) for message in results]
        if not any(outcome.is_error for outcome in outcomes):
            yield from results
            return
        texts = self._hinted(dialogue, start, outcomes)
        for message, outcome, text in zip(results, outcomes, texts, strict=True):
            diagnosis, suggestion = ADVICE.get(outcome.error or ErrorClass.SILENT, ("", ""))
            advised = f"{text}\ndiagnosis: {diagnosis} ({outcome.error})\nsuggestion: {suggestion}"
            yield {**message, "content": advised} if outcome.is_error and diagnosis else message

    def _hinted(self, dialogue: Conversation, start: int, outcomes: Sequence[ToolOutcome]) -> Sequence[str]:
        """The simulator's texts; the world's own where its calls cannot be told apart."""
        said = dialogue.messages[start - 1]
        calls = _calls(said)
        if len(calls) != len(outcomes):
            return [outcome.text for outcome in outcomes]
        failed = FailedCall(
            messages=dialogue.messages[: start - 1],
            tools=dialogue.tools,
            text=str(said.get("content") or ""),
            parsed=ParsedMessage(content=str(said.get("content") or ""), calls=calls, failures=()),
            outcomes=tuple(outcomes),
            error=next(outcome.error for outcome in outcomes if outcome.is_error) or ErrorClass.ARGUMENT_TYPE,
        )
        return self._simulator.diagnose([failed])[0].texts


class CuedFormat:
    """A prompt mode in which, right after a tool error, the assistant's message has begun with a cue already."""

    def __init__(
        self,
        inner: PromptFormat,
        encode: Callable[[str], Sequence[int]],
        *,
        read_outcome: OutcomeReader = classify,
    ) -> None:
        """Put the cue behind the inner prompt.

        Args:
            encode: text to token ids, without special tokens.
        """
        self._inner = inner
        self._encode = encode
        self._read_outcome = read_outcome

    def prompt(self, dialogue: Conversation) -> tuple[int, ...]:
        """The inner prompt, followed by the cue's tokens if a tool error stands at its end."""
        ids = self._inner.prompt(dialogue)
        return (*ids, *self._encode(WAIT)) if self.is_cued(dialogue) else ids

    def read(self, text: str) -> Answer:
        return self._inner.read(text)

    def decode(self, ids: Iterable[int]) -> str:
        return self._inner.decode(ids)

    def is_cued(self, dialogue: Conversation) -> bool:
        return ends_in_error(dialogue, self._read_outcome)

    def with_cue(self, answer: Answer) -> Answer:
        """The answer as the model gave it, cue included: read again, so that the history holds what stood there."""
        whole = self.read(WAIT + answer.text)
        return replace(answer, text=whole.text, message=whole.message, calls=whole.calls, failures=whole.failures)


class WaitPrefix:
    """The exact cue, for local policies: after an error the model's own message starts with "Wait".

    `Answer.tokens` counts what was sampled behind it; the cue counts as prompt. A reasoning model gets the cue before
    it can open its reasoning.
    """

    def __init__(self, build: Callable[[PromptFormat], Agent], prompts: CuedFormat) -> None:
        """Build the agent around the cued prompts.

        Args:
            build: makes the agent that prompts as it is told, for instance `LocalAgent` with its policy.
        """
        self._inner = build(prompts)
        self._prompts = prompts
        self.name = f"{self._inner.name} + Wait"
        self.width = self._inner.width

    def answer(self, dialogues: Sequence[Conversation], *, seed: int) -> list[Answer | AgentFault]:
        """The inner agent's answers, those that were cued with the cue at their beginning."""
        answers = self._inner.answer(dialogues, seed=seed)
        pairs = zip(dialogues, answers, strict=True)
        return [
            self._prompts.with_cue(answer) if isinstance(answer, Answer) and self._prompts.is_cued(dialogue) else answer
            for dialogue, answer in pairs
        ]


class WaitMessage:
    """The cue for servers, which let nobody begin the model's message: "Wait" ends the tool's error instead.

    Not the same thing: the model reads the cue and does not say it. Report it under this name, beside no exact one.
    """

    def __init__(self, inner: Agent, *, read: OutcomeReader = classify) -> None:
        self.name = f"{inner.name} + Wait in the error"
        self.width = inner.width
        self._inner = inner
        self._read = read

    def answer(self, dialogues: Sequence[Conversation], *, seed: int) -> list[Answer | AgentFault]:
        """The inner agent's answers to the cued dialogues."""
        return self._inner.answer([self.cue(dialogue) for dialogue in dialogues], seed=seed)

    def cue(self, dialogue: Conversation) -> Conversation:
        """The dialogue with the cue behind its last message, if a tool error stands at its end."""
        if not ends_in_error(dialogue, self._read):
            return dialogue
        *before, last = dialogue.messages
        return replace(dialogue, messages=(*before, {**last, "content": f"{last['content']}\n\n{WAIT}"}))


def ends_in_error(dialogue: Conversation, read: OutcomeReader = classify) -> bool:
    """Whether one of the tool messages at the end is an explicit error."""
    blocks = list(_blocks(dialogue.messages))
    if not blocks:
        return False
    start, results = blocks[-1]
    at_end = start + len(results) == len(dialogue.messages)
    return at_end and any(_outcome(str(message["content"]), read).is_error for message in results)


def _blocks(messages: Sequence[Message]) -> Iterator[tuple[int, Sequence[Message]]]:
    """Every run of tool messages, with the place of its first."""
    place = 0
    while place < len(messages):
        stop = place
        while stop < len(messages) and messages[stop]["role"] == "tool":
            stop += 1
        if stop > place:
            yield place, messages[place:stop]
        place = max(stop, place + 1)


def _outcome(text: str, read: OutcomeReader) -> ToolOutcome:
    kind, error = read(text)
    return ToolOutcome(kind=kind, text=text, error=error)


def _calls(message: Message) -> tuple[ToolCall, ...]:
    """The calls of an assistant message: OpenAI's form, bare objects, or tags in its text."""
    if message["role"] != "assistant":
        return ()
    if not message.get("tool_calls"):
        return parse_message(str(message.get("content") or "")).calls
    return tuple(call for item in message["tool_calls"] if (call := _call(item)) is not None)


def _call(item: Any) -> ToolCall | None:
    body = item.get("function", item) if isinstance(item, Mapping) else {}
    name, arguments = body.get("name"), body.get("arguments")
    if isinstance(arguments, str):
        arguments = _object(arguments)
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        return None
    return ToolCall(name=name, arguments=arguments)


def _object(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return None
