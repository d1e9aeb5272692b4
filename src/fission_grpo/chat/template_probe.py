"""Questions to a chat template, asked with dummy dialogues before anything is spent on it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from fission_grpo.chat.parse import assistant_message, parse_message, tool_message
from fission_grpo.chat.render import ChatTemplateError, Renderer
from fission_grpo.types import Message, Tool, ToolCall

T = TypeVar("T")

TOOLS: tuple[Tool, ...] = (
    {
        "type": "function",
        "function": {
            "name": "probe_tool",
            "description": "A tool to ask a template about.",
            "parameters": {
                "type": "object",
                "properties": {"probe_key": {"type": "string"}},
                "required": ["probe_key"],
            },
        },
    },
)
CALLS = (
    ToolCall(name="probe_tool", arguments={"probe_key": 'a "quoted" <ü>', "probe_more": [1, -2.5, None, True, {}]}),
    ToolCall(name="probe_tool", arguments={}),
)
ASKED: Message = {"role": "user", "content": "question"}
_SAID = "probevalue"
"""Stands in for what the policy said. First in its dialogue, whatever the texts behind it hold."""
_THINKING = re.compile(r"\s|</?think>")
_OPEN_TAG = re.compile(r"<[^<>]*\Z")
_REMEDY = "Use an instruction-tuned model whose template has tools, or `--chat-template hermes`."


def reply_dialogue(texts: Sequence[str]) -> tuple[Message, ...]:
    """A dialogue in which the assistant made one call for each text, and these are the results."""
    values = [""] * (len(texts) - 1) + [_SAID]
    calls = [ToolCall(name="probe_tool", arguments={"probe_key": value}) for value in values]
    results = (tool_message(text, place) for place, text in enumerate(texts))
    return (ASKED, assistant_message(calls), *results)


def user_dialogue(text: str) -> tuple[Message, ...]:
    """A dialogue in which the assistant answered in words and the user speaks again."""
    return (ASKED, assistant_message((), _SAID), {"role": "user", "content": text})


def behind_policy(text: str, end_of_turn: str) -> str:
    """The part of a rendered dummy dialogue from the end of the assistant's turn on.

    Raises:
        ChatTemplateError: the assistant's turn is not shown, or not ended.
    """
    said = text.find(_SAID)
    end = text.find(end_of_turn, said) if said >= 0 else -1
    if end < 0:
        raise ChatTemplateError(f"The chat template does not show a tool call followed by {end_of_turn}", _REMEDY)
    return text[end:]


def end_of_turn(renderer: Renderer) -> str:
    """The control token that closes an assistant turn, as the template writes it.

    Raises:
        ChatTemplateError: there is none.
    """
    text = renderer.text((ASKED, assistant_message((), _SAID)), TOOLS, prompt=False)
    said = text.find(_SAID)
    found = renderer.control.search(text, said) if said >= 0 else None
    if found is None:
        raise ChatTemplateError(
            "The chat template hides the assistant's words, or ends its turn without a control token",
            "Use a template that closes each assistant turn with one token, such as <|im_end|> in ChatML.",
        )
    return found[0]


def require_tools(renderer: Renderer) -> None:
    """The prompt names each tool and its arguments.

    Raises:
        ChatTemplateError: it does not.
    """
    text = renderer.text((ASKED,), TOOLS, prompt=True)
    missing = [word for word in ("probe_tool", "probe_key") if word not in text]
    if missing:
        raise ChatTemplateError("The chat template does not show the tools: neither names nor arguments", _REMEDY)


def require_prompt(renderer: Renderer) -> None:
    """The generation prompt goes exactly as far as the assistant's first word (thinking tags aside).

    Raises:
        ChatTemplateError: the prompt stops before the head of the assistant's turn, or is another one.
    """
    prompt, head = _heads(renderer)
    extra = head.removeprefix(prompt) if head.startswith(prompt) else prompt.removeprefix(head)
    if _THINKING.sub("", extra):
        raise ChatTemplateError(
            f"The generation prompt ends with {prompt[-40:]!r}, an assistant turn begins after {head[-40:]!r}",
            "Give the template an `add_generation_prompt` branch that writes the head of the assistant's turn.",
        )


def injected_thinking(renderer: Renderer) -> str:
    """Text that stands between the head of a turn and its words in the prompt or in the history, but not in both."""
    prompt, head = _heads(renderer)
    longer, shorter = (prompt, head) if len(prompt) > len(head) else (head, prompt)
    return longer.removeprefix(shorter)


def require_calls(renderer: Renderer) -> None:
    """Calls that the template writes are calls that we read.

    Raises:
        ChatTemplateError: they are not.
    """
    prompt = renderer.text((ASKED,), TOOLS, prompt=True)
    text = renderer.text((ASKED, assistant_message(CALLS)), TOOLS, prompt=False)
    said = said_after(prompt, text)
    parsed = parse_message(said)
    if parsed.failures or parsed.calls != CALLS:
        raise ChatTemplateError(
            f"Calls in this chat template cannot be read back, it writes {said[:120]!r}",
            "Only <tool_call> blocks with JSON (Hermes, Qwen) are read: use such a model, or `--chat-template hermes`.",
        )


def require_replies(renderer: Renderer, end_of_turn: str) -> None:
    """Tool results and user messages reach the model, in order, one or several.

    Raises:
        ChatTemplateError: one is swallowed.
    """
    dialogues = (reply_dialogue(["first"]), reply_dialogue(["first", "second"]), user_dialogue("first"))
    for dialogue in dialogues:
        shown = behind_policy(renderer.text(dialogue, TOOLS, prompt=True), end_of_turn)
        places = [shown.find(str(message["content"])) for message in dialogue[2:]]
        if -1 in places or places != sorted(places):
            role, count = dialogue[2]["role"], len(places)
            raise ChatTemplateError(
                f"The chat template swallows messages: {count} of role {role} after a turn", _REMEDY
            )


def said_after(prompt: str, text: str) -> str:
    """What an assistant turn adds to its prompt. A tag that both begin alike (`<think>`, `<tool_call>`) stays whole."""
    shared = text[: shared_length(prompt, text)]
    return text[len(_OPEN_TAG.sub("", shared)) :]


def shared_length(one: Sequence[T], other: Sequence[T]) -> int:
    """Length of the longest common beginning."""
    differ = (place for place, (left, right) in enumerate(zip(one, other, strict=False)) if left != right)
    return next(differ, min(len(one), len(other)))


def _heads(renderer: Renderer) -> tuple[str, str]:
    """The text in front of an assistant's first word: where the policy writes it, and where it is history."""
    prompt = renderer.text((ASKED,), TOOLS, prompt=True)
    history = renderer.text((ASKED, assistant_message((), _SAID)), TOOLS, prompt=False)
    return prompt, history.partition(_SAID)[0]
