"""The only door to `bfcl_eval`: its classes, its documents, its way to turn a returned value into text.

Nothing of the package is copied, and only two parts of it are used: the eight API classes of the multi-turn
categories (Apache-2.0, they need mpmath alone) and the JSONL files. Its executor, which evaluates the model's text,
is never imported here.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fission_grpo.errors import ConfigError
from fission_grpo.types import Tool

BFCL_REQUIREMENT = "bfcl-eval==2026.3.23"
"""The release whose rules these are. It is installed without its dependencies: it pins numpy 1.26 and vendors' SDKs."""
_REMEDY = f"fission install-benchmarks bfcl (or: pip install --no-deps {BFCL_REQUIREMENT} && pip install mpmath==1.3.0)"

_SOURCES = "bfcl_eval.eval_checker.multi_turn_eval.func_source_code"
_MODULE_OF_CLASS: Mapping[str, str] = MappingProxyType(
    {
        "GorillaFileSystem": "gorilla_file_system",
        "VehicleControlAPI": "vehicle_control",
        "TradingBot": "trading_bot",
        "TicketAPI": "ticket_api",
        "MessageAPI": "message_api",
        "TwitterAPI": "posting_api",
        "TravelAPI": "travel_booking",
        "MathAPI": "math_api",
    }
)
BFCL_CLASSES = tuple(_MODULE_OF_CLASS)
"""The eight official API classes of the multi-turn categories."""

_JSON_SCHEMA_TYPE = {"dict": "object", "float": "number", "tuple": "array", "any": None}


@cache
def official_class(name: str) -> type[Any]:
    """The official class of that name.

    Raises:
        ConfigError: there is no such class, or `bfcl_eval` or its one dependency is not installed.
    """
    if name not in _MODULE_OF_CLASS:
        raise ConfigError(f"unknown BFCL class {name!r}; expected one of {', '.join(BFCL_CLASSES)}")
    try:
        module = importlib.import_module(f"{_SOURCES}.{_MODULE_OF_CLASS[name]}")
    except ImportError as error:
        raise ConfigError(f"the BFCL class {name} cannot be imported ({error}). Install it: {_REMEDY}") from error
    found: type[Any] = getattr(module, name)
    return found


@cache
def methods_of(name: str) -> Mapping[str, inspect.Signature]:
    """The public functions of an official class, with their signatures (`self` included)."""
    functions = inspect.getmembers(official_class(name), inspect.isfunction)
    return MappingProxyType({key: inspect.signature(value) for key, value in functions if not key.startswith("_")})


@cache
def added_cards() -> Mapping[str, dict[str, Any]]:
    """The credit cards that `TravelAPI` adds in long context, as the package brings them; not to be changed.

    Raises:
        ConfigError: `bfcl_eval` is not installed.
    """
    official_class("TravelAPI")
    return MappingProxyType(copy.deepcopy(importlib.import_module(f"{_SOURCES}.long_context").CREDIT_CARD_EXTENSION))


def official_text(value: Any) -> str:
    """A returned value as the official executor shows it to the model."""
    if type(value) is str:
        return value
    if type(value) is dict:
        try:
            return json.dumps(value)
        except (TypeError, ValueError, RecursionError):  # mpf and Decimal of MathAPI, cycles
            return str(value)
    return str(value)


def records(relative: str) -> Iterator[dict[str, Any]]:
    """Lines of one of the package's JSONL files, named relative to its `data` folder.

    Raises:
        ConfigError: the package is not installed.
    """
    spec = importlib.util.find_spec("bfcl_eval")
    if spec is None or spec.origin is None:
        raise ConfigError(f"the package bfcl_eval is not installed. Install it: {_REMEDY}")
    with (Path(spec.origin).parent / "data" / relative).open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def bfcl_tools(classes: Iterable[str]) -> tuple[Tool, ...]:
    """The official documents of these classes as OpenAI tools, in official order.

    Types are translated to JSON Schema (`dict` to `object`, `float` to `number`), the description of the answer is
    left out, and everything else is verbatim.

    Raises:
        ConfigError: an unknown class, or `bfcl_eval` is not installed.
    """
    return tuple(tool for name in classes for tool in _tools_of(name))


@cache
def bfcl_documents() -> Mapping[str, dict[str, Any]]:
    """Function -> its official document, untouched (`dict` and `float` as types, the answer described); not to be
    changed. No two classes share a name.

    Raises:
        ConfigError: `bfcl_eval` is not installed.
    """
    return MappingProxyType({record["name"]: record for name in BFCL_CLASSES for record in _documents_of(name)})


@cache
def _tools_of(name: str) -> tuple[Tool, ...]:
    if name not in _MODULE_OF_CLASS:
        raise ConfigError(f"unknown BFCL class {name!r}; expected one of {', '.join(BFCL_CLASSES)}")
    return tuple(map(_tool, _documents_of(name)))


def _documents_of(name: str) -> Iterator[dict[str, Any]]:
    return records(f"multi_turn_func_doc/{_MODULE_OF_CLASS[name]}.json")


def _tool(record: Mapping[str, Any]) -> Tool:
    function = {key: record[key] for key in ("name", "description")}
    return {"type": "function", "function": {**function, "parameters": _json_schema(record["parameters"])}}


def _json_schema(node: Mapping[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = dict(node)
    if isinstance(node.get("type"), str):
        kind = _JSON_SCHEMA_TYPE.get(node["type"], node["type"])
        schema = {**schema, "type": kind} if kind else {k: v for k, v in schema.items() if k != "type"}
    if "items" in node:
        schema["items"] = _json_schema(node["items"])
    if "properties" in node:
        schema["properties"] = {key: _json_schema(value) for key, value in node["properties"].items()}
    return schema
