"""What tasks are told apart by (texts, worlds, gold chains), and how a gold chain is replayed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping

from fission_grpo.environments.base import Environment
from fission_grpo.types import OutcomeKind, Task, ToolCall


def texts_of(task: Task) -> tuple[str, ...]:
    """All that the user says in a task, message by message."""
    spoken = [str(message["content"]) for message in task.messages if message["role"] == "user"]
    return (*spoken, *task.followups)


def chain_of(task: Task) -> tuple[ToolCall, ...]:
    """The gold calls of a task from its first turn to its last."""
    return tuple(call for turn in task.gold for call in turn)


def canonical(value: object) -> str:
    """JSON text that is equal for equal values; calls are written as name and arguments."""
    return json.dumps(value, sort_keys=True, default=_plain)


def fingerprint(value: object) -> str:
    """Short hash of `canonical`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:24]


def _plain(value: object) -> object:
    if isinstance(value, ToolCall):
        return [value.name, dict(value.arguments)]
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def proves_itself(environment: Environment, task: Task) -> bool:
    """Whether the gold chain runs without an error, satisfies the world's verdict, and has no call too many.

    The task must be at its beginning: one user message, no calls yet.
    """
    if not replays(environment, task):
        return False
    alone = {start for start, turn in _numbered(task) if len(turn) == 1}  # a turn without calls is never right
    return not any(replays(environment, task, without=i) for i in range(len(chain_of(task))) if i not in alone)


def replays(environment: Environment, task: Task, *, without: int | None = None) -> bool:
    """Whether the gold chain, less the call at one position, runs without an error and satisfies the verdict."""
    environment.reset(task)
    for start, turn in _numbered(task):
        if start:
            environment.next_turn()
        for position, call in enumerate(turn, start):
            if position != without and environment.execute(call).kind is not OutcomeKind.SUCCESS:
                return False
    return environment.score().ok


def _numbered(task: Task) -> Iterator[tuple[int, tuple[ToolCall, ...]]]:
    """Each turn with the position of its first call in the chain."""
    start = 0
    for turn in task.gold:
        yield start, turn
        start += len(turn)
