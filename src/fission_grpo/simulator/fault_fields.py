"""Which parts of a call are at fault, seen from the reference and the schema, and whether a text names them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fission_grpo.call_matching import equal
from fission_grpo.environments.schema import call_problems
from fission_grpo.types import ErrorClass, Tool, ToolCall

NAME = ""
"""Stands for the tool's name."""


def fields_at_fault(call: ToolCall, reference: Sequence[ToolCall], tools: Sequence[Tool]) -> tuple[str, ...]:
    """Arguments that differ from the reference call of the same tool, or that break the schema; sorted.

    The name is at fault when it is on nobody's list: unknown, or in no call that was due. A right call made too early
    has no fault.
    """
    twins = [gold for gold in reference if gold.name == call.name]
    fields = {problem.argument.split("[")[0].split(".")[0] for problem in call_problems(call, tools)}
    if not twins:
        return tuple(sorted({NAME, *fields}))
    nearest = min((_differing(call, gold) for gold in twins), key=lambda differing: len(differing))
    return tuple(sorted(fields | set(nearest)))


def stated_first(error: ErrorClass) -> bool:
    """Whether the call itself is wrong, so that there is a field to name."""
    return error not in (ErrorClass.PRECONDITION, ErrorClass.FORMAT, ErrorClass.LIMIT)


def names_field(text: str, field: str, call: ToolCall) -> bool:
    """Whether a text speaks of an argument: by its name, in any spelling, or by the value that it was given.

    The tool is named by the name that was called.
    """
    if field == NAME:
        return _mentions(text, call.name)
    value = call.arguments.get(field)
    told = value is not None and not isinstance(value, bool) and str(value) != "" and _mentions(text, str(value))
    return told or _mentions(text, field) or _mentions(_spaced(text), _spaced(field))


def _mentions(text: str, word: str) -> bool:
    return re.search(rf"(?<![^\W_]){re.escape(word)}(?![^\W_])", text, re.IGNORECASE) is not None


def _spaced(text: str) -> str:
    """`fuelAmount` and `fuel_amount` as `fuel amount`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", text)


def _differing(call: ToolCall, gold: ToolCall) -> list[str]:
    names = call.arguments.keys() | gold.arguments.keys()
    both = call.arguments.keys() & gold.arguments.keys()
    return [n for n in sorted(names) if n not in both or not equal(call.arguments[n], gold.arguments[n])]
