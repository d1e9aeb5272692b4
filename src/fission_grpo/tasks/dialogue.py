"""A task at every decision position of its gold dialogue: what was said and answered so far, and what is right next.

Tool results are the world's real texts. An error that was injected stays in the dialogue, as it would in life.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from fission_grpo.environments.base import Environment
from fission_grpo.environments.dialogue import call_record
from fission_grpo.environments.shipped import environment_for
from fission_grpo.types import ErrorClass, Message, Task, ToolCall, ToolOutcome

DONE = "Done."
"""What the gold dialogue answers when there is nothing left to call."""

_FOUND_TOO_EARLY = (ErrorClass.PRECONDITION, ErrorClass.NOT_FOUND, ErrorClass.CONFLICT)
"""Errors that say the world is not ready: the call as such is right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionPosition:
    """One place in the gold dialogue of a task where the assistant speaks."""

    turn: int
    """User turn, from 0."""
    done: int
    """Gold calls of this turn that have been made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """A task at a decision position where a wrong call was just answered with an explicit error."""

    task: Task
    """`messages` end with the wrong call and its real error text; `target` is what is right next."""
    position: DecisionPosition
    call: ToolCall
    """The wrong call."""
    error: ErrorClass
    text: str
    """The error text."""


def decision_positions(task: Task) -> Iterator[DecisionPosition]:
    """All places where the assistant speaks, the final words of each turn included."""
    for turn, calls in enumerate(task.gold):
        for done in range(len(calls) + 1):
            yield DecisionPosition(turn=turn, done=done)


def decision_points(task: Task, *, environment: Environment | None = None) -> list[Task]:
    """Every prefix of the gold dialogue; `target` is the next gold call, or empty where words are right.

    The task must be at its beginning and have a world.
    """
    walk = _Walk(task, environment or environment_for(task))
    return [walk.to(position) for position in decision_positions(task)]


def inject(
    task: Task, wrong: ToolCall, position: DecisionPosition, *, environment: Environment | None = None
) -> Injection | None:
    """The task just after a wrong call; None unless the call gets an explicit error that harms nothing.

    Harms nothing: the gold calls that were still to come replay and satisfy the verdict.
    """
    environment = environment or environment_for(task)
    walk = _Walk(task, environment)
    point = walk.to(position)
    outcome = environment.execute(wrong)
    if not outcome.is_error or outcome.error is None or not _still_solvable(environment, task, position):
        return None
    messages = (*point.messages, *exchange(wrong, outcome.text, f"error_{position.turn}_{position.done}"))
    return Injection(
        task=replace(point, id=f"{point.id}!", messages=messages),
        position=position,
        call=wrong,
        error=outcome.error,
        text=outcome.text,
    )


def continuations(
    task: Task, wrong: ToolCall, position: DecisionPosition, *, environment: Environment | None = None
) -> list[Task]:
    """The rest of the turn after an error and its fix: one task for each later position.

    The first has the wrong call, its error and the right call behind it, and asks for the step after the fix. Empty
    when the wrong call is no injection (see `inject`), or when nothing was to be called.
    """
    environment = environment or environment_for(task)
    injection = inject(task, wrong, position, environment=environment)
    calls = task.gold[position.turn]
    if injection is None:
        return []
    point = injection.task
    environment.reset(point)
    found: list[Task] = []
    for done in range(position.done, len(calls)):
        outcome = environment.execute(calls[done])
        messages = (*point.messages, *exchange(calls[done], outcome.text, f"call_{position.turn}_{done}"))
        point = replace(point, messages=messages, target=calls[done + 1 : done + 2])
        found.append(replace(point, id=f"{injection.task.id}{done + 1}"))
    return found


def premature_calls(task: Task, *, environment: Environment | None = None) -> list[tuple[DecisionPosition, ToolCall]]:
    """Positions where a later gold call of the turn, made now, is told by the world that something is missing.

    For each such position the nearest later call: its error text speaks of the very thing that is right next.
    """
    environment = environment or environment_for(task)
    walk = _Walk(task, environment)
    found: list[tuple[DecisionPosition, ToolCall]] = []
    for position in decision_positions(task):
        walk.to(position)
        before = environment.snapshot()
        for call in task.gold[position.turn][position.done + 1 :]:
            outcome = environment.execute(call)
            environment.restore(before)
            if outcome.is_error and outcome.error in _FOUND_TOO_EARLY:
                found.append((position, call))
                break
    return found


def exchange(call: ToolCall, text: str, name: str) -> tuple[Message, Message]:
    """A call and its answer as OpenAI messages."""
    asked = {"id": name, "type": "function", "function": call_record(call)}
    return {"role": "assistant", "content": "", "tool_calls": [asked]}, {
        "role": "tool",
        "tool_call_id": name,
        "content": text,
    }


class _Walk:
    """One pass through the gold dialogue, with the world at its side."""

    def __init__(self, task: Task, environment: Environment) -> None:
        environment.reset(task)
        self._task = task
        self._environment = environment
        self._messages: list[Message] = list(task.messages)
        self._at = DecisionPosition(turn=0, done=0)

    def to(self, position: DecisionPosition) -> Task:
        """The task at a position that is not before the last one asked for."""
        while self._at != position:
            self._step()
        return replace(
            self._task,
            id=f"{self._task.id}/{position.turn}.{position.done}",
            messages=tuple(self._messages),
            target=self._task.gold[position.turn][position.done : position.done + 1],
            followups=self._task.followups[position.turn :],
        )

    def _step(self) -> None:
        turn, done = self._at.turn, self._at.done
        calls: Sequence[ToolCall] = self._task.gold[turn]
        if done < len(calls):
            outcome: ToolOutcome = self._environment.execute(calls[done])
            self._messages += exchange(calls[done], outcome.text, f"call_{turn}_{done}")
            self._at = DecisionPosition(turn=turn, done=done + 1)
            return
        self._messages += (
            {"role": "assistant", "content": DONE},
            {"role": "user", "content": self._task.followups[turn]},
        )
        self._environment.next_turn()
        self._at = DecisionPosition(turn=turn + 1, done=0)


def _still_solvable(environment: Environment, task: Task, position: DecisionPosition) -> bool:
    for turn in range(position.turn, len(task.gold)):
        if turn > position.turn:
            environment.next_turn()
        for call in task.gold[turn][position.done if turn == position.turn else 0 :]:
            if environment.execute(call).is_error:  # a soft no can be the gold answer
                return False
    return environment.score().ok
