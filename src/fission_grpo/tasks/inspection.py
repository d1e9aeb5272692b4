"""What can be wrong with one task record: shape first, then dialogue, then gold calls, then the world itself.

Each check is a function that yields problems; a later stage only runs when the earlier ones found nothing, so that
one mistake is named once.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, takewhile
from typing import Any, TypeAlias

from fission_grpo.environments.base import Environment, Environments
from fission_grpo.environments.schema import explain_problems
from fission_grpo.environments.validation import schema_problems
from fission_grpo.errors import ConfigError, RolloutError
from fission_grpo.files import parse_json
from fission_grpo.types import Task, Tool, ToolCall

Record: TypeAlias = Mapping[str, Any]

KEYS: Mapping[str, type] = {
    "id": str,
    "messages": list,
    "tools": list,
    "gold": list,
    "world": dict,
    "turns": list,
    "followups": list,
    "meta": dict,
}
"""Every key of a record, with the kind of its value."""
_REQUIRED = ("messages",)
_REQUIRED_WITHOUT_A_WORLD: Mapping[str, str] = {
    "tools": "there is no world to ask for its own",
    "gold": "nothing else says what is right next; [] where words are",
}
"""A world may know its tools itself, and judge by itself; key -> why it is needed."""
_NAME_HERE: Mapping[str, str] = {
    **dict.fromkeys(("prompt", "prompts", "conversation", "conversations", "question", "query", "input"), "messages"),
    **dict.fromkeys(("answer", "answers", "ground_truth", "solution", "label", "completion", "target"), "gold"),
    **dict.fromkeys(("function", "functions", "tool_schemas"), "tools"),
    **dict.fromkeys(("environment", "env", "env_class", "env_args", "reward_spec", "reward_model"), "world"),
    **dict.fromkeys(("metadata", "info", "extra_info", "data_source", "ability"), "meta"),
    **dict.fromkeys(("task_id", "uid", "index"), "id"),
}
"""What TRL, verl, SkyRL and their like call these keys: nearer by meaning than by spelling."""
_ROLES = ("system", "user", "assistant", "tool")
_KIND: Mapping[type, str] = {str: "text", list: "a list", dict: "an object"}


def inspect_record(
    record: Record,
    task_of: Callable[[Record], Task],
    environments: Environments | None = None,
) -> tuple[Task | None, list[str]]:
    """The task of a sound record, or every problem of the first stage that finds any.

    Args:
        record: a parsed line, embedded JSON opened.
        task_of: makes the task of a record whose shape is right.
        environments: where gold calls can be executed, and who is asked for the tools that a record leaves out; default
            `bfcl`.
    """
    found = list(_shape(record)) or list(_dialogue(record["messages"]))
    if found:
        return None, found
    task, environments = task_of(record), _default_environments() if environments is None else environments
    if task.world and not task.tools:
        offered, found = _offered(task, environments)
        task = replace(task, tools=offered)
    found = found or list(_gold(record, task.tools))
    found = found or list(chain(_turn_counts(task), _executed(task, environments)))
    return (None, found) if found else (task, [])


def conversation_problems(record: Record) -> list[str]:
    """Every problem of a conversation to be learned, with `messages` and perhaps `tools`; other keys are the user's.

    Args:
        record: a parsed line, embedded JSON opened.
    """
    return list(_conversation_shape(record)) or list(_conversation(record["messages"]))


def _conversation_shape(record: Record) -> Iterator[str]:
    needed = ("messages", "tools")
    for key in record:
        if _NAME_HERE.get(key) in needed and _NAME_HERE[key] not in record:
            yield f"unknown key {key!r}; the nearest by meaning is {_NAME_HERE[key]!r}"
    if "messages" not in record:
        yield "missing key 'messages'"
    for key in needed:
        if key in record and not isinstance(record[key], list):
            yield f"{key}: got {_json(record[key])}, expected {_KIND[list]}"
        yield from _shape_of_items(record, key)


def _conversation(messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from _exchange(messages)
    for i, message in enumerate(messages):
        where, role = f"messages[{i}]", message.get("role")
        if role == "user" and i and messages[i - 1].get("role") == "tool":
            yield f"{where}: a user message follows a tool message; expected the assistant's answer between them"
        if role == "assistant" and not isinstance(message.get("content") or "", str):
            yield f"{where}: content is {_json(message['content'])}, expected text"
        if role == "assistant" and message.get("reasoning_content"):
            yield f"{where}: reasoning_content is not learned; write it into `content` as the model does, or delete it"
        if role == "assistant" and message.get("weight", 1) not in (0, 1):
            yield f"{where}: weight is {_json(message['weight'])}, expected 1 (learned) or 0 (shown and not learned)"
    if not any(message.get("role") == "assistant" and message.get("weight", 1) for message in messages):
        yield "messages: hold no assistant message to be learned"


def _shape(record: Record) -> Iterator[str]:
    for key, value in record.items():
        if key in _NAME_HERE:
            yield f"unknown key {key!r}; the nearest by meaning is {_NAME_HERE[key]!r}"
        elif key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.0)[0]
            yield f"unknown key {key!r}; the nearest known key is {near!r}"
        elif not isinstance(value, KEYS[key]):
            yield f"{key}: got {_json(value)}, expected {_KIND[KEYS[key]]}"
    yield from (f"missing key {key!r}" for key in _REQUIRED if key not in record)
    if "world" not in record:
        needed = _REQUIRED_WITHOUT_A_WORLD.items()
        yield from (f"missing key {key!r}: {why}" for key, why in needed if key not in record)
    if "turns" in record and "world" not in record:
        yield "turns: gold calls per turn need a world; give `world` too, or only `gold`"
    yield from chain.from_iterable(_shape_of_items(record, key) for key in ("messages", "tools", "gold", "turns"))
    world = record.get("world")
    if isinstance(world, dict) and not (
        isinstance(world.get("environment"), str) and isinstance(world.get("config"), dict)
    ):
        yield f'world: got {_json(world)}, expected {{"environment": text, "config": object}}'


def _shape_of_items(record: Record, key: str) -> Iterator[str]:
    items = record.get(key)
    for i, item in enumerate(items if isinstance(items, list) else ()):
        where = f"{key}[{i}]"
        if key == "turns":
            calls = item if isinstance(item, list) else [item]
            yield from (p for j, call in enumerate(calls) for p in _shape_of_call(call, f"{where}[{j}]"))
        elif key == "gold":
            yield from _shape_of_call(item, where)
        elif not isinstance(item, dict):
            yield f"{where}: got {_json(item)}, expected an object"
        elif key == "tools" and not _names_a_function(item):
            yield f'{where}: expected {{"type": "function", "function": {{"name", "parameters"}}}}, got {_json(item)}'
        elif key == "tools":
            function = item["function"]
            problems = schema_problems(function.get("parameters") or {})
            yield from (f"{where} ({function['name']}): parameters: {problem}" for problem in problems)


def _shape_of_call(call: Any, where: str) -> Iterator[str]:
    fits = isinstance(call, dict) and isinstance(call.get("name"), str) and isinstance(call.get("arguments", {}), dict)
    if not fits:
        yield f'{where}: got {_json(call)}, expected {{"name": text, "arguments": object}}'


def _names_a_function(tool: Mapping[str, Any]) -> bool:
    function = tool.get("function")
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _dialogue(messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Of a task: it ends where the policy speaks."""
    yield from _exchange(messages)
    if unanswered := _unanswered(messages):
        yield f"messages: the last {unanswered} tool call(s) have no tool message"
    if messages and messages[-1].get("role") == "assistant":
        yield "messages: end with an assistant message; what it should say belongs into `gold`"


def _unanswered(messages: Sequence[Mapping[str, Any]]) -> int:
    """Calls of the last assistant message that no tool message follows."""
    answers = list(takewhile(lambda message: message.get("role") == "tool", reversed(messages)))
    said = messages[len(messages) - len(answers) - 1] if len(answers) < len(messages) else {}
    return max(0, len(_tool_calls(said)) - len(answers)) if said.get("role") == "assistant" else 0


def _exchange(messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Of any dialogue, whichever way it ends."""
    if not any(message.get("role") == "user" for message in messages):
        yield "messages: hold no user message"
        return
    pending: list[str | None] = []
    for i, message in enumerate(messages):
        where, role = f"messages[{i}]", message.get("role")
        if role not in _ROLES:
            near = difflib.get_close_matches(str(role), _ROLES, n=1, cutoff=0.0)[0]
            yield f"{where}: unknown role {role!r}; the nearest known role is {near!r}"
            continue
        yield from _order(messages, i, where)
        if role == "tool":
            yield from _answer(message, pending, where)
        elif pending:
            yield f"{where}: {len(pending)} tool call(s) before it have no tool message"
            pending = []
        if role == "assistant":
            yield from _assistant(message, where)
            pending = [call.get("id") for call in _tool_calls(message)]


def _order(messages: Sequence[Mapping[str, Any]], i: int, where: str) -> Iterator[str]:
    role, before = messages[i]["role"], messages[i - 1].get("role") if i else None
    if role == "system" and i:
        yield f"{where}: a system message may only come first"
    if role == "assistant" and before in (None, "system", "assistant"):
        yield f"{where}: an assistant message follows {before or 'nothing'}; expected a user or tool message before it"
    if role == "user" and before == "user":
        yield f"{where}: two user messages in a row; join them"
    if role != "assistant" and not isinstance(messages[i].get("content"), str):
        yield f"{where}: content is {_json(messages[i].get('content'))}, expected text"


def _answer(message: Mapping[str, Any], pending: list[str | None], where: str) -> Iterator[str]:
    if not pending:
        yield f"{where}: a tool message without a tool call before it"
        return
    name = message.get("tool_call_id")
    if name is None or None in pending:  # formats without ids pair by order
        pending.pop(0)
    elif name in pending:
        pending.remove(name)
    else:
        yield f"{where}: tool_call_id {name!r} answers no open call; open are {pending}"
        pending.pop(0)


def _assistant(message: Mapping[str, Any], where: str) -> Iterator[str]:
    calls = message.get("tool_calls")
    if not calls and not message.get("content"):
        yield f"{where}: an assistant message with neither content nor tool_calls"
    if calls is not None and not isinstance(calls, list):
        yield f"{where}.tool_calls: got {_json(calls)}, expected a list"
    for j, call in enumerate(_tool_calls(message)):
        function = call.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str) or _arguments(function) is None:
            expected = '{"id", "type": "function", "function": {"name": text, "arguments": object or its JSON text}}'
            yield f"{where}.tool_calls[{j}]: got {_json(call)}, expected {expected}"


def _tool_calls(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    calls = message.get("tool_calls")
    return [call if isinstance(call, dict) else {} for call in calls] if isinstance(calls, list) else []


def _arguments(function: Mapping[str, Any]) -> Mapping[str, Any] | None:
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = parse_json(arguments)
        except ValueError:
            return None
    return arguments if isinstance(arguments, dict) else None


def _offered(task: Task, environments: Environments) -> tuple[tuple[Tool, ...], list[str]]:
    """The tools that the task's world has by itself, or why it cannot be asked."""
    name = task.world.environment if task.world else ""
    if name not in environments:
        return (), [
            f"missing key 'tools', and no environment {name!r} to ask for them; known: {', '.join(environments)}. "
            f"Say where yours is: environments.{name}=module:name"
        ]
    environment = environments[name]()
    try:
        environment.reset(task)
        tools = environment.tools
    except (ConfigError, RolloutError) as error:
        return (), [f"world: {error}"]
    return tools, [] if tools else [f"missing key 'tools'; the environment {name!r} has none by itself"]


def _gold(record: Record, tools: Sequence[Tool]) -> Iterator[str]:
    groups = [("gold", record.get("gold", ()))]
    groups += [(f"turns[{i}]", turn) for i, turn in enumerate(record.get("turns", ()))]
    for where, calls in groups:
        for j, call in enumerate(calls):
            wrong = explain_problems(ToolCall(name=call["name"], arguments=call.get("arguments", {})), tools)
            if wrong:
                yield f"{where}[{j}] ({call['name']}): {wrong}"


def _turn_counts(task: Task) -> Iterator[str]:
    users = sum(message["role"] == "user" for message in task.messages) + len(task.followups)
    if task.gold and len(task.gold) != users:
        yield f"turns: {len(task.gold)} for {users} user messages (those in messages and followups); expected one each"


def _executed(task: Task, environments: Environments) -> Iterator[str]:
    make = environments.get(task.world.environment) if task.world else None
    if make is None:
        return
    try:
        yield from _replayed(task, make())
    except (ConfigError, RolloutError) as error:
        yield f"world: {error}"


def _replayed(task: Task, environment: Environment) -> Iterator[str]:
    """Run what is right next where the dialogue stands, and the whole gold chain from its beginning."""
    environment.reset(task)
    yield from _run(environment, task.target, "gold")
    start = next(i for i, message in enumerate(task.messages) if message["role"] == "user")
    environment.reset(_beginning(task, start))
    for i, turn in enumerate(task.gold):
        if i:
            environment.next_turn()
        yield from _run(environment, turn, f"turns[{i}]")
    if task.gold and not (verdict := environment.score()).ok:
        yield f"turns: the world's verdict on its own gold calls is {verdict.error_type}: {verdict.detail}"


def _beginning(task: Task, start: int) -> Task:
    later = tuple(str(m["content"]) for m in task.messages[start + 1 :] if m["role"] == "user")
    return Task(
        id=task.id,
        messages=task.messages[: start + 1],
        tools=task.tools,
        world=task.world,
        gold=task.gold,
        followups=later + task.followups,
        meta=task.meta,
    )


def _run(environment: Environment, calls: Sequence[ToolCall], where: str) -> Iterator[str]:
    for j, call in enumerate(calls):
        outcome = environment.execute(call)
        if outcome.is_error:
            yield f"{where}[{j}] ({call.name}): the world answers {outcome.text}"


def _default_environments() -> Environments:
    from fission_grpo.environments.shipped import SHIPPED  # only files with worlds need the benchmark

    return SHIPPED


def _json(value: Any, most: int = 80) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= most else text[:most] + "..."
