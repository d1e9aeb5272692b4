"""The 800 official multi-turn entries as tasks. Test data: never train on them."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cache
from typing import Any

from fission_grpo.environments.bfcl.environment import BFCL
from fission_grpo.environments.bfcl.official import bfcl_tools, methods_of, records
from fission_grpo.types import Task, ToolCall, World

NEW_FUNCTIONS_TEXT = "I have updated some more functions you can choose from. What about now?"
"""What the official harness says in a Miss Func turn that gives functions back."""


class BfclCategory(StrEnum):
    """The four official multi-turn categories, 200 entries each."""

    BASE = "base"
    MISS_FUNC = "miss_func"
    MISS_PARAM = "miss_param"
    LONG_CONTEXT = "long_context"


@cache
def bfcl_entries(category: BfclCategory | str) -> tuple[Task, ...]:
    """All entries of a category, in official order.

    The first user message is in `messages`, the others are `followups`; every document of the involved classes is in
    `tools`. `meta`: `category`, `apis`, `scenario` (the same number names the same scenario in all four categories),
    and `missed_function` (turn -> names that are on offer only from that turn on; empty outside Miss Func).

    Raises:
        ConfigError: `bfcl_eval` is not installed.
        ValueError: no such category.
    """
    name = f"BFCL_v4_multi_turn_{BfclCategory(category)}.json"
    answers = {record["id"]: record["ground_truth"] for record in records(f"possible_answer/{name}")}
    return tuple(_task(record, answers[record["id"]], BfclCategory(category)) for record in records(name))


def parse_call(source: str, classes: Sequence[str]) -> ToolCall:
    """An official gold call, `name(literal, key=literal)`, read without evaluating it.

    Raises:
        ValueError: not a plain call of a known function with literal arguments.
    """
    node = ast.parse(source, mode="eval").body
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError(f"{source!r} is not a plain call")
    positional = _positional_names(node.func.id, classes)
    if len(node.args) > len(positional) or any(keyword.arg is None for keyword in node.keywords):
        raise ValueError(f"{source!r} does not fit {node.func.id}({', '.join(positional)})")
    arguments = {name: ast.literal_eval(value) for name, value in zip(positional, node.args, strict=False)}
    arguments |= {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
    return ToolCall(name=node.func.id, arguments=arguments)


def _positional_names(function: str, classes: Sequence[str]) -> tuple[str, ...]:
    signatures = [methods_of(name)[function] for name in classes if function in methods_of(name)]
    if not signatures:
        raise ValueError(f"no function {function!r} in {', '.join(classes)}")
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    return tuple(p.name for p in signatures[0].parameters.values() if p.kind in kinds and p.name != "self")


def episode(
    name: str,
    users: Sequence[str],
    *,
    classes: Sequence[str],
    states: Mapping[str, Any],
    gold: Sequence[Sequence[ToolCall]],
    long_context: bool = False,
    meta: Mapping[str, Any],
) -> Task:
    """A task in a world of the official classes, from its first user message on.

    Args:
        users: what the user says, turn by turn.
        states: initial state by class; those of other classes are left out.
        gold: gold calls by turn.

    Raises:
        ConfigError: an unknown class, or `bfcl_eval` is not installed.
    """
    initial = {name: state for name, state in states.items() if name in classes}
    config = {"classes": list(classes), "initial": initial, "long_context": long_context}
    return Task(
        id=name,
        messages=({"role": "user", "content": users[0]},),
        tools=bfcl_tools(classes),
        world=World(environment=BFCL, config=config),
        gold=tuple(map(tuple, gold)),
        followups=tuple(users[1:]),
        meta=meta,
    )


def _task(entry: Mapping[str, Any], answer: Sequence[Sequence[str]], category: BfclCategory) -> Task:
    classes = tuple(entry["involved_classes"])
    return episode(
        entry["id"],
        [turn[0]["content"] if turn else NEW_FUNCTIONS_TEXT for turn in entry["question"]],
        classes=classes,
        states=entry["initial_config"],
        gold=[[parse_call(call, classes) for call in turn] for turn in answer],
        long_context=category is BfclCategory.LONG_CONTEXT,
        meta={
            "category": str(category),
            "apis": classes,
            "scenario": int(entry["id"].rsplit("_", 1)[1]),
            "missed_function": entry.get("missed_function", {}),
        },
    )
