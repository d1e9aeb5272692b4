"""What code can check about a failed call, in a few short lines: the whole prompt for a small simulator.

Ours. A model of a million parameters cannot compare two calls with each other and with a schema, so that is done for
it: what breaks the schema, which arguments differ from the call that was due, whether another call was due first, and
what kind of answer the world gave to a call that succeeded. What the world would say to a call that failed is left to
the model. No value of the reference is shown, and no name but that of the tool that was due first and of an argument
that was left out, which are on offer; so there is next to nothing to give away.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fission_grpo.environments.schema import CallProblem, argument_schemas, call_problems, find_tool
from fission_grpo.simulator.fault_fields import NAME, fields_at_fault
from fission_grpo.simulator.rules import is_empty, refused, was_made_before
from fission_grpo.types import ErrorClass, Message, OutcomeKind, Tool, ToolCall, ToolOutcome

_STRUCTURE = (ErrorClass.UNKNOWN_TOOL, ErrorClass.ARGUMENT_SCHEMA)
"""With these no world looks at values."""
_VALUE = 60
"""Characters of a value that are shown."""
_HINTS = re.compile(r" \(|, did you mean|; ")
"""Where a schema's remark goes on to help: the model is to say what is wrong."""


def findings(
    call: ToolCall,
    *,
    tools: Sequence[Tool],
    messages: Sequence[Message],
    reference: Sequence[ToolCall],
    answer: ToolOutcome | None,
) -> str:
    """One finding a line.

    Args:
        messages: the dialogue before the call.
        reference: the calls that were due, the first one first; empty where words were.
        answer: what the world said to a call that succeeded; None where it failed, or where there is no world.
    """
    problems = call_problems(call, tools)
    lines = [f"called '{call.name}'"]
    lines += ("failed",) if answer is None else _answered(call, answer, messages)
    lines += map(_remark, problems)
    if not any(problem.error in _STRUCTURE for problem in problems):
        lines += _misplaced(call, reference, tools)
    return "\n".join(lines)


def _answered(call: ToolCall, answer: ToolOutcome, messages: Sequence[Message]) -> Iterator[str]:
    """What kind of answer it was: its words stand in the feedback anyway."""
    if answer.kind is OutcomeKind.SOFT_FAILURE:
        yield "answered no"
        yield from (f"'{key}' is false" for key in refused(answer.text))
    else:
        yield "answered nothing" if is_empty(answer.text) else "answered"
    if was_made_before(call, messages):
        yield "made before"


def _remark(problem: CallProblem) -> str:
    if problem.error is ErrorClass.UNKNOWN_TOOL:
        return "no such tool"
    return _HINTS.split(problem.text)[0] if problem.error is ErrorClass.ARGUMENT_SCHEMA else problem.text


def _misplaced(call: ToolCall, reference: Sequence[ToolCall], tools: Sequence[Tool]) -> Iterator[str]:
    """What the calls that were due have against a call that its schema takes as it is."""
    if not reference:
        yield "no call is due"
    elif call in reference:
        yield f"due after '{reference[0].name}'"
    else:
        mistyped = {problem.argument for problem in call_problems(call, tools)}
        for field in fields_at_fault(call, reference, tools):
            if field == NAME:
                yield "another tool is due"
            elif field not in mistyped:
                yield _wrong(field, call, reference, tools) if field in call.arguments else f"left out '{field}'"


def _wrong(field: str, call: ToolCall, reference: Sequence[ToolCall], tools: Sequence[Tool]) -> str:
    tool = find_tool(call.name, tools)
    schema = {} if tool is None else argument_schemas(tool).get(field, {})
    right = [gold.arguments[field] for gold in reference if gold.name == call.name and field in gold.arguments]
    value = json.dumps(call.arguments[field], ensure_ascii=False, default=dict)[:_VALUE]
    return f"wrong '{field}': {value}{_domain(schema, right)}"


_RANGE = re.compile(r"\bbetween\b|\bfrom -?\d+ to\b", re.IGNORECASE)
_FORMAT = re.compile(r"\bformats?\b", re.IGNORECASE)


def _domain(schema: Mapping[str, Any], right: Sequence[Any]) -> str:
    """What an argument's description allows: a list that the right value stands in, a range, a format."""
    described = str(schema.get("description", ""))
    if "enum" in schema or any(_listed(value, described) for value in right):
        return ", values are listed"
    if _RANGE.search(described):
        return ", values have a range"
    return ", values have a format" if _FORMAT.search(described) else ""


def _listed(value: Any, described: str) -> bool:
    values = value if isinstance(value, list) else [value]
    words = [one for one in values if isinstance(one, str) and one]
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", described) for word in words)
