"""Assistant text <-> tool calls, in the Hermes/Qwen format: JSON between `<tool_call>` tags.

Reading is forgiving about white space and about nothing else. Whatever looks like a call and is none becomes a typed
`ParseFailure` with its place; it is never taken for prose. Calls that a model drafts while it thinks are not calls.
The time that it takes grows with the length of the text and no faster, whatever the text is.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from fission_grpo.files import is_shallow
from fission_grpo.types import Message, ParsedMessage, ParseFailure, ParseFailureKind, ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
THINK, END_THINK = "<think>", "</think>"
_TAG = re.compile("</?(?:tool_call|think)>")
_BLOCK_END = re.compile(rf"(?={OPEN}|{END_THINK})|{CLOSE}|\Z")
"""Where a malformed block ends: at its closing tag, the next opening one, the end of thinking, or of the text."""
_SPACE = re.compile(r"\s*")
_EXCERPT = 40
_REASONING = re.compile(rf"(?:\A(?:(?!{THINK}).)*?{END_THINK}|{THINK}.*?(?:{END_THINK}|\Z))\s*", re.DOTALL)


def parse_message(text: str) -> ParsedMessage:
    """Read an assistant text; never raises.

    Thinking is everything from `<think>` to `</think>`, or to a first `</think>` alone (the prompt had opened it). It
    stays in `content`; calls and failures inside it do not count.
    """
    scanner = _Scanner(text)
    scanner.run()
    content = "".join(scanner.prose).strip()
    return ParsedMessage(content=content, calls=tuple(scanner.calls), failures=tuple(scanner.failures))


def reasoning_in(text: str) -> list[str]:
    """What an assistant text thinks, tags and the white space behind them included; by the rule of `parse_message`."""
    return _REASONING.findall(text)


def render_call(call: ToolCall) -> str:
    """The canonical block of a call; `parse_message` reads it back unchanged.

    Raises:
        ValueError: the arguments hold a number that JSON cannot (NaN, infinity).
    """
    body = {"name": call.name, "arguments": call.arguments}
    return f"{OPEN}\n{json.dumps(body, ensure_ascii=False, allow_nan=False, default=dict)}\n{CLOSE}"


def assistant_message(said: ParsedMessage | Sequence[ToolCall], text: str = "") -> Message:
    """An OpenAI assistant message: `content` always, `tool_calls` (arguments as objects) when there are calls.

    A malformed message has none, since none is executed: its content is all that was said, broken blocks included.

    Args:
        said: a parsed text, or bare calls.
        text: the whole text behind a parsed one; the prose beside bare calls.
    """
    if isinstance(said, ParsedMessage):
        calls, content = ((), text or said.content) if said.failures else (said.calls, said.content)
    else:
        calls, content = tuple(said), text
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = [
            {"id": call_id(place), "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for place, call in enumerate(calls)
        ]
    return message


def tool_message(text: str, place: int = 0) -> Message:
    """An OpenAI tool message: the answer to the call at `place` of the assistant message before it."""
    return {"role": "tool", "tool_call_id": call_id(place), "content": text}


def call_id(place: int) -> str:
    """Id of the call at `place` in its message: nine letters and digits, the only form Mistral's templates take."""
    return f"call{place:05d}"


class _Text(str):
    """A text whose lines nobody counts: `json.JSONDecodeError` would, from its beginning, for each malformed block."""

    __slots__ = ()

    def count(self, *_: object) -> int:
        return 0

    def rfind(self, *_: object) -> int:
        return -1


class _MalformedError(ValueError):
    """A block that is no call."""

    def __init__(self, kind: ParseFailureKind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class _Scanner:
    """One pass over the tags of a text."""

    def __init__(self, text: str) -> None:
        self.text = _Text(text)
        self.place = 0
        self.answer_start = 0
        self.prose: list[str] = []
        self.calls: list[ToolCall] = []
        self.failures: list[ParseFailure] = []
        self._on_tag = {OPEN: self._block, CLOSE: self._stray, THINK: self._think, END_THINK: self._end_think}

    def run(self) -> None:
        while tag := _TAG.search(self.text, self.place):
            self.prose.append(self.text[self.place : tag.start()])
            self.place = tag.end()
            self._on_tag[tag[0]](tag.start())
        self.prose.append(self.text[self.place :])
        if not self.calls and not self.failures:
            self._untagged()

    def _block(self, start: int) -> None:
        try:
            body, end = _decode(self.text, self.place)
        except _MalformedError as malformed:
            self._fail_unread(start, malformed)
            return
        try:
            self.calls.append(_as_call(body))
        except _MalformedError as malformed:
            self._fail(start, end, malformed)
        self.place = end

    def _fail(self, start: int, end: int, malformed: _MalformedError) -> None:
        block, self.place = self.text[start:end], end
        failure = ParseFailure(kind=malformed.kind, start=start, text=block, detail=str(malformed))
        self.failures.append(failure)

    def _fail_unread(self, start: int, malformed: _MalformedError) -> None:
        """Without readable JSON only the tags can tell where the block ends."""
        found = _BLOCK_END.search(self.text, self.place)
        end = found.end() if found else len(self.text)
        if not self.text.endswith(CLOSE, start, end):
            expected = f"expected {CLOSE}, got {_excerpt(self.text, end)}"
            malformed = _MalformedError(ParseFailureKind.UNCLOSED, expected)
        self._fail(start, end, malformed)

    def _stray(self, start: int) -> None:
        malformed = _MalformedError(ParseFailureKind.UNCLOSED, f"expected {OPEN} before {CLOSE}, got none")
        self._fail(start, self.place, malformed)

    def _think(self, start: int) -> None:
        end = self.text.find(END_THINK, self.place)
        self.place = len(self.text) if end < 0 else end + len(END_THINK)
        self.answer_start = self.place
        self.prose.append(self.text[start : self.place])

    def _end_think(self, start: int) -> None:
        if self.answer_start == 0:  # the prompt had opened the thinking: all so far was thought, not said
            self.calls.clear()
            self.failures.clear()
            self.prose = [self.text[:start]]
            self.answer_start = self.place
        self.prose.append(END_THINK)

    def _untagged(self) -> None:
        """The whole answer is the JSON of a call without its tags: a slip, not prose."""
        answer = self.text[self.answer_start :]
        start = self.answer_start + _skip_space(answer, 0)
        try:
            body, end = _JSON.raw_decode(self.text, start)
        except (ValueError, RecursionError):
            return
        if isinstance(body, dict) and {"name", "arguments"} <= body.keys() and not self.text[end:].strip():
            self.prose = [self.text[: self.answer_start]]
            expected = f"expected the call between {OPEN} and {CLOSE}, got bare JSON"
            self._fail(start, end, _MalformedError(ParseFailureKind.NOT_A_CALL, expected))


def _decode(text: str, start: int) -> tuple[Any, int]:
    """The JSON that begins at `start`, and where its block ends. Read first, because a string in it may hold a tag."""
    try:
        body, end = _JSON.raw_decode(text, _skip_space(text, start))
    except (ValueError, RecursionError) as error:
        raise _MalformedError(ParseFailureKind.JSON, f"expected JSON, got {_cause(error)}") from error
    if not is_shallow(body):
        raise _MalformedError(ParseFailureKind.JSON, f"expected JSON, got {_TOO_DEEP}")
    end = _skip_space(text, end)
    if not text.startswith(CLOSE, end):
        raise _MalformedError(ParseFailureKind.JSON, f"expected {CLOSE} after the JSON, got {_excerpt(text, end)}")
    return body, end + len(CLOSE)


def _as_call(body: Any) -> ToolCall:
    if not isinstance(body, dict):
        raise _MalformedError(ParseFailureKind.NOT_A_CALL, f"expected an object with a name, got {_type(body)}")
    name, arguments = body.get("name"), body.get("arguments", _MISSING)
    if not isinstance(name, str) or not name:
        got = _type(body.get("name", _MISSING)) if name != "" else "an empty one"
        raise _MalformedError(ParseFailureKind.NOT_A_CALL, f"expected a string `name`, got {got}")
    if not isinstance(arguments, dict):
        raise _MalformedError(
            ParseFailureKind.ARGUMENTS, f"expected `arguments` to be an object, got {_type(arguments)}"
        )
    if not _encodable(body):
        raise _MalformedError(ParseFailureKind.JSON, "expected Unicode text, got half of a surrogate pair")
    return ToolCall(name=name, arguments=arguments)


def _encodable(body: Any) -> bool:
    """A lone surrogate, which JSON can escape, fits neither a tokenizer nor a file."""
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _finite(literal: str) -> float:
    number = float(literal)
    if not math.isfinite(number):
        raise ValueError(f"a number out of range, {literal[:_EXCERPT]}")
    return number


def _no_constant(literal: str) -> NoReturn:
    raise ValueError(f"{literal}, which JSON does not have")


_JSON = json.JSONDecoder(parse_float=_finite, parse_constant=_no_constant)
_TOO_DEEP = "JSON nested too deeply"
_MISSING = object()
_TYPES = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null", object: "none"}


def _type(value: Any) -> str:
    return _TYPES.get(type(value), "a number")


def _cause(error: ValueError | RecursionError) -> str:
    match error:
        case json.JSONDecodeError():
            return f"{error.msg!r} at character {error.pos}"
        case RecursionError():
            return _TOO_DEEP
        case _:
            return str(error)


def _skip_space(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return found.end() if found else start


def _excerpt(text: str, start: int) -> str:
    return repr(text[start : start + _EXCERPT]) if start < len(text) else "the end of the text"
