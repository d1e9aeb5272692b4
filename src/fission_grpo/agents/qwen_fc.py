"""The official prompt and decoding of BFCL for Qwen3 ("FC" models), to the byte.

Source of the rules: `QwenFCHandler` of `bfcl-eval` 2026.3.23; the wording of the prompt is that of Qwen3's own chat
template. Where the official handler is odd, so is this: what it drops is dropped, where it raises the user turn ends,
and words of the model that it cannot write down again end the episode.

One difference is on purpose. The official harness pastes names and keys into source text and evaluates that; here a
call is a name with arguments, so a name or key that is no identifier is an unknown one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from functools import cache
from itertools import islice
from typing import Any

from fission_grpo.agents.base import Answer, Conversation
from fission_grpo.chat.parse import CLOSE, OPEN, parse_message
from fission_grpo.environments.bfcl.official import bfcl_documents
from fission_grpo.environments.dialogue import call_record
from fission_grpo.errors import ConfigError, FissionError
from fission_grpo.types import Message, ParseFailure, ParseFailureKind, Tool, ToolCall

LANGUAGE_HINT = " Note that the provided function is in Python 3 syntax."
"""What the official loader appends to the description of every function that is on offer from the start."""
DEEPEST_CALL = 100
"""Deeper nesting is read as a broken call: no record could hold it."""
MOST_FAILURES = 100
"""Malformed blocks of one answer that are recorded."""

_HEAD = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_TAIL = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
)


class PromptError(FissionError):
    """A dialogue that cannot be put before the model."""


class Strictness(StrEnum):
    """How the model's text is read."""

    OFFICIAL = "official"
    LENIENT = "lenient"
    """Every well-formed call counts, whatever the white space around it. Ours: never to be called an official score."""


def qwen_fc_prompt(dialogue: Conversation) -> str:
    """The whole prompt, up to the place where the assistant speaks.

    Raises:
        ConfigError: a tool that is no BFCL function; only those have official documents.
        PromptError: the official handler raises on this dialogue too.
    """
    messages = dialogue.messages
    last_query = _last_query(messages)
    parts = [_system(messages, dialogue.tools)]
    for place, message in enumerate(messages):
        match message["role"]:
            case "assistant":
                parts.append(_assistant(message, thinking=place > last_query))
            case "tool":
                parts.append(_tool_response(messages, place))
            case "user" | "system" as role if role == "user" or place:
                parts.append(f"<|im_start|>{role}\n{message['content']}<|im_end|>\n")
    return "".join((*parts, "<|im_start|>assistant\n"))


def read_qwen_fc(text: str, strictness: Strictness = Strictness.OFFICIAL) -> Answer:
    """What the official handler makes of a completion: its history message, and the calls that it decodes.

    A message whose decoding raises has no calls, which ends the user turn; the failures say why.
    """
    said = without_reasoning(text)
    if strictness is Strictness.LENIENT:
        parsed = parse_message(said)
        items: Sequence[Any] = list(map(call_record, parsed.calls))
        calls, failures = parsed.calls, parsed.failures
    else:
        items = list(_items(text))
        calls, failures = decode(said), tuple(_failures(said))
    content: dict[str, Any] = {"content": "", "tool_calls": items} if items else {"content": said}
    message = {"role": "assistant", **content, "reasoning_content": _reasoning(text)}
    before = len(text) - len(said)
    placed = tuple(replace(failure, start=before + failure.start) for failure in failures)
    return Answer(text=text, message=message, calls=calls, failures=placed)


def decode(said: str) -> tuple[ToolCall, ...]:
    """The calls of a text without its reasoning, by the official rules: tags on lines of their own, blocks that are no
    JSON dropped, arguments given as text read as JSON; one item that is no call, and there are none at all."""
    try:
        return tuple(map(_call, _items(said)))
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()


def without_reasoning(text: str) -> str:
    """The text that the official handler stores and decodes: what stands behind the last `</think>`."""
    return text.rpartition("</think>")[2].lstrip("\n") if "</think>" in text else text


def _reasoning(text: str) -> str:
    thought, closed, _ = text.partition("</think>")
    return thought.rstrip("\n").rpartition("<think>")[2].lstrip("\n") if closed else ""


def _system(messages: Sequence[Message], tools: Sequence[Tool]) -> str:
    given = str(messages[0]["content"]) if messages[0]["role"] == "system" else ""
    if not tools:
        return f"<|im_start|>system\n{given}<|im_end|>\n" if given else ""
    documents = "".join("\n" + _document(tool["function"]["name"]) for tool in tools)
    return "<|im_start|>system\n" + (given + "\n\n" if given else "") + _HEAD + documents + _TAIL


@cache
def _document(name: str) -> str:
    if name not in bfcl_documents():
        raise ConfigError(f"{name!r} is no BFCL function: the official prompt has no document for it; use chat-tools")
    document = bfcl_documents()[name]
    return json.dumps({**document, "description": document["description"] + LANGUAGE_HINT})


def _last_query(messages: Sequence[Message]) -> int:
    """Place of the last message that a user really wrote: reasoning is shown from there on only."""
    places = [
        place
        for place, message in enumerate(messages)
        if message["role"] == "user" and not _is_wrapped(message["content"])
    ]
    return places[-1] if places else len(messages) - 1


def _is_wrapped(content: str) -> bool:
    return content.startswith("<tool_response>") and content.endswith("</tool_response>")


def _assistant(message: Message, *, thinking: bool) -> str:
    content, reasoning = str(message["content"] or ""), str(message.get("reasoning_content") or "")
    if not reasoning and "</think>" in content:
        content, reasoning = without_reasoning(content), _reasoning(content)
    shown = content
    if thinking and reasoning:
        shown = "<think>\n" + reasoning.strip("\n") + "\n</think>\n\n" + content.lstrip("\n")
    calls = message.get("tool_calls", ())
    try:
        blocks = "".join(("\n" if content or call != calls[0] else "") + _call_block(call) for call in calls)
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise PromptError(f"a call that the model made cannot be shown again: {error!r}") from error
    return f"<|im_start|>assistant\n{shown}{blocks}<|im_end|>\n"


def _call_block(call: Any) -> str:
    """One item of `tool_calls`: whatever JSON the model wrote, or an OpenAI call."""
    body = call.get("function", call)
    arguments = body["arguments"]
    written = arguments if isinstance(arguments, str) else json.dumps(arguments)
    block: str = '<tool_call>\n{"name": "' + body["name"] + '", "arguments": ' + written + "}\n</tool_call>"
    return block


def _tool_response(messages: Sequence[Message], place: int) -> str:
    """Results that follow each other share one user turn."""
    first = place == 0 or messages[place - 1]["role"] != "tool"
    last = place == len(messages) - 1 or messages[place + 1]["role"] != "tool"
    content = messages[place]["content"]
    head, end = "<|im_start|>user" if first else "", "<|im_end|>\n" if last else ""
    return f"{head}\n<tool_response>\n{content}\n</tool_response>{end}"


def _items(text: str) -> Iterator[Any]:
    """The JSON of every block that has some."""
    for _, block in _blocks(text):
        try:
            yield json.loads(block)
        except (ValueError, RecursionError):
            continue


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Where each block begins, and what stands between its tags: every match of the official pattern
    `<tool_call>\\n(.*?)\\n</tool_call>`, found without trying each opening tag to the end of the text."""
    begin, end = f"{OPEN}\n", f"\n{CLOSE}"
    start = text.find(begin)
    while start >= 0 and (stop := text.find(end, start + len(begin))) >= 0:
        yield start, text[start + len(begin) : stop]
        start = text.find(begin, stop + len(end))


def _call(item: Any) -> ToolCall:
    """One decoded item.

    Raises:
        KeyError, TypeError, ValueError, RecursionError: the official handler raises too.
    """
    if type(item) is not dict:
        raise TypeError(f"expected an object, got {item!r:.40}")
    name, arguments = item["name"], item["arguments"]
    hash(name)
    if type(arguments) is str:
        arguments = json.loads(arguments)
    if type(arguments) is not dict:
        raise TypeError(f"expected `arguments` to be an object, got {arguments!r:.40}")
    unknown = _no_literal(arguments, DEEPEST_CALL)
    return ToolCall(name=unknown, arguments={}) if unknown else ToolCall(name=str(name), arguments=arguments)


def _no_literal(value: Any, depth: int) -> str | None:
    """The first number that Python has no literal for: the official executor takes it for an unknown name, and so does
    ours when it is called like that."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(abs(value))
    if not isinstance(value, dict | list):
        return None
    if depth == 0:
        raise ValueError(f"arguments are nested deeper than {DEEPEST_CALL} levels")
    inner = value.values() if isinstance(value, Mapping) else value
    return next((found for item in inner if (found := _no_literal(item, depth - 1))), None)


def _failures(said: str) -> Iterator[ParseFailure]:
    """What looks like a call and is none to the official reader, in order, `MOST_FAILURES` at most: each may repeat all
    of the text behind it."""
    yield from islice(_all_failures(said), MOST_FAILURES)


def _all_failures(said: str) -> Iterator[ParseFailure]:
    blocks = dict(_blocks(said))
    end = 0
    for tag in re.finditer(OPEN, said):
        start = tag.start()
        if start < end:
            continue
        if (body := blocks.get(start)) is not None:
            whole = f"{OPEN}\n{body}\n{CLOSE}"
            end = start + len(whole)
            yield from _block_failure(start, whole, body)
        else:
            loose = said[start:].partition(CLOSE)
            detail = f"expected {OPEN} and {CLOSE} with a line break on their inner sides"
            yield ParseFailure(kind=ParseFailureKind.UNCLOSED, start=start, text=loose[0] + loose[1], detail=detail)


def _block_failure(start: int, text: str, body: str) -> Iterator[ParseFailure]:
    try:
        item = json.loads(body)
    except (ValueError, RecursionError) as error:
        yield ParseFailure(kind=ParseFailureKind.JSON, start=start, text=text, detail=f"expected JSON, got {error}")
        return
    try:
        _call(item)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        named = isinstance(item, dict) and "name" in item
        kind = ParseFailureKind.ARGUMENTS if named else ParseFailureKind.NOT_A_CALL
        yield ParseFailure(kind=kind, start=start, text=text, detail=f"{type(error).__name__}: {error}")
