"""Calls as others write them: records, JSON text, `<tool_call>` blocks, and `[name(key=value), ...]`.

The last is read without evaluating anything. Names are taken from the offered tools where they are known, so that they
may hold spaces and brackets (as ToolACE's do); values may be Python's literals or JSON's.
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from fission_grpo.chat.parse import CLOSE, OPEN
from fission_grpo.environments.schema import argument_schemas, find_tool
from fission_grpo.files import MAX_DEPTH, parse_json
from fission_grpo.types import Tool, ToolCall

_ARGUMENTS = ("arguments", "parameters", "args")
"""What the arguments of a call are called, by others too."""
_BLOCK = re.compile(rf"{OPEN}(.*?){CLOSE}", re.DOTALL)
_UNKNOWN_NAME = re.compile(r"[^()\[\]{},='\"\s][^()\[\]{},='\"]*(?=\()")
_KEY = re.compile(r"([^=(),\[\]{}'\":]*)=(?!=)")
_OPENS = re.compile(r"\s*\(")
_SPACE = re.compile(r"\s*")
_STRING = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_WORD = re.compile(r"[\w.+-]+")
_CONSTANTS: Mapping[str, bool | None] = {
    "true": True, "True": True, "false": False, "False": False, "null": None, "None": None,
}  # fmt: skip
_SHOWN = 40
_Item = TypeVar("_Item")


def calls_of(value: Any, tools: Sequence[Tool]) -> list[ToolCall]:
    """The calls that a value says, in whatever way.

    Args:
        value: a record, a list of records or of call texts, the JSON text of either, a text with `<tool_call>` blocks,
            or a call text.
        tools: on offer; their names and the order of their parameters are used by call texts.

    Raises:
        ValueError: it says no calls.
    """
    if isinstance(value, str):
        return _calls_of_text(value, tools)
    if isinstance(value, list):
        return [call for item in value for call in calls_of(item, tools)]
    return [call_of(value)]


def call_of(record: Any) -> ToolCall:
    """The call of a record: `{"name", "arguments"}`, or OpenAI's with a `function` in it; arguments may be JSON text.

    Raises:
        ValueError: it is none.
    """
    function = record.get("function", record) if isinstance(record, dict) else None
    function = function if isinstance(function, dict) else {}
    name = function.get("name")
    arguments: Any = next((function[key] for key in _ARGUMENTS if function.get(key) is not None), {})
    arguments = parse_json(arguments or "{}") if isinstance(arguments, str) else arguments
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise ValueError(f'got {record!r:.80}, expected {{"name": text, "arguments": object}}')
    return ToolCall(name=name, arguments=arguments)


def looks_like_calls(text: str) -> bool:
    """Whether a text must be calls: a bracket, a name, and a parenthesis that is closed at its end."""
    return bool(re.match(r"\s*\[[^\[\]{}'\",]*\(", text)) and bool(re.search(r"\)\s*\]\s*$", text[-_SHOWN:]))


def parse_call_text(text: str, tools: Sequence[Tool] = ()) -> list[ToolCall]:
    """The calls of `[name(key=value), ...]`, or of one call without brackets.

    Args:
        tools: on offer; a value without a key belongs to the parameter at its place.

    Raises:
        ValueError: it is no such text; the message says where.
    """
    return _CallText(text, tools).read()


def _calls_of_text(text: str, tools: Sequence[Tool]) -> list[ToolCall]:
    if OPEN in text:
        blocks = _BLOCK.findall(text)
        if len(blocks) != text.count(OPEN):
            raise ValueError(f"a {OPEN} has no end")
        return [call for block in blocks for call in calls_of(_json_of(block), tools)]
    if text.lstrip()[:1] in ("{", "[") and not looks_like_calls(text):
        return calls_of(parse_json(text), tools)
    return parse_call_text(text, tools)


def _json_of(block: str) -> Any:
    """One JSON value, or one a line."""
    try:
        return parse_json(block)
    except ValueError:
        return [parse_json(line) for line in block.splitlines() if line.strip()]


def _literal(token: str) -> str:
    """The text of a quoted token, which may hold ends of lines as they are."""
    text: str
    try:
        if token.startswith('"'):
            text = json.loads(token, strict=False)
            return text
    except ValueError:  # an escape that JSON does not know
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that mean themselves, as in patterns
            text = ast.literal_eval(token.replace("\r", "\\r").replace("\n", "\\n").replace("\0", "\\0"))
    except SyntaxError as error:
        raise ValueError(f"{token:.40} cannot be read: {error.msg}") from error
    return text


class _CallText:
    """A place in a text, which moves on as things are read."""

    def __init__(self, text: str, tools: Sequence[Tool]) -> None:
        self._text = text
        self._tools = tools
        self._names: list[str] = sorted((tool["function"]["name"] for tool in tools), key=len, reverse=True)
        self._at = 0

    def read(self) -> list[ToolCall]:
        calls = list(self._items("]", self._call)) if self._take("[") else [self._call()]
        self._skip()
        if self._at < len(self._text):
            raise self._error("the end")
        return calls

    def _call(self) -> ToolCall:
        name = self._name()
        self._expect("(")
        tool = find_tool(name, self._tools)
        places = list(argument_schemas(tool)) if tool else []
        arguments: dict[str, Any] = {}
        for key, value in self._items(")", self._argument):
            if key is None and len(arguments) >= len(places):
                raise ValueError(f"{name} has a value without a name: {value!r:.40}")
            key = places[len(arguments)] if key is None else key
            if key in arguments:
                raise ValueError(f"{name} has {key!r} twice")
            arguments[key] = value
        return ToolCall(name=name, arguments=arguments)

    def _name(self) -> str:
        self._skip()
        for name in self._names:
            if self._text.startswith(name, self._at) and _OPENS.match(self._text, self._at + len(name)):
                self._at += len(name)
                return name
        unknown = self._match(_UNKNOWN_NAME, "a name and a parenthesis")
        return unknown.strip()

    def _argument(self) -> tuple[str | None, Any]:
        self._skip()
        if (key := _KEY.match(self._text, self._at)) and key[1].strip():
            self._at = key.end()
            return key[1].strip(), self._value()
        return None, self._value()

    def _value(self, depth: int = 0) -> Any:
        """A literal; tuples are lists, as in JSON."""
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        self._skip()
        here = self._text[self._at : self._at + 1]
        if here in ("'", '"'):
            token = self._match(_STRING, "the end of a text")
            return _literal(token)
        if self._take("{"):
            return dict(self._items("}", lambda: self._pair(depth + 1)))
        for opening, closing in (("[", "]"), ("(", ")")):
            if self._take(opening):
                return list(self._items(closing, lambda: self._value(depth + 1)))
        return self._word()

    def _pair(self, depth: int) -> tuple[str, Any]:
        key = self._value(depth)
        if not isinstance(key, str):
            raise ValueError(f"the key {key!r:.40} is no text")
        self._expect(":")
        return key, self._value(depth)

    def _word(self) -> Any:
        start = self._at
        word = self._match(_WORD, "a value")
        if word in _CONSTANTS:
            return _CONSTANTS[word]
        for number in (int, float):
            try:
                value = number(word)
            except ValueError:
                continue
            if math.isfinite(value):
                return value
        self._at = start
        raise self._error("a value")

    def _items(self, closing: str, read: Callable[[], _Item]) -> Iterator[_Item]:
        """What stands before a closing bracket, with commas between; one more comma may follow."""
        while not self._take(closing):
            yield read()
            if not self._take(","):
                self._expect(closing)
                return

    def _match(self, pattern: re.Pattern[str], what: str) -> str:
        found = pattern.match(self._text, self._at)
        if not found:
            raise self._error(what)
        self._at = found.end()
        return found[0]

    def _take(self, mark: str) -> bool:
        self._skip()
        taken = self._text.startswith(mark, self._at)
        self._at += taken * len(mark)
        return taken

    def _expect(self, mark: str) -> None:
        if not self._take(mark):
            raise self._error(repr(mark))

    def _skip(self) -> None:
        self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]  # matches nothing, too

    def _error(self, expected: str) -> ValueError:
        rest = self._text[self._at : self._at + _SHOWN]
        return ValueError(f"character {self._at}: got {rest!r}, expected {expected}")
