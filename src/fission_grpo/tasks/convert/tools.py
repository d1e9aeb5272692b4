"""Descriptions of tools as others write them, as OpenAI tools with a sound JSON Schema."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import islice
from typing import Any

from fission_grpo.environments.validation import schema_problems
from fission_grpo.files import is_shallow, parse_json
from fission_grpo.tasks.convert.form import RowError
from fission_grpo.tasks.jsonl import without_nulls
from fission_grpo.types import Tool

_TYPES: Mapping[str, str] = {
    **dict.fromkeys(("object", "dict", "dictionary", "map", "hashmap", "json"), "object"),
    **dict.fromkeys(("array", "list", "tuple", "set", "sequence", "arraylist"), "array"),
    **dict.fromkeys(("string", "str", "text", "char"), "string"),
    **dict.fromkeys(("integer", "int", "long"), "integer"),
    **dict.fromkeys(("number", "float", "double"), "number"),
    **dict.fromkeys(("boolean", "bool"), "boolean"),
    **dict.fromkeys(("null", "none", "nonetype"), "null"),
}
"""A name of a type -> JSON Schema's."""
_HEAD = re.compile(r"\s*(\w+)\s*(?:\[(.*)\])?\s*\Z", re.DOTALL)
_PLAIN = ("title", "description", "enum", "default", "minimum", "maximum", "pattern", "minItems", "maxItems", "const")
"""Keywords that mean the same to all, and are kept as they are."""
_SIDE_BY_SIDE = ("anyOf", "oneOf", "allOf")
_LIST_BEGINS = re.compile(r"\[\s*\{")
_MOST_LISTS = 16
"""Places of a text at which a list of functions is looked for."""
_CANNOT_BE_READ = "the tools cannot be read"


def tools_of(value: Any) -> list[Tool]:
    """The tools of a column: OpenAI tools, or functions with `name` and `parameters`; a list, or its JSON text.

    `parameters` may be a schema, or the parameters by name (xLAM). Nulls that Arrow has filled in are dropped. What is
    no sound schema is made one: types are translated (`dict`, `List[str]`, `str, optional`), or left out if unknown.

    Raises:
        RowError: one of them is none.
    """
    try:
        found = parse_json(value) if isinstance(value, str) else value
    except ValueError as error:
        raise RowError(_CANNOT_BE_READ, str(error)) from error
    if not isinstance(found, list) or not is_shallow(found):
        raise RowError(_CANNOT_BE_READ, f"got {found!r:.80}, expected a list")
    return [_tool(item) for item in found]


def tools_in(text: str) -> tuple[list[Tool], str]:
    """The tools whose JSON list stands in a prompt, and the text around it; no tools where there is no such list.

    Raises:
        RowError: one of them cannot be read.
    """
    decoder = json.JSONDecoder()
    for begin in islice(_LIST_BEGINS.finditer(text), _MOST_LISTS):
        try:
            found, end = decoder.raw_decode(text, begin.start())
        except (ValueError, RecursionError):
            continue
        if is_shallow(found) and all(
            isinstance(one, dict) and (one.get("name") or one.get("function")) for one in found
        ):
            return tools_of(found), f"{text[: begin.start()]}\n{text[end:]}"
    return [], text


def json_schema_of(node: Any) -> dict[str, Any]:
    """A description of a value as JSON Schema."""
    if not isinstance(node, dict):
        return {}
    named = node.get("type")
    schema: dict[str, Any] = _of_type(named) if isinstance(named, str) else {}
    if isinstance(named, list):
        kinds = [_TYPES[one] for one in named if isinstance(one, str) and one in _TYPES]
        schema = {"type": kinds} if kinds and len(kinds) == len(named) else {}
    schema |= {key: node[key] for key in _PLAIN if key in node}
    if not isinstance(schema.get("enum", []), list):
        del schema["enum"]
    if isinstance(node.get("items"), dict):
        schema["items"] = json_schema_of(node["items"])
    if isinstance(node.get("properties"), dict):
        schema["properties"] = {name: json_schema_of(one) for name, one in node["properties"].items()}
    if isinstance(node.get("required"), list):
        schema["required"] = [name for name in schema.get("properties", {}) if name in node["required"]]
    if "additionalProperties" in node:
        more = node["additionalProperties"]
        schema["additionalProperties"] = more if isinstance(more, bool) else json_schema_of(more)
    elif schema.get("type") == "object" and not schema.get("properties"):
        schema["additionalProperties"] = True
    for key in _SIDE_BY_SIDE:
        if isinstance(node.get(key), list):
            schema[key] = [json_schema_of(one) for one in node[key]]
    return schema


def _tool(item: Any) -> Tool:
    function = without_nulls(item.get("function", item)) if isinstance(item, dict) else {}
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise RowError(_CANNOT_BE_READ, f"got {item!r:.80}, expected a function with a name")
    given = function.get("parameters", function.get("arguments", {}))
    parameters = _by_name(given) if _is_flat(given) else given if _is_sound(given) else json_schema_of(given)
    description = function.get("description")
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description if isinstance(description, str) else "",
            "parameters": {"properties": {}, **parameters, "type": "object"},
        },
    }


def _is_flat(parameters: Any) -> bool:
    """Whether parameters stand by name, without a schema around them."""
    return (
        isinstance(parameters, dict)
        and not isinstance(parameters.get("properties"), dict)
        and all(isinstance(value, dict) for value in parameters.values())
    )


def _is_sound(parameters: Any) -> bool:
    return isinstance(parameters, dict) and not schema_problems(parameters)


def _by_name(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter may be left out where its type says so, or where it has a default."""
    free = [name for name, one in parameters.items() if "default" in one or "optional" in str(one.get("type")).lower()]
    return {
        "properties": {name: json_schema_of(one) for name, one in parameters.items()},
        "required": [name for name in parameters if name not in free],
    }


def _of_type(name: str) -> dict[str, Any]:
    """What the name of a type says: `List[int]` and `str, optional`, too; nothing of one that is not known."""
    bare = re.sub(r",?\s*optional\s*\Z", "", name, flags=re.IGNORECASE)
    if found := _HEAD.match(bare):
        head, inner = found[1].lower(), found[2] or ""
        if head == "optional":
            return _of_type(inner)
        kind = _TYPES.get(head)
        if kind == "array" and (element := _of_type(inner) if head != "tuple" else {}):
            return {"type": kind, "items": element}
        return {"type": kind} if kind else {}
    return {}
