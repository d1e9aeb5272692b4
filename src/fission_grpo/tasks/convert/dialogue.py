"""Dialogues as others write them, as OpenAI messages; and a decision point for each thing that the assistant says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fission_grpo.chat.parse import OPEN, assistant_message, parse_message
from fission_grpo.environments.dialogue import call_record
from fission_grpo.tasks.convert.calls import call_of
from fission_grpo.tasks.convert.form import Draft, RowError
from fission_grpo.tasks.jsonl import without_nulls
from fission_grpo.types import Message, Tool, ToolCall

_ROLES: Mapping[str, str] = {
    **{role: role for role in ("system", "user", "assistant", "tool")},
    "developer": "system",
    "human": "user",
    **dict.fromkeys(("gpt", "model"), "assistant"),
    **dict.fromkeys(("function", "observation", "ipython"), "tool"),
}
"""A name of a role -> ours."""
_NO_CALL = "a call in the dialogue cannot be read"


def messages_of(value: Any) -> list[Message]:
    """OpenAI messages of a column; nulls that Arrow has filled in are dropped.

    Raises:
        RowError: one is no message of text.
    """
    if not isinstance(value, list):
        raise RowError("the dialogue is no list of messages", f"got {value!r:.80}")
    return [_message(item) for item in value]


def role_of(name: Any) -> str:
    """Our name of a role.

    Raises:
        RowError: there is no such role.
    """
    if not isinstance(name, str) or name not in _ROLES:
        raise RowError("a role is not known", f"got {name!r:.80}, expected one of {', '.join(_ROLES)}")
    return _ROLES[name]


def points_of(messages: Sequence[Message], tools: Sequence[Tool], *, start: int = 0) -> list[Draft]:
    """A decision point for each assistant message from `start` on: what was said before it, and what it calls.

    Raises:
        RowError: there is no such message, or there are no tools.
    """
    if not tools:
        raise RowError("no tools are on offer")
    spoken = [place for place, message in enumerate(messages) if place >= start and message["role"] == "assistant"]
    if not spoken:
        raise RowError(
            "no assistant message says what is right", "where a world judges, name it: `world`, and `followups`"
        )
    return [
        point_of(messages[:place], tools, [call_of(call) for call in messages[place].get("tool_calls", ())])
        for place in spoken
    ]


def point_of(messages: Sequence[Message], tools: Sequence[Tool], gold: Sequence[ToolCall]) -> Draft:
    """One decision point."""
    return {"messages": list(messages), "tools": list(tools), "gold": [call_record(call) for call in gold]}


def _message(item: Any) -> Message:
    if not isinstance(item, dict):
        raise RowError("a message is no object", f"got {item!r:.80}")
    role, text = role_of(item.get("role")), _text(item.get("content"))
    if role != "assistant":
        named = {key: item[key] for key in ("tool_call_id", "name") if isinstance(item.get(key), str)}
        return {"role": role, "content": text, **(named if role == "tool" else {})}
    given = item.get("tool_calls") or ([item["function_call"]] if item.get("function_call") else [])
    if not given and OPEN in text:
        said = parse_message(text)
        if said.failures:
            raise RowError(_NO_CALL, said.failures[0].detail)
        return assistant_message(said)
    try:
        calls = [call_of(without_nulls(call)) for call in given]
    except (ValueError, TypeError) as error:
        raise RowError(_NO_CALL, str(error)) from error
    message = assistant_message(calls, text)
    for call, written in zip(given, message.get("tool_calls", ()), strict=True):
        if isinstance(call.get("id"), str):
            written["id"] = call["id"]
    return message


def _text(content: Any) -> str:
    """The text of a message's content: a text, nothing, or OpenAI's parts."""
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    if not all(one is None or isinstance(one, str) for one in texts) or any(
        isinstance(part, dict) and part.get("type", "text") != "text" for part in parts
    ):
        raise RowError("a message holds more than text", f"got {content!r:.80}")
    return "".join(one for one in texts if one is not None)
