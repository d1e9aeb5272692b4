"""The calls that a dialogue already holds, to be replayed when a task begins in the middle."""

from __future__ import annotations

import json
from typing import Any

from fission_grpo.errors import ConfigError
from fission_grpo.types import Message, Task, ToolCall


def recorded_turns(task: Task) -> list[tuple[ToolCall, ...]]:
    """The calls of the assistant since each user message, one tuple a user turn.

    Raises:
        ConfigError: a recorded call is not in OpenAI form.
    """
    turns: list[list[ToolCall]] = [[]]
    users = 0
    for message in task.messages:
        users += message["role"] == "user"
        if users > len(turns):
            turns.append([])
        turns[-1] += recorded_calls(task.id, message)
    return [tuple(turn) for turn in turns]


def recorded_calls(task: str, message: Message) -> list[ToolCall]:
    """The calls of one OpenAI message; `arguments` may be an object or the JSON text of one.

    Raises:
        ConfigError: a call has another form; the message names the task.
    """
    return [_recorded_call(task, recorded) for recorded in message.get("tool_calls") or ()]


def remaining_gold(task: Task) -> list[tuple[ToolCall, ...]]:
    """Gold calls per user turn from the present one on, less those that the dialogue already holds of it.

    Raises:
        ConfigError: a recorded call is not in OpenAI form.
    """
    recorded = recorded_turns(task)
    present = len(recorded) - 1
    return [calls[len(recorded[present]) :] if i == present else calls for i, calls in enumerate(task.gold)][present:]


def _recorded_call(task: str, recorded: Any) -> ToolCall:
    function = recorded.get("function", {})
    arguments = function.get("arguments", {})
    try:
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict) or not isinstance(function.get("name"), str):
        raise ConfigError(
            f"task {task}: cannot replay the recorded call {recorded!r}; expected "
            '{"function": {"name": a string, "arguments": an object or its JSON text}}'
        )
    return ToolCall(name=function["name"], arguments=arguments)
