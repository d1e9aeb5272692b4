"""Tasks as JSON Lines: one object a line, OpenAI roles, and a checker that names every problem at once.

    {"messages", "tools", "gold": [{"name", "arguments"}]}           a decision point; gold is what is right next
    {"messages", "world", "turns": [[call, ...], ...], "followups"}   an episode; turns are gold calls per user turn
    {..., "id": text, "meta": {...}}                                  a name, and slices for reports

`docs/tasks.md` says what each key means and when it can be left out: `id` always, `gold` and `tools` where there is a
world, `turns` where the world judges itself.
`tools`, `world`, `turns` and `meta` may be JSON text, as table formats want. Such formats also fill absent keys with
null: those are dropped everywhere but in `world` and `meta`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from fission_grpo.environments.base import Environments
from fission_grpo.environments.dialogue import call_record, remaining_gold
from fission_grpo.errors import DataError
from fission_grpo.files import MAX_DEPTH, is_shallow, parse_json, raw_lines, write_pieces
from fission_grpo.tasks.gold_chain import fingerprint
from fission_grpo.tasks.inspection import inspect_record
from fission_grpo.types import Message, Task, ToolCall, World

_EMBEDDED = ("tools", "world", "turns", "meta")
"""Keys whose value may be JSON text."""
_VERBATIM = ("world", "meta")
"""Keys in which null means null."""


def write_tasks(path: Path | str, tasks: Iterable[Task]) -> None:
    """Write tasks, one a line, replacing the file as a whole or not at all."""
    write_pieces(Path(path), (json.dumps(record_of(task), ensure_ascii=False) + "\n" for task in tasks))


def read_tasks(path: Path | str, *, environments: Environments | None = None) -> list[Task]:
    """All tasks of a file that has no problems.

    Args:
        path: the file.
        environments: name -> how to make one; gold calls of tasks in these worlds are executed. Default: `bfcl`.

    Raises:
        DataError: the file has problems (all of them are listed) or cannot be opened.
    """
    tasks, problems = _sorted_out(placed_records(Path(path)), environments)
    if not tasks and not problems:
        problems.append("holds no task; expected one JSON object a line")
    if problems:
        raise DataError(str(path), problems)
    return tasks


Given: TypeAlias = Sequence[Task | Mapping[str, Any]]
"""Tasks of a program: as they are, or as objects with the keys of a line."""


def tasks_from(given: Given, *, environments: Environments | None = None) -> list[Task]:
    """The tasks of a program, checked as those of a file are.

    Args:
        environments: see `read_tasks`.

    Raises:
        DataError: some have problems; all of them are listed.
    """
    found = ((record_of(one), []) if isinstance(one, Task) else opened(one) for one in given)
    records = ((f"task {number}", record, broken) for number, (record, broken) in enumerate(found, 1))
    tasks, problems = _sorted_out(records, environments)
    if not tasks and not problems:
        problems.append("there is none; expected at least one")
    if problems:
        raise DataError("tasks", problems)
    return tasks


def record_of(task: Task) -> dict[str, Any]:
    """A task as a JSON object; empty optional parts are left out."""
    record: dict[str, Any] = {
        "id": task.id,
        "messages": [dict(message) for message in task.messages],
        "tools": [dict(tool) for tool in task.tools],
        "gold": [call_record(call) for call in task.target],
    }
    if task.world:
        record["world"] = {"environment": task.world.environment, "config": dict(task.world.config)}
        record["turns"] = [[call_record(call) for call in turn] for turn in task.gold]
    if task.followups:
        record["followups"] = list(task.followups)
    if task.meta:
        record["meta"] = dict(task.meta)
    return record


def task_of(record: Mapping[str, Any]) -> Task:
    """The task of a sound record (see `inspect_record`) that has a name."""
    world = record.get("world")
    messages: tuple[Message, ...] = tuple(record["messages"])
    return Task(
        id=record["id"],
        messages=messages,
        tools=tuple(record.get("tools", ())),
        target=_calls(record.get("gold", ())),
        world=World(environment=world["environment"], config=world["config"]) if world else None,
        gold=tuple(_calls(turn) for turn in record.get("turns", ())),
        followups=tuple(record.get("followups", ())),
        meta=record.get("meta", {}),
    )


def _calls(records: Sequence[Mapping[str, Any]]) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(name=record["name"], arguments=record.get("arguments", {})) for record in records)


PlacedRecord: TypeAlias = tuple[str, dict[str, Any], list[str]]
"""Where a record stands, the record with embedded JSON opened and null keys dropped, and what is broken about that."""


def inspected(
    records: Iterable[PlacedRecord], environments: Environments | None = None
) -> Iterator[tuple[str, Task | None, list[str]]]:
    """Each record's place, with its task, or with what is wrong with it; no two tasks have one id."""
    first: dict[str, str] = {}
    for place, record, broken in _named(records):
        task, found = (None, broken) if broken else inspect_record(record, task_of, environments)
        if not broken and isinstance(record.get("id"), str):
            earlier = first.setdefault(record["id"], place)
            found += [f"id {record['id']!r} was used on {earlier} already"] if earlier != place else []
        if task is None or found:
            yield place, None, found
        else:
            yield place, task if "gold" in record else _aimed(task), []


def _sorted_out(records: Iterable[PlacedRecord], environments: Environments | None) -> tuple[list[Task], list[str]]:
    """All sound tasks, and all problems, each with its place."""
    tasks: list[Task] = []
    problems: list[str] = []
    for place, task, found in inspected(records, environments):
        tasks += [task] if task else []
        problems += [f"{place}: {problem}" for problem in found]
    return tasks, problems


def _aimed(task: Task) -> Task:
    """A task whose line has no `gold`: where its turns are known, so is what is right next."""
    return replace(task, target=remaining_gold(task)[0][:1]) if task.gold else task


def _named(records: Iterable[PlacedRecord]) -> Iterator[PlacedRecord]:
    """The same, each with an id: one that has none is named after what it holds, so that its line may change."""
    copies: Counter[str] = Counter()
    for place, record, broken in records:
        if "id" in record or broken:
            yield place, record, broken
            continue
        name = f"task-{fingerprint(record)[:12]}"
        copies[name] += 1
        copy = f"-{copies[name]}" if copies[name] > 1 else ""
        yield place, {"id": f"{name}{copy}", **record}, broken


def placed_records(path: Path) -> Iterator[PlacedRecord]:
    """The records of a file with their lines; what cannot be read is a record with what is wrong."""
    try:
        for number, line in raw_lines(path):
            if line.strip():
                yield (f"line {number}", *_parsed(line))
    except DataError as error:
        yield "the file", {}, list(error.problems)
    except OSError as error:
        yield "the file", {}, [f"cannot be read: {error}"]


def _parsed(line: bytes) -> tuple[dict[str, Any], list[str]]:
    try:
        record = parse_json(line)
    except ValueError as error:
        return {}, [f"is no JSON: {error}"]
    return opened(record)


def opened(record: Any) -> tuple[dict[str, Any], list[str]]:
    """A record with embedded JSON opened and null keys dropped, and what is broken about that."""
    if not is_shallow(record):
        return {}, [f"is nested deeper than {MAX_DEPTH} levels"]
    if not isinstance(record, dict):
        return {}, [f"holds {type(record).__name__}; expected a JSON object"]
    record = {key: value for key, value in record.items() if value is not None}
    problems: list[str] = []
    for key in _EMBEDDED:
        if isinstance(record.get(key), str):
            try:
                record[key] = parse_json(record[key])
            except ValueError as error:
                problems.append(f"{key}: is text, but no JSON: {error}")
    return {key: value if key in _VERBATIM else without_nulls(value) for key, value in record.items()}, problems


def without_nulls(value: Any) -> Any:
    """A JSON value whose objects have no key with null: Arrow fills them in."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value
