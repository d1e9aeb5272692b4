"""What the JSON Schema of the offered tools can say about a call, in runtime-style words.

Only the schema and the call are looked at, so nothing here can give away what would have been right.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from fission_grpo.environments.validation import UncheckableError, breaches, validator_of
from fission_grpo.types import ErrorClass, Tool, ToolCall

Breach: TypeAlias = Any
"""A `jsonschema.ValidationError`; its own types allow every field to be unset, which never happens in a found error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallProblem:
    """One way in which a call breaks the schema of its tool."""

    error: ErrorClass
    argument: str
    """Path of the argument, for instance `items[0].price`; empty when the name is wrong."""
    text: str


def call_problems(call: ToolCall, tools: Sequence[Tool]) -> tuple[CallProblem, ...]:
    """Everything that is wrong with a call by the schemas alone, structure before values.

    A tool whose schema does not speak of `additionalProperties` takes no others, as the function behind it would not.

    Raises:
        ConfigError: the tool's schema cannot be used; `data check` would have said so.
    """
    tool = find_tool(call.name, tools)
    if tool is None:
        return (_unknown_tool(call.name, tools),)
    parameters = _parameters(tool)
    others = parameters.get("additionalProperties", False)
    validator = validator_of({**parameters, "additionalProperties": others})
    try:
        errors = breaches(validator, dict(call.arguments))
    except UncheckableError as error:
        text = f"the arguments of {call.name} cannot be checked ({error})"
        return (CallProblem(error=ErrorClass.ILLEGAL_VALUE, argument="", text=text),)
    found = [problem for error in errors for problem in _problems(error)]
    return tuple(sorted(dict.fromkeys(found), key=lambda problem: problem.error))


def explain_problems(call: ToolCall, tools: Sequence[Tool]) -> str:
    """All problems in one line, with the arguments that the tool takes when those were missed; empty without any."""
    problems = call_problems(call, tools)
    text = "; ".join(problem.text for problem in problems)
    if any(problem.error is ErrorClass.ARGUMENT_SCHEMA for problem in problems):
        text += f". {describe_arguments(call.name, tools)}"
    return text


def describe_arguments(name: str, tools: Sequence[Tool]) -> str:
    """`Arguments of cp: source (string, required), force (boolean).`; empty for a tool that is not on offer."""
    tool = find_tool(name, tools)
    if tool is None:
        return ""
    required = _parameters(tool).get("required", ())
    described = [
        f"{key} ({_kind(schema)}{', required' if key in required else ''})"
        for key, schema in argument_schemas(tool).items()
    ]
    return f"Arguments of {name}: {', '.join(described) or 'none'}."


def find_tool(name: str, tools: Sequence[Tool]) -> Tool | None:
    """The tool on offer under this name."""
    return next((tool for tool in tools if tool["function"]["name"] == name), None)


def argument_schemas(tool: Tool) -> Mapping[str, Any]:
    """Schema by argument; empty for a tool that takes none."""
    schemas: Mapping[str, Any] = _parameters(tool).get("properties", {})
    return schemas


def _parameters(tool: Tool) -> Mapping[str, Any]:
    parameters: Mapping[str, Any] = tool["function"].get("parameters") or {}
    return parameters


def _unknown_tool(name: str, tools: Sequence[Tool]) -> CallProblem:
    offered = [tool["function"]["name"] for tool in tools]
    spelled = {tool.lower(): tool for tool in offered}
    near = [spelled[one] for one in difflib.get_close_matches(name.lower(), spelled, n=3, cutoff=0.0)]
    hint = f"; the nearest tools are {', '.join(map(repr, near))}" if near else "; no tools are on offer"
    return CallProblem(error=ErrorClass.UNKNOWN_TOOL, argument="", text=f"unknown tool {_short(name)}{hint}")


def _problems(error: Breach) -> Iterator[CallProblem]:
    yield from _BY_KEYWORD.get(str(error.validator), _other)(error)


def _missing(error: Breach) -> Iterator[CallProblem]:
    properties = error.schema.get("properties", {})
    for name in error.validator_value:
        if name not in error.instance:
            path = _path(error, name)
            text = f"missing argument '{path}' ({_kind(properties.get(name, {}))})"
            yield CallProblem(error=ErrorClass.ARGUMENT_SCHEMA, argument=path, text=text)


def _unexpected(error: Breach) -> Iterator[CallProblem]:
    known = error.schema.get("properties", {})
    free = [name for name in known if name not in error.instance]
    for name in error.instance:
        if name not in known:
            near = difflib.get_close_matches(name, free, n=1)
            hint = f", did you mean '{near[0]}'?" if near else ""
            path = _path(error, name)
            text = f"unexpected argument '{path[:_SHORT]}'{hint}"
            yield CallProblem(error=ErrorClass.ARGUMENT_SCHEMA, argument=path, text=text)


def _mistyped(error: Breach) -> Iterator[CallProblem]:
    return _value(
        error, ErrorClass.ARGUMENT_TYPE, f"must be {_kind(error.schema)}, got {_json_type(error.instance)}".rstrip()
    )


def _not_among(error: Breach) -> Iterator[CallProblem]:
    options = ", ".join(json.dumps(option, ensure_ascii=False) for option in error.validator_value)
    return _value(error, ErrorClass.ILLEGAL_VALUE, f"must be one of {options}, got")


def _out_of_range(relation: str) -> Callable[[Breach], Iterator[CallProblem]]:
    def check(error: Breach) -> Iterator[CallProblem]:
        bound = json.dumps(error.validator_value, ensure_ascii=False)
        return _value(error, ErrorClass.ILLEGAL_VALUE, f"must {relation} {bound}, got")

    return check


def _other(error: Breach) -> Iterator[CallProblem]:
    rule = f"breaks its rule {error.validator} {_short(error.validator_value)} with"
    return _value(error, ErrorClass.ILLEGAL_VALUE, rule)


_Check: TypeAlias = Callable[[Breach], Iterator[CallProblem]]
_BY_KEYWORD: Mapping[str, _Check] = {
    "required": _missing,
    "additionalProperties": _unexpected,
    "type": _mistyped,
    "anyOf": _mistyped,
    "enum": _not_among,
    "const": _out_of_range("be"),
    "minimum": _out_of_range("be at least"),
    "maximum": _out_of_range("be at most"),
    "exclusiveMinimum": _out_of_range("be above"),
    "exclusiveMaximum": _out_of_range("be below"),
    "multipleOf": _out_of_range("be a multiple of"),
    "minLength": _out_of_range("have a length of at least"),
    "maxLength": _out_of_range("have a length of at most"),
    "minItems": _out_of_range("have a length of at least"),
    "maxItems": _out_of_range("have a length of at most"),
    "pattern": _out_of_range("match the pattern"),
}
_KINDS = {"integer": "an integer", "array": "a list", "object": "an object", "null": "null"}
_SHORT = 60


def _value(error: Breach, kind: ErrorClass, rule: str) -> Iterator[CallProblem]:
    path = _path(error)
    yield CallProblem(error=kind, argument=path, text=f"argument '{path}' {rule} {_short(error.instance)}")


def _path(error: Breach, *more: str) -> str:
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in [*error.absolute_path, *more]]
    return "".join(steps).lstrip(".")


def _kind(schema: Mapping[str, Any] | bool) -> str:
    """What a schema wants, in words: `a string`, `an integer or null`, `a list`, `any value`."""
    if isinstance(schema, bool):  # JSON Schema's own short forms of anything and nothing
        return "any value" if schema else "no value"
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    words = [_KINDS.get(kind, f"a {kind}") for kind in kinds]
    words += [_kind(option) for option in schema.get("anyOf", ())]
    return " or ".join(dict.fromkeys(words)) or "any value"


def _json_type(value: Any) -> str:
    names = ((bool, "the boolean"), (str, "the string"), (int | float, "the number"), (Mapping, "the object"))
    found = (name for kind, name in names if isinstance(value, kind))
    return next(found, "" if value is None else "the list")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}..."
