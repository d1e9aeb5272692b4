"""Seeded corruptions of gold episodes: the ways in which a policy goes wrong, one at a time."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from fission_grpo.environments.bfcl.environment import BFCL_CLASSES
from fission_grpo.environments.bfcl.official import methods_of
from fission_grpo.types import Task, ToolCall

Turns: TypeAlias = list[list[ToolCall]]


@dataclass(frozen=True, slots=True)
class Scene:
    """What a corruption may look at."""

    classes: tuple[str, ...]
    strings: tuple[str, ...]
    """Every string argument of the episode."""


Corruption: TypeAlias = Callable[[random.Random, ToolCall, Scene], ToolCall | None]
"""A wrong version of a call, or None where it does not apply."""


def _with(call: ToolCall, **changes: Any) -> ToolCall:
    return ToolCall(name=call.name, arguments={**call.arguments, **changes})


def _without(call: ToolCall, *names: str) -> ToolCall:
    return ToolCall(name=call.name, arguments={k: v for k, v in call.arguments.items() if k not in names})


def _required(call: ToolCall, scene: Scene) -> list[str]:
    owner = next(name for name in scene.classes if call.name in methods_of(name))
    parameters = methods_of(owner)[call.name].parameters
    return [name for name in call.arguments if parameters[name].default is parameters[name].empty]


def unknown_name(rng: random.Random, call: ToolCall, scene: Scene) -> ToolCall | None:
    return ToolCall(name=call.name + "_item", arguments=call.arguments)


def name_of_other_class(rng: random.Random, call: ToolCall, scene: Scene) -> ToolCall | None:
    other = rng.choice([name for name in BFCL_CLASSES if name not in scene.classes])
    return ToolCall(name=rng.choice(sorted(methods_of(other))), arguments=call.arguments)


def sibling_function(rng: random.Random, call: ToolCall, scene: Scene) -> ToolCall | None:
    owner = next(name for name in scene.classes if call.name in methods_of(name))
    return ToolCall(name=rng.choice(sorted(methods_of(owner).keys() - {call.name})), arguments=call.arguments)


def required_missing(rng: random.Random, call: ToolCall, scene: Scene) -> ToolCall | None:
    required = _required(call, scene)
    return _without(call, rng.choice(required)) if required else None


def all_missing(rng: random.Random, call: ToolCall, scene: Scene) -> ToolCall | None:
    return ToolCall(name=call.name, arguments={}) if call.arguments else None


def optional_dropped(rng: random.Random, call: ToolCall, scene: Scene) -> ToolCall | None:
    optional = sorted(call.arguments.keys() - set(_required(call, scene)))
    return _without(call, rng.choice(optional)) if optional else None


def extra_parameter(rng: random.Random, call: ToolCall, scene: Scene) -> ToolCall | None:
    return _with(call, verbose=True)


def renamed_parameter(rng: random.Random, call: ToolCall, scene: Scene) -> ToolCall | None:
    if not call.arguments:
        return None
    name = rng.choice(sorted(call.arguments))
    return ToolCall(name=call.name, arguments={name + "_x" if k == name else k: v for k, v in call.arguments.items()})


def _value(kinds: tuple[type, ...], change: Callable[[random.Random, Any, Scene], Any]) -> Corruption:
    def corrupt(rng: random.Random, call: ToolCall, scene: Scene) -> ToolCall | None:
        names = sorted(name for name, value in call.arguments.items() if type(value) in kinds)
        if not names:
            return None
        name = rng.choice(names)
        return _with(call, **{name: change(rng, call.arguments[name], scene)})

    return corrupt


_ANY, _NUMBER = (str, int, float, bool, list), (int, float)
_GROSS: Mapping[type, Any] = {str: 7, int: "seven", float: "seven", bool: "seven", list: "seven"}

CALL_CORRUPTIONS: Mapping[str, Corruption] = {
    "unknown name": unknown_name,
    "name of other class": name_of_other_class,
    "sibling function": sibling_function,
    "required missing": required_missing,
    "all missing": all_missing,
    "optional dropped": optional_dropped,
    "extra parameter": extra_parameter,
    "renamed parameter": renamed_parameter,
    "gross type": _value(_ANY, lambda rng, value, scene: _GROSS[type(value)]),
    "none value": _value(_ANY, lambda rng, value, scene: None),
    "number as string": _value(_NUMBER, lambda rng, value, scene: str(value)),
    "number as float": _value((int,), lambda rng, value, scene: float(value)),
    "number + 1000": _value(_NUMBER, lambda rng, value, scene: value + 1000),
    "number negative": _value(_NUMBER, lambda rng, value, scene: -value),
    "made-up string": _value((str,), lambda rng, value, scene: f"made_up_{rng.randrange(100)}"),
    "other string": _value((str,), lambda rng, value, scene: rng.choice(scene.strings)),
    "lower case": _value((str,), lambda rng, value, scene: value.lower()),
    "path for name": _value((str,), lambda rng, value, scene: f"folder/{value}"),
    "list shortened": _value((list,), lambda rng, value, scene: value[:-1]),
    "boolean flipped": _value((bool,), lambda rng, value, scene: not value),
}
"""Substitutions of one call."""


def _omit(turns: Turns, turn: int, place: int) -> None:
    del turns[turn][place]


def _duplicate(turns: Turns, turn: int, place: int) -> None:
    turns[turn].insert(place, turns[turn][place])


def _swap(turns: Turns, turn: int, place: int) -> None:
    calls = turns[turn]
    other = (place + 1) % len(calls)
    calls[place], calls[other] = calls[other], calls[place]


def _empty(turns: Turns, turn: int, place: int) -> None:
    turns[turn].clear()


def _one_turn_early(turns: Turns, turn: int, place: int) -> None:
    if turn:
        turns[turn - 1].extend(turns[turn])
        turns[turn].clear()


EPISODE_CORRUPTIONS: Mapping[str, Callable[[Turns, int, int], None]] = {
    "omitted": _omit,
    "duplicated": _duplicate,
    "swapped": _swap,
    "empty turn": _empty,
    "one turn early": _one_turn_early,
}
"""Changes of the order and number of calls."""

REPAIR_SHARE = 0.3
"""Share of wrong calls that are followed by the right one."""


def corrupted(rng: random.Random, task: Task) -> tuple[str, Turns]:
    """A gold episode with one corruption, and the kind of it."""
    turns: Turns = [list(calls) for calls in task.gold]
    return corrupt(rng, task, turns), turns


def corrupt(rng: random.Random, task: Task, turns: Turns) -> str:
    """Make one thing wrong in an episode of gold calls, right or wrong so far; the kind of it."""
    places = [(turn, place) for turn, calls in enumerate(turns) for place in range(len(calls))]
    while True:
        turn, place = rng.choice(places)
        kind = rng.choice([*CALL_CORRUPTIONS, *EPISODE_CORRUPTIONS])
        if kind in EPISODE_CORRUPTIONS:
            EPISODE_CORRUPTIONS[kind](turns, turn, place)
            return kind
        call = turns[turn][place]
        if (wrong := CALL_CORRUPTIONS[kind](rng, call, _scene(task))) is not None:
            turns[turn][place : place + 1] = [wrong, call] if rng.random() < REPAIR_SHARE else [wrong]
            return kind


def _scene(task: Task) -> Scene:
    values = (value for calls in task.gold for call in calls for value in call.arguments.values())
    strings = sorted({value for value in values if isinstance(value, str)})
    return Scene(classes=tuple(task.meta["apis"]), strings=tuple(strings) or ("other",))


def source(call: ToolCall) -> str:
    """A call as the official executor wants it."""
    return f"{call.name}({', '.join(f'{key}={value!r}' for key, value in call.arguments.items())})"


def played(turns: Sequence[Sequence[ToolCall]]) -> list[list[str]]:
    """An episode as the official checker wants it."""
    return [[source(call) for call in calls] for calls in turns]
