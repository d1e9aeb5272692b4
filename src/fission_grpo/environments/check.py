"""What any environment must be able to do before a policy is trained in it, tried out on one task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

from fission_grpo.environments.base import Environment, Snapshot
from fission_grpo.environments.dialogue import remaining_gold
from fission_grpo.environments.validation import schema_problems
from fission_grpo.errors import EnvironmentFault, FissionError, ToolError, boundary
from fission_grpo.types import Task, ToolCall

NO_SUCH_NAME = "no_such_name_anywhere"
"""Stands for a tool, and for an argument, that no world has."""


def check_environment(environment: Environment, task: Task) -> list[str]:
    """Everything that is wrong with an environment as far as this task can show it; empty when it is fit.

    The world is reset many times and left in no particular state. A task without gold shows little.
    """
    problems: list[str] = []
    for name, check in CHECKS.items():
        try:
            with boundary(EnvironmentFault, "unexpected exception"):
                problems += [f"{name}: {problem}" for problem in check(environment, task)]
        except (FissionError, ToolError) as error:
            problems.append(f"{name}: {type(error).__name__}: {error}")
    return problems


def _tools_are_json_schema(environment: Environment, task: Task) -> Iterator[str]:
    environment.reset(task)
    names = [tool["function"]["name"] for tool in environment.tools]
    if not names:
        yield "no tools are on offer"
    if len(set(names)) < len(names):
        yield f"two tools share a name: {', '.join(names)}"
    for tool in environment.tools:
        yield from _schema_problems(tool["function"])


def _schema_problems(function: Mapping[str, Any]) -> Iterator[str]:
    parameters = function.get("parameters", {})
    if parameters.get("type") != "object":
        yield f"{function['name']}: parameters have type {parameters.get('type')!r}; expected 'object'"
    yield from (f"{function['name']}: {problem}" for problem in schema_problems(parameters))


def _reset_is_deterministic(environment: Environment, task: Task) -> Iterator[str]:
    first = _begin(environment, task)
    environment.execute(ToolCall(name=NO_SUCH_NAME, arguments={}))
    if _begin(environment, task) != first:
        yield "two resets to one task give different states"


def _snapshots_hold(environment: Environment, task: Task) -> Iterator[str]:
    """Every state of the gold walk is restored from its snapshot, twice, after all later calls have been made."""
    for place in _gold_walk(environment, task):
        for time_ in ("first", "second"):
            environment.restore(place.snapshot)
            if environment.state_hash() != place.state:
                yield f"after {place.after}: the {time_} restore gives another state"
            environment.execute(ToolCall(name=NO_SUCH_NAME, arguments={}))


def _the_future_repeats(environment: Environment, task: Task) -> Iterator[str]:
    """From each restored state the next step of the gold walk leads where it led before."""
    places = _gold_walk(environment, task)
    for here, there in pairwise(places):
        environment.restore(here.snapshot)
        there.step(environment)
        if environment.state_hash() != there.state:
            yield f"{there.after}, repeated from a snapshot, leads to another state"


def _score_is_pure(environment: Environment, task: Task) -> Iterator[str]:
    for place in _gold_walk(environment, task):
        environment.restore(place.snapshot)
        if environment.score() != environment.score():
            yield f"after {place.after}: two scores differ"
        if environment.state_hash() != place.state:
            yield f"after {place.after}: scoring changed the state"


def _gold_solves_the_task(environment: Environment, task: Task) -> Iterator[str]:
    if not task.gold:  # a world that judges itself need not know the way
        return
    _gold_walk(environment, task)
    verdict = environment.score()
    if not verdict.ok:
        yield f"the gold calls are judged wrong: {verdict.error_type} {verdict.detail}".rstrip()


def _mistakes_are_outcomes(environment: Environment, task: Task) -> Iterator[str]:
    environment.reset(task)
    for name in (NO_SUCH_NAME, *(tool["function"]["name"] for tool in environment.tools)):
        outcome = environment.execute(ToolCall(name=name, arguments={NO_SUCH_NAME: None}))
        if not outcome.is_error or outcome.error is None:
            yield f"{name}({NO_SUCH_NAME}=null) is answered with {outcome.kind}, {outcome.error}; expected an error"
        if not outcome.text:
            yield f"{name}({NO_SUCH_NAME}=null): the error has no text"


_Check: TypeAlias = Callable[[Environment, Task], Iterator[str]]
CHECKS: Mapping[str, _Check] = {
    "tools": _tools_are_json_schema,
    "reset": _reset_is_deterministic,
    "mistakes": _mistakes_are_outcomes,
    "snapshot": _snapshots_hold,
    "replay": _the_future_repeats,
    "score": _score_is_pure,
    "gold": _gold_solves_the_task,
}
"""What is tried, in order; each line of a report begins with one of these names."""


class _Place(NamedTuple):
    """A state on the way of the gold calls."""

    after: str
    step: Callable[[Environment], object]
    state: str
    snapshot: Snapshot


def _begin(environment: Environment, task: Task) -> str:
    environment.reset(task)
    return environment.state_hash()


def _gold_walk(environment: Environment, task: Task) -> list[_Place]:
    """Make all gold calls that the dialogue leaves to make; every state on the way, the first one included."""
    environment.reset(task)
    places = [_Place("reset", lambda world: None, environment.state_hash(), environment.snapshot())]
    for index, calls in enumerate(remaining_gold(task)):
        steps = [_step(call) for call in calls]
        for after, step in [*([("next turn", _next_turn)] if index else []), *steps]:
            step(environment)
            places.append(_Place(after, step, environment.state_hash(), environment.snapshot()))
    return places


def _step(call: ToolCall) -> tuple[str, Callable[[Environment], object]]:
    return f"{call.name}({dict(call.arguments)})", lambda world: world.execute(call)


def _next_turn(environment: Environment) -> None:
    environment.next_turn()
