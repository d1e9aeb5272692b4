"""Entries in BFCL's form, official or one's own: single-turn ones with `function`, multi-turn ones with a world.

The ground truth stands in the row, or, as in the official package, under the same name in `possible_answer`. An entry
about irrelevance has none: words are right. Where it allows several values, the first one is gold, and what may be left
out is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fission_grpo.environments.bfcl.entries import NEW_FUNCTIONS_TEXT, BfclCategory, episode
from fission_grpo.environments.bfcl.official import BFCL_CLASSES, bfcl_tools
from fission_grpo.tasks.convert.calls import calls_of, parse_call_text
from fission_grpo.tasks.convert.dialogue import messages_of, point_of
from fission_grpo.tasks.convert.form import Draft, Form, RowError, SourceRow, wanted
from fission_grpo.tasks.convert.tools import tools_of
from fission_grpo.tasks.jsonl import record_of
from fission_grpo.types import ToolCall

_NO_GOLD = "no ground_truth, in the row or in possible_answer beside the file"
_NO_CALLS = "the ground truth is no calls"


def _single(row: SourceRow) -> list[Draft]:
    turns = wanted(row, "question", list)
    if len(turns) != 1:
        raise RowError("several user turns without a world (`involved_classes`)")
    tools = tools_of(row["function"])
    truth = row.get("ground_truth")
    if truth is None and "irrelevance" in str(row.get("id")):
        truth = []
    if not isinstance(truth, list):
        raise RowError(_NO_GOLD)
    try:
        gold = [call for one in truth for call in (calls_of(one, tools) if isinstance(one, str) else _chosen_call(one))]
    except ValueError as error:
        raise RowError(_NO_CALLS, str(error)) from error
    return [point_of(messages_of(turns[0]), tools, gold)]


def _multi(row: SourceRow) -> list[Draft]:
    classes, states = wanted(row, "involved_classes", list), wanted(row, "initial_config", dict)
    if unknown := [one for one in classes if one not in BFCL_CLASSES]:
        raise RowError("a class is not among the official ones", ", ".join(map(str, unknown)))
    users = [_request(turn) for turn in wanted(row, "question", list)]
    truth = row.get("ground_truth")
    if not users or not isinstance(truth, list) or not all(isinstance(turn, list) for turn in truth):
        raise RowError(_NO_GOLD)
    tools = bfcl_tools(classes)
    try:
        gold = [[call for text in turn for call in parse_call_text(str(text), tools)] for turn in truth]
    except ValueError as error:
        raise RowError(_NO_CALLS, str(error)) from error
    meta = {"apis": classes, "missed_function": _withheld(row)}
    record = record_of(
        episode("", users, classes=classes, states=states, gold=gold, meta=meta, long_context=_is_long(row))
    )
    del record["gold"], record["id"]  # what is right next is read off the turns
    return [record]


def _withheld(row: SourceRow) -> dict[str, Any]:
    """Turn -> functions that are on offer from that turn on (Miss Func)."""
    held = row.get("missed_function") or {}
    if not isinstance(held, dict) or not all(
        turn.isdecimal() and isinstance(names, list) and all(isinstance(name, str) for name in names)
        for turn, names in held.items()
    ):
        raise RowError("missed_function is not {turn: [names]}", f"got {held!r:.80}")
    return held


def _is_long(row: SourceRow) -> bool:
    return str(BfclCategory.LONG_CONTEXT) in str(row.get("id"))


def _request(turn: Any) -> str:
    messages = messages_of(turn)
    if not messages:
        return NEW_FUNCTIONS_TEXT
    if len(messages) > 1 or messages[0]["role"] != "user":
        raise RowError("a turn is more than one user message", f"got {turn!r:.80}")
    return str(messages[0]["content"])


def _chosen_call(one: Any) -> Sequence[ToolCall]:
    """The first of the calls that `{name: {argument: [value, ...]}}` allows."""
    if not isinstance(one, dict) or len(one) != 1:
        raise ValueError(f"got {one!r:.80}, expected {{name: {{argument: [value, ...]}}}}")
    ((name, allowed),) = one.items()
    return [ToolCall(name=name, arguments=_chosen_values(allowed))]


def _chosen_values(allowed: Any) -> dict[str, Any]:
    """One of the values of each argument; `""` says that it may be left out."""
    if not isinstance(allowed, dict) or not all(isinstance(values, list) for values in allowed.values()):
        raise ValueError(f"got {allowed!r:.80}, expected {{argument: [value, ...]}}")
    first = {key: next((value for value in values if value != ""), None) for key, values in allowed.items()}
    return {key: _chosen(value) for key, value in first.items() if value is not None}


def _chosen(value: Any) -> Any:
    """A value, whose objects in turn allow several of each of theirs."""
    if isinstance(value, list):
        return [_chosen(item) for item in value]
    return _chosen_values(value) if isinstance(value, dict) else value


SINGLE = Form(name="bfcl", marks=("question", "function"), records=_single, answers="possible_answer")
MULTI = Form(name="bfcl-multi-turn", marks=("question", "involved_classes"), records=_multi, answers="possible_answer")
