"""Rewards that the user has as Python functions, by TRL's signature: beside ours, or in place of them.

    def polite(prompts, completions, **columns) -> list[float]: ...

A function gets the siblings of one group at a time: `prompts` and `completions` as messages (tool messages included),
`completion_ids`, and a list for each column of their task. For a recovery, `prompts` end with the failed call and its
feedback, and `completions` hold the recovery alone. None says that a reward does not apply.
"""

from __future__ import annotations

import inspect
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from pydantic import Field, field_validator, model_validator

from fission_grpo.algorithm.groups import Member
from fission_grpo.algorithm.judge import SiblingsJudge
from fission_grpo.algorithm.rewards import Reward, RewardTerm
from fission_grpo.environments.dialogue import call_record
from fission_grpo.errors import ConfigError, RolloutError, ToolError, boundary
from fission_grpo.rollout import Horizon, Trajectory
from fission_grpo.settings import Settings
from fission_grpo.types import Task, Turn

Gather: TypeAlias = Callable[[list[Any]], list[Any]]
"""Makes values of what functions returned, which may have to be awaited."""
_BY_THE_USER = "by the user's own code"


class FunctionRewards(Settings):
    """Rewards of the user's own, and what becomes of ours."""

    functions: tuple[str, ...] = ()
    """`package.module:name` of each."""
    weights: tuple[float, ...] = ()
    """One for each function; none is 1 for all."""
    ours: float = Field(default=1.0, ge=0)
    """Weight of our own reward beside them; 0 leaves it out. Success and failure are still said by world and gold."""

    @field_validator("functions", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fit_together(self) -> FunctionRewards:
        if self.weights and len(self.weights) != len(self.functions):
            raise ValueError(f"reward.weights has {len(self.weights)} values for {len(self.functions)} functions")
        if not self.functions and self.ours != 1.0:
            raise ValueError("reward.ours weighs our reward beside reward.functions, and there are none")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardFunction:
    """One of the user's, with its name and weight in the log."""

    name: str
    weight: float
    call: Callable[..., Any]


def function_terms(
    functions: Sequence[RewardFunction],
    trajectories: Sequence[Trajectory],
    *,
    columns: Mapping[str, Sequence[Any]],
    gather: Gather,
) -> list[tuple[RewardTerm, ...]]:
    """What the functions say about some trajectories of one context: a term for each function that applies.

    Args:
        columns: what the functions get beside prompts and completions; those that a function does not take are not
            given to it.

    Raises:
        ConfigError: a function raised, or returned something else than a finite number or None for each trajectory.
    """
    if not trajectories:
        return []
    arguments = {
        **columns,
        "prompts": [list(one.given) for one in trajectories],
        "completions": [list(one.dialogue(len(one.turns))[len(one.given) :]) for one in trajectories],
        "completion_ids": [list(one.ids[one.prompt :]) for one in trajectories],
    }
    asked = [_asked(function, arguments) for function in functions]
    said = [
        _checked(function, values, len(trajectories))
        for function, values in zip(functions, _gathered(functions, asked, gather), strict=True)
    ]
    return [
        tuple(
            RewardTerm(name=function.name, value=value, weight=function.weight, why=_BY_THE_USER)
            for function, values in zip(functions, said, strict=True)
            if (value := values[place]) is not None
        )
        for place in range(len(trajectories))
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeWithFunctions:
    """A judge of ours, and functions of the user's whose values are added to its reward."""

    judge: SiblingsJudge
    functions: tuple[RewardFunction, ...]
    ours: float
    """Weight of the judge's own reward."""
    gather: Gather

    def siblings(
        self, trajectories: Sequence[Trajectory], *, horizon: Horizon, progress: float, before: Sequence[Turn] = ()
    ) -> list[Member]:
        """See `SiblingsJudge`. A trajectory that a fault of ours touched is shown to no function.

        Raises:
            ConfigError: see `function_terms`.
        """
        members = self.judge.siblings(trajectories, horizon=horizon, progress=progress, before=before)
        scored = [member.trajectory for member in members if member.reward is not None]
        columns = [columns_of(one.task) for one in scored]
        named = {name: [one[name] for one in columns] for name in (columns[0] if columns else {})}
        terms = iter(function_terms(self.functions, scored, columns=named, gather=self.gather))
        return [
            member if member.reward is None else self._with(member, member.reward, next(terms)) for member in members
        ]

    def _with(self, member: Member, reward: Reward, terms: tuple[RewardTerm, ...]) -> Member:
        """The same with more terms; scales become part of the weights, so that these say what each term adds."""
        own = (
            [replace(term, weight=self.ours * reward.scale * term.weight) for term in reward.terms] if self.ours else []
        )
        return replace(member, reward=Reward(terms=(*own, *terms), scale=1.0) if own or terms else None)


def columns_of(task: Task) -> dict[str, Any]:
    """What a function is told of a task: `id`, `tools`, `gold` (what is right next), `turns`, `world`, its `meta`."""
    return {
        **task.meta,
        "id": task.id,
        "tools": [dict(tool) for tool in task.tools],
        "gold": [call_record(call) for call in task.target],
        "turns": [[call_record(call) for call in turn] for turn in task.gold],
        "world": None if task.world is None else dict(task.world.config),
    }


def _asked(function: RewardFunction, arguments: Mapping[str, Any]) -> Any:
    try:
        with boundary(RolloutError, function.name):
            return function.call(**_taken(function.call, arguments))
    except (RolloutError, ToolError) as fault:
        raise _raised(function, fault) from fault


def _gathered(functions: Sequence[RewardFunction], asked: list[Any], gather: Gather) -> list[Any]:
    names = ", ".join(function.name for function in functions)
    try:
        with boundary(RolloutError, names):
            return gather(asked)
    except (RolloutError, ToolError) as fault:
        raise ConfigError(f"the reward function {fault}; correct it there") from fault


def _raised(function: RewardFunction, fault: Exception) -> ConfigError:
    """What a function raised, and where."""
    cause = fault.__cause__ or fault
    place = traceback.extract_tb(cause.__traceback__)[-1]
    return ConfigError(
        f"the reward function {function.name} raised {type(cause).__name__}: {cause} "
        f"({place.filename} line {place.lineno}); correct it there"
    )


def _taken(call: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments that a function takes; all, where it takes any."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):  # a callable that does not say what it takes
        return dict(arguments)
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return dict(arguments)
    return {parameter.name: arguments[parameter.name] for parameter in parameters if parameter.name in arguments}


def _checked(function: RewardFunction, values: Any, count: int) -> list[float | None]:
    expected = f"expected {count} numbers, one for each completion, or None where it does not apply"
    try:
        found = list(values)
    except TypeError as error:
        raise ConfigError(f"the reward function {function.name} returned {values!r:.60}; {expected}") from error
    if len(found) != count:
        raise ConfigError(f"the reward function {function.name} returned {len(found)} rewards; {expected}")
    return [None if value is None else _number(function, value, expected) for value in found]


def _number(function: RewardFunction, value: Any, expected: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"the reward function {function.name} returned {value!r:.60} among its rewards; {expected}")
    return number
