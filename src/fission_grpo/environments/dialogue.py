"""The calls that a dialogue already holds, to be replayed when a task begins in the middle, and those still to come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fission_grpo.call_matching import call_key
from fission_grpo.errors import ConfigError
from fission_grpo.files import parse_json
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


def call_record(call: ToolCall) -> dict[str, Any]:
    """A call as plain JSON values."""
    return {"name": call.name, "arguments": dict(call.arguments)}


def remaining_gold(task: Task) -> list[tuple[ToolCall, ...]]:
    """Gold calls still to come, one tuple a user turn from the present one on; empty for a task without gold.

    A recorded call counts as made when it is the next gold call of its turn. Any other is a detour: a wrong call that
    was answered with an error, or a later gold call that was made too early and has to be made again.

    Raises:
        ConfigError: a recorded call is not in OpenAI form.
    """
    recorded = recorded_turns(task)
    present = len(recorded) - 1
    return [_behind(recorded[-1], calls) if not ahead else calls for ahead, calls in enumerate(task.gold[present:])]


def _behind(recorded: Sequence[ToolCall], gold: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
    """What is left of the gold calls once the recorded ones have been made, in order."""
    made = 0
    for call in recorded:
        made += made < len(gold) and call_key(call) == call_key(gold[made])
    return tuple(gold[made:])


def _recorded_call(task: str, recorded: Any) -> ToolCall:
    function = recorded.get("function", {})
    arguments = function.get("arguments", {})
    try:
        arguments = parse_json(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict) or not isinstance(function.get("name"), str):
        raise ConfigError(
            f"task {task}: cannot replay the recorded call {recorded!r}; expected "
            '{"function": {"name": a string, "arguments": an object or its JSON text}}'
        )
    return ToolCall(name=function["name"], arguments=arguments)
