"""The default simulator: deterministic feedback from the tools' schemas, the call and the world's own words.

It departs from the paper's learned simulator (arXiv:2601.15625, stage 2) in that it never sees the reference, so it
cannot leak one. An error text of the world comes first and stays as it is, so that training and use speak with one
voice; a hint follows only where the schema knows more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, TypeAlias

from fission_grpo.environments.schema import argument_schemas, describe_arguments, explain_problems, find_tool
from fission_grpo.errors import ConfigError, SimulatorError, boundary
from fission_grpo.files import parse_json
from fission_grpo.simulator.base import ErrorSimulator, FailedCall, Feedback
from fission_grpo.types import ErrorClass, Message, OutcomeKind, ParseFailure, ParseFailureKind, ToolCall, ToolOutcome

UNDONE = "what was asked for is not done"
NO_CALL = f"error: no tool was called, and {UNDONE}."
CUT_OFF_TEXT = "error: the message was cut off at the token limit before it ended."
_SHORT = 3
_FORM = '{"name": ..., "arguments": {...}}'
FORMAT_HINTS: Mapping[ParseFailureKind, str] = {
    ParseFailureKind.JSON: f"the text between the tags must be one JSON object: {_FORM}",
    ParseFailureKind.NOT_A_CALL: f"a call is a JSON object between the tags with a name: {_FORM}",
    ParseFailureKind.ARGUMENTS: f"arguments must be a JSON object of names and values: {_FORM}",
    ParseFailureKind.UNCLOSED: f"every call needs its opening and its closing tag around {_FORM}",
}


class RulesSimulator(ErrorSimulator):
    """Says what is wrong as far as schema, call and world can tell, never what would be right."""

    name = "rules"

    def diagnose(self, failed: Sequence[FailedCall]) -> list[Feedback]:
        """One diagnosis each; the same failed call always gets the same one.

        Raises:
            SimulatorError: the tools of a failed call are not valid JSON Schema.
        """
        try:
            with boundary(SimulatorError, "rules"):
                return [Feedback(texts=_texts(one), origin=self.name) for one in failed]
        except ConfigError as error:  # a schema that cannot be used
            raise SimulatorError(f"rules: {error}") from error


def _texts(failed: FailedCall) -> tuple[str, ...]:
    cut_off = failed.error is ErrorClass.FORMAT and not failed.parsed.failures
    if failed.parsed.failures:
        return (_malformed(failed),)
    if not failed.parsed.calls:
        return (CUT_OFF_TEXT if cut_off else NO_CALL,)
    pairs = zip_longest(failed.parsed.calls, failed.outcomes[: len(failed.parsed.calls)])
    *first, last = [_reply(call, outcome, failed) for call, outcome in pairs]
    return (*first, f"{last}\n{CUT_OFF_TEXT}" if cut_off else last)


def _malformed(failed: FailedCall) -> str:
    """What is broken and where, then the form that the worst of the blocks should have had."""
    broken = failed.parsed.failures[0]
    hint = FORMAT_HINTS[broken.kind]
    if failed.outcomes:
        return _with_hint(failed.outcomes[0].text, hint)
    return _with_hint("; ".join(map(_place, failed.parsed.failures)), hint)


def _place(broken: ParseFailure) -> str:
    return f"error: malformed tool call at character {broken.start}: {broken.detail}"


def _reply(call: ToolCall, outcome: ToolOutcome | None, failed: FailedCall) -> str:
    problems = explain_problems(call, failed.tools)
    if outcome is None:
        return f"error: {problems}" if problems else _accepted(call, failed)
    if outcome.is_error:
        return _with_hint(outcome.text, problems or _refused(call, outcome, failed))
    if failed.error not in (ErrorClass.SILENT, ErrorClass.SOFT):
        return outcome.text  # another call of the message is to blame
    remark = next(filter(None, (rule(call, outcome, failed.messages) for rule in _REMARKS)))
    return f"{outcome.text}\n{remark}".lstrip()


def _accepted(call: ToolCall, failed: FailedCall) -> str:
    """No world, and nothing against the schema: only that it was not what was wanted."""
    return f"error: the call of {call.name} is well formed, but {UNDONE}. {describe_arguments(call.name, failed.tools)}"


def _with_hint(text: str, hint: str) -> str:
    return f"{text}\nhint: {hint}" if hint and hint not in text else text


def _refused(call: ToolCall, outcome: ToolOutcome, failed: FailedCall) -> str:
    """Which arguments to look at when the world refuses a value and names neither argument nor value.

    The words of its text are looked for in the names, then in the descriptions, of the arguments that were given.
    """
    tool = find_tool(call.name, failed.tools)
    text = outcome.text.lower()
    if tool is None or outcome.error not in (ErrorClass.NOT_FOUND, ErrorClass.ILLEGAL_VALUE):
        return ""
    if any(_spaced(name) in _spaced(text) or str(value).lower() in text for name, value in call.arguments.items()):
        return ""
    schemas = argument_schemas(tool)
    said = _stems(text)
    by_name = [name for name in call.arguments if said & _stems(name)]
    by_description = [n for n in call.arguments if said & _stems(schemas.get(n, {}).get("description", ""))]
    suspects = by_name or by_description or list(call.arguments)
    return f"look at {', '.join(map(repr, suspects))}" if suspects else ""


def _spaced(name: str) -> str:
    return name.lower().replace("_", " ")


_WORD = re.compile(r"[A-Z]?[a-z]+")
_SAYS_NOTHING = frozenset(
    {"available", "does", "error", "exist", "false", "format", "found", "given", "invalid", "name"}
)


def _stems(text: str) -> set[str]:
    """What a text speaks of: its longer words, without the ends that make a plural."""
    words = (word.lower() for word in _WORD.findall(text))
    return {re.sub(r"(ies|y|s)$", "", word) for word in words if len(word) > _SHORT and word not in _SAYS_NOTHING}


def _said_no(call: ToolCall, outcome: ToolOutcome, messages: Sequence[Message]) -> str | None:
    if outcome.kind is not OutcomeKind.SOFT_FAILURE:
        return None
    named = ", ".join(f"{key} is false" for key in refused(outcome.text))
    return f"The call succeeded, but its answer means no{f': {named}' if named else ''}."


def refused(answer: str) -> list[str]:
    """The fields of an answer that say no."""
    return [key for key, value in _as_object(answer).items() if value is False]


def _repeats(call: ToolCall, outcome: ToolOutcome, messages: Sequence[Message]) -> str | None:
    if was_made_before(call, messages):
        return f"The call succeeded, but the same call was made before, and {UNDONE}."
    return None


def was_made_before(call: ToolCall, messages: Sequence[Message]) -> bool:
    """Whether the dialogue holds this very call."""
    made = [made for message in messages for made in message.get("tool_calls") or ()]
    return any(_same(call, earlier["function"]) for earlier in made)


def _was_empty(call: ToolCall, outcome: ToolOutcome, messages: Sequence[Message]) -> str | None:
    return f"The call succeeded and returned nothing, but {UNDONE}." if is_empty(outcome.text) else None


def is_empty(answer: str) -> bool:
    """Whether an answer says nothing."""
    return answer.strip() in ("", "None", "null", "{}", "[]", '""')


def _was_not_it(call: ToolCall, outcome: ToolOutcome, messages: Sequence[Message]) -> str | None:
    return f"The call succeeded, but {UNDONE}."


_Remark: TypeAlias = Callable[[ToolCall, ToolOutcome, Sequence[Message]], str | None]
_REMARKS: tuple[_Remark, ...] = (_said_no, _repeats, _was_empty, _was_not_it)
"""What can be said of a call that succeeded and was wrong; the first remark that fits is made."""


def _same(call: ToolCall, function: Mapping[str, Any]) -> bool:
    """Whether an OpenAI call is this one; its arguments may be an object or the JSON text of one."""
    arguments = function.get("arguments")
    given = _as_object(arguments) if isinstance(arguments, str) else arguments
    return function.get("name") == call.name and given == call.arguments


def _as_object(text: str) -> Mapping[str, Any]:
    try:
        parsed = parse_json(text)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
