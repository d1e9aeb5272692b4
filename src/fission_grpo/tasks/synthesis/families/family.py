"""A request generator: one kind of thing that a user may ask of one API, and how to draw it.

A generator makes a `Draw`: the values that its wordings name, and the gold calls that fetch what is asked. What the
world must be like first is a `Setup`: half of the time it is lacking, and nothing in the prompt tells. The generators
of one API are a family, which has a module of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from fission_grpo.types import ToolCall

_T = TypeVar("_T")


@dataclass(slots=True, kw_only=True)
class InitialState:
    """The initial state of one API while a task is being drawn."""

    rng: Random
    state: dict[str, Any]
    """Becomes `World.config["initial"][api]`."""
    taken: set[Any] = field(default_factory=set)
    """Things that one request already talks about: another must not."""

    def take(self, things: Sequence[_T]) -> _T:
        """One of `things` that no request talks about yet.

        Raises:
            RejectedDraw: all of them are taken.
        """
        free = [thing for thing in things if thing not in self.taken]
        if not free:
            raise RejectedDraw
        thing = self.rng.choice(free)
        self.taken.add(thing)
        return thing


class RejectedDraw(Exception):  # noqa: N818 - a signal between a generator and the synthesis, never anyone's error
    """This draw does not work out (nothing left to talk about, wrong length): draw again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One thing that the user asks for, or one thing that must be done first, as drawn."""

    slots: Mapping[str, Any]
    """Values that the wording names."""
    calls: tuple[ToolCall, ...]
    """Gold calls, in order; empty when there is nothing to do."""


def call(name: str, /, **arguments: Any) -> ToolCall:
    """A tool call, written as one reads it."""
    return ToolCall(name=name, arguments=arguments)


def one_call(name: str, /, **arguments: Any) -> Draw:
    """A draw that is one call and whose wording names all its arguments."""
    return Draw(slots=arguments, calls=(call(name, **arguments),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wordings:
    """Templates of one meaning. Held-out ones only use words that some training one uses."""

    train: tuple[str, ...]
    heldout: tuple[str, ...]

    def draw(self, rng: Random, kinds: Sequence[str]) -> tuple[int, str]:
        """A template and its index in `train + heldout`; `kinds` is a choice of "train" and "heldout"."""
        first = 0 if "train" in kinds else len(self.train)
        last = len(self.train) + (len(self.heldout) if "heldout" in kinds else 0)
        index = rng.randrange(first, last)
        return index, (self.train + self.heldout)[index]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What the world must be like before a request can succeed."""

    name: str
    notes: Wordings
    """Sentences that tell whatever a repair takes: always in the prompt, whether or not it is needed."""
    fixers: tuple[str, ...]
    """Tools that a repair may take: always on offer."""
    arrange: Callable[[InitialState, Draw, bool], Draw]
    """Make the initial state meet it, or (True) lack it, for the request drawn; returns what has to be done first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestGenerator:
    """One kind of request."""

    name: str
    wordings: Wordings
    draw: Callable[[InitialState], Draw]
    setups: tuple[Setup, ...] = ()
    topic: str = ""
    """Generators of one topic get in each other's way and never meet in one task; empty: its own name."""
    weight: float = 1.0
    """How often it is drawn, relative to its siblings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """All requests over one official class."""

    name: str
    initial_state: Callable[[Random], dict[str, Any]]
    """A random initial state from our own vocabulary."""
    generators: tuple[RequestGenerator, ...]


def literal(value: object) -> str:
    """A value as a request shows it: text in double quotes as in JSON, numbers bare, lists joined by commas."""
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return ", ".join(literal(item) for item in value)
    return repr(value)
