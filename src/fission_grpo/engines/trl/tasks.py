"""Rows of TRL's data sets as tasks: rows that name a task of ours, and rows that an environment makes something of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

from fission_grpo.engines.trl.environment import Factory, ReplayedEnvironment, Stateless, WorldPool
from fission_grpo.environments.base import Environments
from fission_grpo.errors import ConfigError, EnvironmentFault
from fission_grpo.seeds import derive
from fission_grpo.types import Message, Task, World

Row: TypeAlias = Mapping[str, Any]
NO_PROMPT: tuple[Message, ...] = ({"role": "user", "content": ""},)
"""What a row without a prompt begins with: the environment's `reset` says the rest."""
ROUTE = "environment"
"""The column that chooses among several environments; `reset` does not get it."""


class TaskReader(Protocol):
    """What a data set's rows mean."""

    environments: Environments

    def read(self, rows: Sequence[Row], *, seed: int, name: str) -> list[Task]:
        """A task for each row.

        Args:
            seed: of the worlds.
            name: of this batch; the ids of tasks that have none of their own begin with it.
        """
        ...

    def release(self) -> None:
        """What the last tasks lived in may be used again."""
        ...


class KnownTasks:
    """Rows that name tasks of ours."""

    def __init__(self, tasks: Sequence[Task], environments: Environments) -> None:
        self.environments = environments
        self._tasks = {task.id: task for task in tasks}

    def read(self, rows: Sequence[Row], *, seed: int, name: str) -> list[Task]:
        return [self._tasks[row["prompt"][-1]["content"]] for row in rows]

    def release(self) -> None:
        """Nothing: each environment is made for one trajectory."""


def rows_naming(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """What `KnownTasks` reads, for TRL to shuffle and deal."""
    return [{"prompt": [{"role": "user", "content": task.id}]} for task in tasks]


class EnvironmentRows:
    """Rows of messages and columns, and the worlds that TRL's `environment_factory` or `tools` make of them."""

    def __init__(
        self, factories: Factory | Mapping[str, Factory] | None, functions: Sequence[Callable[..., Any]] = ()
    ) -> None:
        """Try every factory once.

        Raises:
            ConfigError: see `WorldPool`.
        """
        self._routed = isinstance(factories, Mapping)
        named: Mapping[str, Factory] = factories if isinstance(factories, Mapping) else _alone(factories, functions)
        self.pools = {name: WorldPool(factory, functions, name=name) for name, factory in named.items()}
        self.environments: Environments = MappingProxyType(
            {name: partial(ReplayedEnvironment, pool) for name, pool in self.pools.items()}
        )

    @property
    def reward_names(self) -> list[str]:
        """Of the worlds that reward themselves, each class once."""
        return list(dict.fromkeys(pool.reward_name for pool in self.pools.values() if pool.reward_name))

    def read(self, rows: Sequence[Row], *, seed: int, name: str) -> list[Task]:
        """A task for each row; its messages end with what `reset` says about it.

        Raises:
            ConfigError: a prompt is no list of messages, a row holds images, or names an environment that is not there.
        """
        return [
            self._task(row, seed=derive(seed, name, place), id_=f"{name}.{place}") for place, row in enumerate(rows)
        ]

    def release(self) -> None:
        for pool in self.pools.values():
            pool.take_back()

    def _task(self, row: Row, *, seed: int, id_: str) -> Task:
        messages, columns = _messages(row), dict(row)
        if not self.pools:
            return Task(id=id_, messages=messages, tools=(), meta={"row": columns})
        pool = self._pool(columns)
        try:
            observation = pool.observation(columns, seed=seed)
        except EnvironmentFault:  # told by each of the trajectories that begin there, and masked in them
            observation = ""
        last = {**messages[-1], "content": messages[-1]["content"] + observation}
        return Task(
            id=id_,
            messages=(*messages[:-1], last),
            tools=pool.tools,
            world=World(environment=pool.name, config={"row": columns, "seed": seed, "observation": observation}),
            meta={"row": dict(row)},
        )

    def _pool(self, columns: dict[str, Any]) -> WorldPool:
        if not self._routed:
            return next(iter(self.pools.values()))
        name = columns.pop(ROUTE, None)
        if name not in self.pools:
            raise ConfigError(f"a row has {ROUTE}={name!r}; expected one of {', '.join(self.pools)}")
        return self.pools[name]


def _alone(factory: Factory | None, functions: Sequence[Callable[..., Any]]) -> Mapping[str, Factory]:
    """One environment for all rows; none where there is nothing to call."""
    if factory is not None:
        return {getattr(factory, "__name__", "environment"): factory}
    return {"tools": Stateless} if functions else {}


def _messages(row: Row) -> tuple[Message, ...]:
    prompt = row.get("prompt", NO_PROMPT)
    if isinstance(prompt, str) or not prompt or not all(isinstance(one.get("content"), str) for one in prompt):
        raise ConfigError(
            f"got the prompt {prompt!r:.80}; expected messages of text, for instance "
            '[{"role": "user", "content": "..."}]'
        )
    if images := {"image", "images"} & row.keys():
        raise ConfigError(
            f"rows hold {', '.join(sorted(images))}; expected text alone: images cannot be recovered from"
        )
    return tuple(prompt)
