"""Wrong versions of a right call, by kind: what small models really do, drawn with a seed.

The kinds follow the corruption table measured on the official Base entries. A wrong call is only a proposal: whoever
uses one executes it and keeps it if the world answers with an explicit error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any

from fission_grpo.environments.schema import find_tool
from fission_grpo.tasks.synthesis.families import vocabulary
from fission_grpo.types import Tool, ToolCall


class Corruption(StrEnum):
    """In what way a call is wrong."""

    UNKNOWN_NAME = "unknown_name"
    SIBLING_NAME = "sibling_name"
    """The name of another tool on offer, with the same arguments."""
    MISSING_ARGUMENT = "missing_argument"
    UNEXPECTED_ARGUMENT = "unexpected_argument"
    RENAMED_ARGUMENT = "renamed_argument"
    WRONG_TYPE = "wrong_type"
    MADE_UP_VALUE = "made_up_value"
    OTHER_VALUE = "other_value"
    """A value of the right type that belongs elsewhere in the task."""
    PATH = "path"
    """A path where a bare name is wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallCorrupter:
    """A right call with what it takes to make it wrong."""

    call: ToolCall
    tools: Sequence[Tool]
    others: Sequence[Any]
    """Values of other gold calls of the task."""
    rng: Random

    def argument(self, kinds: type | tuple[type, ...] = object) -> str | None:
        """Name of a random argument whose value is of these kinds; booleans only count as themselves."""
        wanted = [
            name
            for name, value in self.call.arguments.items()
            if isinstance(value, kinds) and (kinds in (object, bool) or not isinstance(value, bool))
        ]
        return self.rng.choice(wanted) if wanted else None

    def having(self, name: str, value: Any) -> ToolCall:
        """The call with one argument set."""
        return ToolCall(name=self.call.name, arguments={**self.call.arguments, name: value})


def corrupt(
    call: ToolCall, kind: Corruption, *, tools: Sequence[Tool], others: Sequence[Any] = (), rng: Random
) -> ToolCall | None:
    """A wrong version of a gold call; None where the kind does not apply to it.

    Args:
        call: the right call.
        kind: in what way to corrupt it.
        tools: the tools on offer.
        others: values that the task mentions elsewhere.
        rng: every choice is drawn from it.
    """
    corrupted = _CORRUPTERS[kind](CallCorrupter(call=call, tools=tools, others=others, rng=rng))
    return None if corrupted is None or corrupted == call else corrupted


def _unknown_name(corrupter: CallCorrupter) -> ToolCall | None:
    name = corrupter.call.name
    verbs = ("do", "run", "make", "get")
    guesses = [f"{corrupter.rng.choice(verbs)}_{name}", f"{name}_now", name.replace("_", "") + "s", name.swapcase()]
    taken = {tool["function"]["name"] for tool in corrupter.tools}
    free = [guess for guess in guesses if guess not in taken]
    return ToolCall(name=corrupter.rng.choice(free), arguments=corrupter.call.arguments)


def _sibling_name(corrupter: CallCorrupter) -> ToolCall | None:
    names = [tool["function"]["name"] for tool in corrupter.tools if tool["function"]["name"] != corrupter.call.name]
    return ToolCall(name=corrupter.rng.choice(names), arguments=corrupter.call.arguments) if names else None


def _missing_argument(corrupter: CallCorrupter) -> ToolCall | None:
    tool = find_tool(corrupter.call.name, corrupter.tools)
    required = tool["function"]["parameters"].get("required", ()) if tool else ()
    present = [name for name in required if name in corrupter.call.arguments]
    if not present:
        return None
    dropped = corrupter.rng.choice(present)
    kept = {name: value for name, value in corrupter.call.arguments.items() if name != dropped}
    return ToolCall(name=corrupter.call.name, arguments=kept)


def _unexpected_argument(corrupter: CallCorrupter) -> ToolCall | None:
    name, value = corrupter.rng.choice((("verbose", True), ("force", True), ("confirm", "yes"), ("limit", 1)))
    return None if name in corrupter.call.arguments else corrupter.having(name, value)


def _renamed_argument(corrupter: CallCorrupter) -> ToolCall | None:
    old = corrupter.argument()
    if old is None:
        return None
    new = corrupter.rng.choice((f"{old}_value", f"the_{old}", old[0], old.split("_")[-1] + "_name"))
    arguments = {new if name == old else name: value for name, value in corrupter.call.arguments.items()}
    return ToolCall(name=corrupter.call.name, arguments=arguments)


def _wrong_type(corrupter: CallCorrupter) -> ToolCall | None:
    name = corrupter.argument()
    return None if name is None else corrupter.having(name, _other_type(corrupter.call.arguments[name], corrupter.rng))


def _other_type(value: Any, rng: Random) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return rng.choice((str(value), [value]))
    return rng.choice((rng.randint(1, 99), [value])) if isinstance(value, str) else str(value)


def _made_up_value(corrupter: CallCorrupter) -> ToolCall | None:
    name = corrupter.argument((str, int, float))
    if name is None:
        return None
    value = corrupter.call.arguments[name]
    if isinstance(value, str):
        return corrupter.having(name, vocabulary.phrase(corrupter.rng, 1, 2))
    return corrupter.having(name, corrupter.rng.choice((value + 1000, -value)))


def _other_value(corrupter: CallCorrupter) -> ToolCall | None:
    name = corrupter.argument((str, int, float))
    if name is None:
        return None
    value = corrupter.call.arguments[name]
    fitting = [other for other in corrupter.others if type(other) is type(value) and other != value]
    return corrupter.having(name, corrupter.rng.choice(fitting)) if fitting else None


def _path(corrupter: CallCorrupter) -> ToolCall | None:
    name = corrupter.argument(str)
    if name is None:
        return None
    value = corrupter.call.arguments[name]
    folder = corrupter.rng.choice(vocabulary.NOUNS)
    return corrupter.having(name, corrupter.rng.choice((f"./{value}", f"{folder}/{value}", f"/{value}")))


_CORRUPTERS: Mapping[Corruption, Callable[[CallCorrupter], ToolCall | None]] = {
    Corruption.UNKNOWN_NAME: _unknown_name,
    Corruption.SIBLING_NAME: _sibling_name,
    Corruption.MISSING_ARGUMENT: _missing_argument,
    Corruption.UNEXPECTED_ARGUMENT: _unexpected_argument,
    Corruption.RENAMED_ARGUMENT: _renamed_argument,
    Corruption.WRONG_TYPE: _wrong_type,
    Corruption.MADE_UP_VALUE: _made_up_value,
    Corruption.OTHER_VALUE: _other_value,
    Corruption.PATH: _path,
}
