"""Conversational rows of TRL and the Hub: `messages`, or `prompt` and `completion`, and `tools`.

Every assistant message of `messages`, or of `completion`, is a decision point. Calls stand in `tool_calls` (arguments
as object or as JSON text), in `function_call`, or as `<tool_call>` blocks in the text.
"""

from __future__ import annotations

from fission_grpo.tasks.convert.dialogue import messages_of, points_of
from fission_grpo.tasks.convert.form import Draft, Form, SourceRow
from fission_grpo.tasks.convert.tools import tools_of


def _records_of_messages(row: SourceRow) -> list[Draft]:
    return points_of(messages_of(row["messages"]), tools_of(row.get("tools") or []))


def _records_of_prompt(row: SourceRow) -> list[Draft]:
    prompt = messages_of(row["prompt"])
    messages = prompt + messages_of(row.get("completion") or [])
    return points_of(messages, tools_of(row.get("tools") or []), start=len(prompt))


CONVERSATIONS = Form(name="messages", marks=("messages",), records=_records_of_messages)
PROMPTS = Form(name="prompt", marks=("prompt",), records=_records_of_prompt)
