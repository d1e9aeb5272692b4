"""Rows of verl and SkyRL: a `prompt` of messages, and a ground truth that a reward function reads.

Neither says what a ground truth is. One that can be read as calls (records, JSON text, `<tool_call>` blocks or
`[name(key=value)]`) is the gold of a decision point, `[]` where words are right. Any other needs a world to judge it:
SkyRL's rows name theirs in `env_class`, which then is the name of a world of yours, whose `reset` takes `ground_truth`
and what `extra_info` holds. Where tools stand is a guess: in `tools`, in `extra_info`, or as JSON in the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fission_grpo.tasks.convert.calls import calls_of
from fission_grpo.tasks.convert.dialogue import messages_of, point_of
from fission_grpo.tasks.convert.form import Draft, Form, RowError, SourceRow, wanted
from fission_grpo.tasks.convert.tools import tools_in, tools_of
from fission_grpo.tasks.jsonl import without_nulls
from fission_grpo.types import Message, Tool, ToolCall

_SLICES = ("data_source", "ability")
"""Keys that reports can slice by."""


def _records_of_verl(row: SourceRow) -> list[Draft]:
    messages, tools, truth, meta = _parts(row, "reward_model")
    gold = _gold(truth, tools)
    if gold is None:
        raise RowError(
            "the ground truth is no calls", f"got {truth!r:.80}; it needs a world that judges it (`world` of a task)"
        )
    return [{**_point(messages, tools, gold), **meta}]


def _records_of_skyrl(row: SourceRow) -> list[Draft]:
    messages, tools, truth, meta = _parts(row, "reward_spec")
    gold = _gold(truth, tools) if tools else None
    if gold is not None:
        return [{**_point(messages, tools, gold), **meta}]
    config = {"ground_truth": truth, **without_nulls(_extra(row))}
    world = {"environment": wanted(row, "env_class", str), "config": config}
    return [{"messages": messages, **({"tools": tools} if tools else {}), "world": world, **meta}]


def _parts(row: SourceRow, judge: str) -> tuple[list[Message], list[Tool], Any, Draft]:
    """Messages, tools, ground truth, and what is kept for reports."""
    messages = messages_of(row["prompt"])
    slices = {key: row[key] for key in _SLICES if isinstance(row.get(key), str)}
    truth = wanted(row, judge, dict).get("ground_truth")
    return messages, _tools(row, messages), truth, {"meta": slices} if slices else {}


def _tools(row: SourceRow, messages: Sequence[Message]) -> list[Tool]:
    if given := row.get("tools") or _extra(row).get("tools"):
        return tools_of(given)
    found = (tools_in(message["content"])[0] for message in messages if message["role"] in ("system", "user"))
    return next(filter(None, found), [])


def _extra(row: SourceRow) -> dict[str, Any]:
    extra = row.get("extra_info")
    return extra if isinstance(extra, dict) else {}


def _gold(truth: Any, tools: Sequence[Tool]) -> list[ToolCall] | None:
    try:
        return calls_of(truth, tools)
    except ValueError:
        return None


def _point(messages: Sequence[Message], tools: Sequence[Tool], gold: Sequence[ToolCall]) -> Draft:
    if not tools:
        raise RowError("no tools are on offer", "expected `tools`, `extra_info.tools`, or a JSON list in the prompt")
    return point_of(messages, tools, gold)


VERL = Form(name="verl", marks=("prompt", "reward_model"), records=_records_of_verl)
SKYRL = Form(name="skyrl", marks=("prompt", "reward_spec"), records=_records_of_skyrl)
