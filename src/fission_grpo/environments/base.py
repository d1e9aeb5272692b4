"""What every world must be able to do; `check` tries whether one does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

from fission_grpo.types import Task, Tool, ToolCall, ToolOutcome, Verdict

Snapshot: TypeAlias = Any
"""Opaque: made by `snapshot`, taken by `restore`, restored any number of times. Some are `ComparableSnapshot`s."""


@runtime_checkable
class ComparableSnapshot(Protocol):
    """A snapshot that can be compared with others of the same task."""

    def world_hash(self) -> str:
        """Hex digest of the world alone, equal for equal worlds however they came about; past calls play no part."""
        ...


class Environment(Protocol):
    """One life of an executable world, judged by its own checker.

    A user turn begins with `reset` (the last user message of the task) or `next_turn`, and holds any number of calls.
    """

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The tools on offer, as OpenAI JSON Schema."""
        ...

    def reset(self, task: Task) -> None:
        """Build the task's world and replay the calls that its `messages` already hold.

        Raises:
            ConfigError: the task has no world of this kind, or its world cannot be built.
        """
        ...

    def next_turn(self) -> None:
        """The user speaks again: calls from here on belong to the next turn."""
        ...

    def execute(self, call: ToolCall) -> ToolOutcome:
        """Run one call. Never raises for anything the model did.

        Raises:
            EnvironmentFault: the tool broke in a way it did not announce.
        """
        ...

    def snapshot(self) -> Snapshot:
        """The whole state, history included; later calls do not change it."""
        ...

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot of the same task; `state_hash` is then what it was."""
        ...

    def state_hash(self) -> str:
        """Hex digest of everything that can influence a later outcome or the score."""
        ...

    def score(self) -> Verdict:
        """Judge the turns begun so far against the task's gold. Pure: asking twice changes nothing."""
        ...


Environments: TypeAlias = Mapping[str, Callable[[], Environment]]
"""How to make an environment, by the name that a task's `world.environment` gives."""
