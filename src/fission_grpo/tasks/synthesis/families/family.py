"""What a request family is: something a user may ask of one API, and how to draw it.

A family draws a `Part`: the values that its wordings name, and the gold calls that fetch what is asked. What the world
must be like first is a `Need`: half of the time it is not met, and nothing in the prompt tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from fission_grpo.types import ToolCall

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Scene:
    """The initial state of one API while it is being drawn."""

    rng: Random
    state: dict[str, Any]
    """Becomes `World.config["initial"][api]`."""
    taken: set[Any] = field(default_factory=set)
    """Things that a part already talks about: another part must not."""

    def take(self, things: Sequence[T]) -> T:
        """One of `things` that nothing in this scene talks about yet.

        Raises:
            Unfit: all of them are taken.
        """
        free = [thing for thing in things if thing not in self.taken]
        if not free:
            raise Unfit
        thing = self.rng.choice(free)
        self.taken.add(thing)
        return thing


class Unfit(Exception):  # noqa: N818 - a signal between a family and the synthesiser, never anyone's error
    """This drawing does not work out (nothing left to talk about, wrong length): draw another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One thing that the user asks for, or one thing that must be done first."""

    slots: Mapping[str, Any]
    """Values that the wording names."""
    calls: tuple[ToolCall, ...]
    """Gold calls, in order; empty when there is nothing to do."""


def call(name: str, /, **arguments: Any) -> ToolCall:
    """A tool call, written as one reads it."""
    return ToolCall(name=name, arguments=arguments)


def one_call(name: str, /, **arguments: Any) -> Part:
    """A part that is one call and whose wording names all its arguments."""
    return Part(slots=arguments, calls=(call(name, **arguments),))


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
class Need:
    """What the world must be like before a part can succeed."""

    name: str
    notes: Wordings
    """Sentences that tell whatever a repair takes: always in the prompt, whether or not it is needed."""
    fixers: tuple[str, ...]
    """Tools that a repair may take: always on offer."""
    arrange: Callable[[Scene, Part, bool], Part]
    """Make the need met or (True) unmet in the scene; the part is what has to be done first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One kind of request."""

    name: str
    wordings: Wordings
    draw: Callable[[Scene], Part]
    needs: tuple[Need, ...] = ()
    topic: str = ""
    """Families of one topic get in each other's way and never meet in one task; empty: its own name."""
    weight: float = 1.0
    """How often it is drawn, relative to its siblings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """All families over one official class."""

    name: str
    scene: Callable[[Random], dict[str, Any]]
    """A random initial state from our own vocabulary."""
    families: tuple[Family, ...]


def literal(value: object) -> str:
    """A value as a request shows it: text in double quotes as in JSON, numbers bare, lists joined by commas."""
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return ", ".join(literal(item) for item in value)
    return repr(value)
