"""TRL's `environment_factory` objects as environments that can be brought back to any moment of their past.

A factory takes no arguments; what it makes has `reset(**row)`, perhaps `get_reward()`, and tools: all its other public
methods. TRL lets such an object live once. A recovery needs it again, just as the failed call left it.

It is reset and replayed, and its answers are compared; it is not copied. The copy of a client still talks to the
session of the original and cannot be written to a checkpoint, while a log of calls is plain text and needs nothing of
the object. For that, the object must do the same again: each world draws its random numbers (Python's and NumPy's
global ones) from a stream of its own, so that `reset` may sample a task, and all siblings of a group get the same one.
Where a replay is answered otherwise, that one recovery is masked, and says so.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeAlias

import numpy as np

from fission_grpo.engines.coroutines import awaited
from fission_grpo.environments.functions.digest import digest
from fission_grpo.environments.functions.environment import classify_words
from fission_grpo.environments.functions.schema_of import document
from fission_grpo.environments.limits import CallLimits, NestingError, bounded_copy
from fission_grpo.environments.schema import call_problems, explain_problems
from fission_grpo.errors import ConfigError, EnvironmentFault, RolloutError, ToolError, boundary
from fission_grpo.types import ErrorClass, OutcomeKind, Task, Tool, ToolCall, ToolOutcome, Verdict

RESERVED = ("reset", "get_reward")
"""Public methods that are no tools."""
SUCCESS = 1.0
"""A reward from here on counts as a success; ours: TRL has no such word."""

Factory: TypeAlias = Callable[[], Any]
_Log: TypeAlias = tuple[tuple[ToolCall, str], ...]
"""Calls and their answers."""


class ToolRaisedError(RolloutError):
    """A tool raised something: with TRL, that is how a tool says no."""


class Stateless:
    """What tools without an environment belong to."""

    def reset(self, **row: Any) -> None:
        """Nothing to forget."""


class RandomStream:
    """The global random numbers of Python and NumPy, as one world draws them."""

    def __init__(self, seed: int) -> None:
        self._states = (random.Random(seed).getstate(), np.random.RandomState(seed % 2**32).get_state())

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """In a `with` block, random numbers come from here; outside, it is as if none had been drawn."""
        outside = (random.getstate(), np.random.get_state())
        _enter(self._states)
        try:
            yield
        finally:
            self._states = (random.getstate(), np.random.get_state())
            _enter(outside)


def _enter(states: tuple[Any, Any]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])


class WorldPool:
    """The objects of one factory: made once and reset often, as TRL does it, since making one may be expensive."""

    def __init__(self, factory: Factory, functions: Sequence[Callable[..., Any]] = (), *, name: str) -> None:
        """Make a first one, and read its tools.

        Args:
            functions: tools that belong to no object, offered beside its methods.
        Raises:
            ConfigError: it cannot be made, has no `reset`, or a tool has no JSON Schema (type hints, docstring).
        """
        self.name = name
        self._factory = factory
        self._idle = [self._made()]
        self._lent: list[Any] = []
        kind = type(self._idle[0])
        if not callable(getattr(kind, "reset", None)):
            raise ConfigError(f"environment_factory {name!r}: {kind.__name__} has no method reset(); add one")
        self.functions = {function.__name__: function for function in functions}
        methods = {name: function for name, function in inspect.getmembers(kind, inspect.isfunction) if _is_tool(name)}
        self.tools: tuple[Tool, ...] = (
            *(document(_plain(function)) for function in self.functions.values()),
            *(document(_plain(function), bound=_is_bound(kind, name)) for name, function in methods.items()),
        )
        self.reward_name = kind.__name__ if hasattr(kind, "get_reward") else None
        """What the object's own reward is called in the log; None if it has none."""

    def borrow(self) -> Any:
        """An object that nobody uses; to be reset."""
        subject = self._idle.pop() if self._idle else self._made()
        self._lent.append(subject)
        return subject

    def take_back(self) -> None:
        """Everything that was lent may be used again."""
        self._idle += self._lent
        self._lent = []

    def observation(self, row: Mapping[str, Any], *, seed: int) -> str:
        """What `reset` says about a row, which belongs behind its prompt; empty if it says nothing.

        Raises:
            EnvironmentFault: it raised, or returned something else than text.
        """
        subject = self.borrow()
        try:
            with RandomStream(seed).drawn():
                return said_at_reset(subject, row)
        finally:
            self._idle.append(self._lent.pop())

    def _made(self) -> Any:
        try:
            with boundary(EnvironmentFault, f"environment_factory {self.name!r}"):
                return self._factory()
        except EnvironmentFault as fault:
            raise ConfigError(f"{fault}; correct it there: it is called without arguments") from fault


def said_at_reset(subject: Any, row: Mapping[str, Any]) -> str:
    """Reset an object; what it says, as text.

    Raises:
        EnvironmentFault: see `WorldPool.observation`.
    """
    with boundary(EnvironmentFault, f"{type(subject).__name__}.reset"):
        said = awaited(subject.reset(**row))
    if said is not None and not isinstance(said, str):
        raise EnvironmentFault(f"{type(subject).__name__}.reset returned {type(said).__name__}; expected text or None")
    return said or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveVerdict(Verdict):
    """What a world says of itself, and the object behind it: a reward function may look into it until it is reset."""

    reward: float | None
    """By its own `get_reward`; None if it has none."""
    subject: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySnapshot:
    """A state as the calls that lead there, with the answers that prove the arrival."""

    task: Task
    log: _Log


class ReplayedEnvironment:
    """One life of an object that `environment_factory` makes.

    A task's `world.config` holds `row` (what `reset` gets), `seed`, and `observation` (what `reset` said when the task
    was made). Whatever a tool raises is told to the model, as in TRL; `EnvironmentFault` alone means that nobody is to
    blame. Arguments are checked against the tool's schema first: TRL would run `multiply("x", 3)`.
    """

    def __init__(self, pool: WorldPool) -> None:
        self._pool = pool
        self._task: Task | None = None
        self._subject: Any = None
        self._random = RandomStream(0)
        self._log: list[tuple[ToolCall, str]] = []

    @property
    def tools(self) -> tuple[Tool, ...]:
        return self._pool.tools

    def reset(self, task: Task) -> None:
        """Reset an object for the task's row.

        Raises:
            EnvironmentFault: it raised, or said something else than when the task was made.
        """
        assert task.world is not None, f"task {task.id} has no world"
        config = task.world.config
        self._task, self._log = task, []
        self._subject = self._subject or self._pool.borrow()
        self._random = RandomStream(config["seed"])
        with self._random.drawn():
            said = said_at_reset(self._subject, config["row"])
        if said != config["observation"]:
            raise EnvironmentFault(
                f"{self._pool.name}: reset said {config['observation'][:80]!r}, and {said[:80]!r} for the same row; "
                "make it depend on the row and on Python's or NumPy's global random numbers alone"
            )

    def next_turn(self) -> None:
        """Nothing: TRL's dialogues have one user message."""

    def execute(self, call: ToolCall) -> ToolOutcome:
        outcome = self._answer(call)
        self._log.append((call, outcome.text))
        return outcome

    def snapshot(self) -> ReplaySnapshot:
        """The calls so far."""
        return ReplaySnapshot(task=self._current, log=tuple(self._log))

    def restore(self, snapshot: ReplaySnapshot) -> None:
        """Reset and replay.

        Raises:
            EnvironmentFault: an answer differs; the message names the call.
        """
        self.reset(snapshot.task)
        for call, before in snapshot.log:
            now = self.execute(call).text
            if now != before:
                raise EnvironmentFault(
                    f"{self._pool.name}: {call.name} answered {before[:80]!r}, but {now[:80]!r} when the same calls "
                    "were replayed; a recovery needs a world that does the same again"
                )

    def state_hash(self) -> str:
        """Digest of where it began and of its history: what a replay can prove."""
        world = self._current.world
        return digest([world and dict(world.config), [(call.name, call.arguments, text) for call, text in self._log]])

    def score(self) -> LiveVerdict:
        """What its `get_reward` says; without one, a verdict that leaves the reward to others.

        Raises:
            EnvironmentFault: `get_reward` raised, or returned no number.
        """
        if self._pool.reward_name is None:
            return LiveVerdict(ok=True, matched=1.0, reward=None, subject=self._subject)
        with boundary(EnvironmentFault, f"{self._pool.reward_name}.get_reward"), self._random.drawn():
            reward = float(awaited(self._subject.get_reward()))
        return reward_verdict(reward, subject=self._subject, own=reward)

    @property
    def _current(self) -> Task:
        if self._task is None:
            raise EnvironmentFault(f"the environment {self._pool.name!r} was used before reset(task)")
        return self._task

    def _answer(self, call: ToolCall) -> ToolOutcome:
        try:
            arguments = bounded_copy(dict(call.arguments), CallLimits().depth)
        except NestingError:
            return _refused("error: arguments are nested too deeply", ErrorClass.LIMIT)
        if problems := call_problems(call, self.tools):
            return _refused(f"error: {explain_problems(call, self.tools)}", problems[0].error)
        method = self._pool.functions.get(call.name) or getattr(self._subject, call.name)
        try:
            with boundary(ToolRaisedError, call.name), self._random.drawn():
                return ToolOutcome(kind=OutcomeKind.SUCCESS, text=str(awaited(method(**arguments))))
        except ToolError as said:
            return _no(said)
        except ToolRaisedError as raised:
            return _no(raised.__cause__ or raised)


def reward_verdict(reward: float, *, subject: Any, own: float | None = None) -> LiveVerdict:
    """A reward as a verdict: a success from `SUCCESS` on.

    Args:
        own: what the object itself says.
    """
    ok = reward >= SUCCESS
    kind = "" if ok else "reward_below_one"
    matched = min(max(reward, 0.0), 1.0)
    return LiveVerdict(ok=ok, error_type=kind, detail=f"{reward:g}", matched=matched, reward=own, subject=subject)


def _no(said: BaseException) -> ToolOutcome:
    text = str(said) or type(said).__name__
    return _refused(f"error: {text}", classify_words(text))


def _refused(text: str, error: ErrorClass) -> ToolOutcome:
    return ToolOutcome(kind=OutcomeKind.ERROR, text=text, error=error)


def _is_tool(name: str) -> bool:
    return not name.startswith("_") and name not in RESERVED


def _is_bound(kind: type[Any], name: str) -> bool:
    return not isinstance(inspect.getattr_static(kind, name), staticmethod)


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, or a plain one that looks like an asynchronous one: it is documented, and never called."""
    if not inspect.iscoroutinefunction(function):
        return function

    @wraps(function)
    def plain(*args: Any, **kwargs: Any) -> None: ...

    return plain
