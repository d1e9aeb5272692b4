"""ToolACE: `system` with the functions as JSON, `conversations` of `from` and `value`, calls as `[name(key=value)]`.

Every assistant message is a decision point. Of the system text only a date is kept: the rest says which functions there
are and how to write calls, and the chat template of the model says both in its own way. A tool's message answers all
calls before it with a JSON list, which becomes one message for each call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from fission_grpo.chat.parse import assistant_message, tool_message
from fission_grpo.files import parse_json
from fission_grpo.tasks.convert.calls import looks_like_calls, parse_call_text
from fission_grpo.tasks.convert.dialogue import points_of, role_of
from fission_grpo.tasks.convert.form import Draft, Form, RowError, SourceRow, wanted
from fission_grpo.tasks.convert.tools import tools_in
from fission_grpo.types import Message, Tool

_DATE = re.compile(r"[^.\n]*\b(?:[Tt]oday is|[Cc]urrent (?:date|time))\b[^\n]*")


def _records(row: SourceRow) -> list[Draft]:
    tools, around = tools_in(wanted(row, "system", str))
    if not tools:
        raise RowError("no JSON list of functions in the system text")
    dates = [line.strip() for line in _DATE.findall(around)]
    system: list[Message] = [{"role": "system", "content": "\n".join(dates)}] if dates else []
    return points_of([*system, *_messages(wanted(row, "conversations", list), tools)], tools)


def _messages(said: list[Any], tools: list[Tool]) -> Iterator[Message]:
    asked = 0
    for item in said:
        text = item.get("value") if isinstance(item, dict) else None
        if not isinstance(text, str):
            raise RowError("a message has no `value` of text", f"got {item!r:.80}")
        role = role_of(item.get("from"))
        if role == "tool":
            yield from (tool_message(answer, place) for place, answer in enumerate(_answers(text, asked)))
        elif role == "assistant":
            message = _assistant(text, tools)
            asked = len(message.get("tool_calls", ()))
            yield message
        else:
            yield {"role": role, "content": text}


def _assistant(text: str, tools: list[Tool]) -> Message:
    if not looks_like_calls(text):
        return assistant_message((), text)
    try:
        return assistant_message(parse_call_text(text, tools))
    except ValueError as error:
        raise RowError("a call text cannot be read", str(error)) from error


def _answers(text: str, asked: int) -> list[str]:
    """What each of the calls is answered; a single one may be answered in any way."""
    try:
        found = parse_json(text)
    except ValueError:
        found = None
    if isinstance(found, list) and len(found) == asked:
        return [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in found]
    if asked == 1:
        return [text]
    raise RowError("a tool message does not answer the calls before it", f"{asked} calls, got {text!r:.80}")


TOOLACE = Form(name="toolace", marks=("system", "conversations"), records=_records)
