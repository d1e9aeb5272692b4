"""The user's own tools as a world: typed functions, or a class whose public methods are the tools.

class Library:
    def reset(self, books: list[str]) -> None:
        self.books = list(books)

    def borrow(self, title: str) -> str:
        '''Borrow a book.

        Args:
            title: the book's title
        '''
        if title not in self.books:
            raise ToolError(f"no such book: {title}")
        self.books.remove(title)
        return "borrowed"

environment = FunctionEnvironment.from_class(Library, name="library")
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fission_grpo.call_matching import call_key
from fission_grpo.environments.dialogue import recorded_turns
from fission_grpo.environments.functions.digest import digest
from fission_grpo.environments.functions.judges import CallLog, GoldJudge, MadeCall, every_gold_call
from fission_grpo.environments.functions.schema_of import Functions, Together, classes_by_name, toolbox
from fission_grpo.environments.functions.worker import Overrun, Runner, Worker
from fission_grpo.environments.functions.world import FunctionWorld
from fission_grpo.environments.limits import CallLimits, NestingError, bounded_copy
from fission_grpo.environments.schema import call_problems, explain_problems
from fission_grpo.errors import ConfigError, EnvironmentFault, ToolError
from fission_grpo.types import ErrorClass, OutcomeKind, Task, Tool, ToolCall, ToolOutcome, Verdict

WORDINGS: tuple[tuple[ErrorClass, re.Pattern[str]], ...] = tuple(
    (error, re.compile(pattern, re.IGNORECASE))
    for error, pattern in (
        (ErrorClass.PRECONDITION, r"log(ged)? in|login|authenticat|permission|denied|\bfirst\b|not ready|closed\b"),
        (ErrorClass.CONFLICT, r"already|(?<!not )exists"),
        (ErrorClass.NOT_FOUND, r"not found|no such|unknown|does not exist|there is no"),
        (ErrorClass.ILLEGAL_VALUE, r""),
    )
)
"""Class of a `ToolError` by its words, first match wins: a call that gets this far has obeyed its schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSnapshot:
    """A state as the way that leads there, with the digests that prove the arrival."""

    task: Task
    log: CallLog
    attributes: Mapping[str, str]


class FunctionEnvironment:
    """One life of a world made of Python.

    The state is rebuilt by `reset(**task.world.config)` and replay, and no replay is trusted: the tools must answer as
    they did, and every attribute must hash as it did. A `ToolError` is text for the model; any other exception is an
    `EnvironmentFault`. A call that overruns its time is undone: the world is rebuilt as it stood before the call, and
    the stuck thread keeps the old one (`Worker` says what is not contained). An answer that is too long is cut.

    The object's own `score()` (or TRL's `get_reward()`) judges: a `Verdict`, or a number of which 1 is a success.
    Without one, a `GoldJudge` compares with the gold calls: by default every one of every turn begun must have been
    made with success, in any order, and more are forgiven (`judges.py` has a stricter one).
    """

    def __init__(
        self,
        factory: Callable[[], Any],
        *,
        name: str,
        limits: CallLimits | None = None,
        judge: GoldJudge = every_gold_call,
        runner: Callable[[], Runner] = Worker,
    ) -> None:
        self._factory = factory
        self._name = name
        self._limits = limits or CallLimits()
        self._judge = judge
        self._runner = runner
        self._life: _Life | None = None

    @classmethod
    def from_functions(
        cls, functions: Sequence[Callable[..., Any]], *, name: str = "functions", limits: CallLimits | None = None
    ) -> FunctionEnvironment:
        """A world without state.

        Raises:
            ConfigError: a function has no JSON Schema (it needs type hints and a Google-style docstring).
        """
        made = Functions(functions)
        return cls(lambda: made, name=name, limits=limits)

    @classmethod
    def from_class(
        cls,
        kind: type[Any],
        *,
        name: str = "functions",
        limits: CallLimits | None = None,
        judge: GoldJudge = every_gold_call,
        runner: Callable[[], Runner] = Worker,
    ) -> FunctionEnvironment:
        """A world that is an object: `kind()` then `reset(**config)`; its other public methods are the tools.

        Raises:
            ConfigError: no `reset`, or a method has no JSON Schema.
        """
        toolbox(kind)
        return cls(kind, name=name, limits=limits, judge=judge, runner=runner)

    @classmethod
    def from_classes(
        cls,
        kinds: Sequence[type[Any]],
        *,
        name: str = "functions",
        limits: CallLimits | None = None,
        judge: GoldJudge = every_gold_call,
        runner: Callable[[], Runner] = Worker,
    ) -> FunctionEnvironment:
        """A world of several objects, of which each task names those that it needs.

        Its config is `{"classes": [name, ...], "initial": {name: what that class's reset takes}}`. A `score` of
        one of them is not asked: `judge` sees them all.

        Raises:
            ConfigError: two classes share a tool or their name, one has no `reset`, or a method has no JSON Schema.
        """
        return cls(partial(Together, classes_by_name(kinds)), name=name, limits=limits, judge=judge, runner=runner)

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The tools that the task offers (all, if it names none), with the schemas of the functions themselves."""
        return self._current().tools

    def reset(self, task: Task) -> None:
        """Build the task's world and replay the calls that its `messages` already hold.

        Raises:
            ConfigError: the task is not of this world, offers tools that it lacks, or its config does not fit.
            EnvironmentFault: a tool broke or overran its time in the replay.
        """
        if task.world is None or task.world.environment != self._name:
            got = task.world.environment if task.world else None
            raise ConfigError(f"task {task.id}: its world is {got!r}; expected {self._name!r}")
        life = self._life = self._begin(task)
        for index, calls in enumerate(recorded_turns(task)):
            if index:
                self.next_turn()
            for call in calls:
                life.note(self._refuse(call, life) or self._replayed(call, life))

    def next_turn(self) -> None:
        """The user speaks again."""
        life = self._current()
        life.log = (*life.log, ())

    def execute(self, call: ToolCall) -> ToolOutcome:
        """Run one call, checked against its schema, within the limits.

        Raises:
            EnvironmentFault: the tool raised anything but `ToolError`.
        """
        life = self._current()
        made = self._refuse(call, life) or self._call(call, life)
        life.note(made)
        return made.outcome

    def snapshot(self) -> FunctionSnapshot:
        """The calls so far: immutable, and good for any environment of the same kind."""
        life = self._current()
        return FunctionSnapshot(task=life.task, log=life.log, attributes=life.world.attributes())

    def restore(self, snapshot: FunctionSnapshot) -> None:
        """Reset and replay.

        Raises:
            EnvironmentFault: the replay went another way; the message names the call or the attributes.
        """
        life = self._begin(snapshot.task)
        self._replay(snapshot.log, life)
        now, then = life.world.attributes(), snapshot.attributes
        if differing := sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name)):
            raise EnvironmentFault(
                f"{self._name}: a replay of the same calls left other values in {', '.join(differing)}. Make the world "
                "deterministic: seed its random numbers in reset(), and store neither times nor process-wide counters."
            )
        self._life = life

    def state_hash(self) -> str:
        """Digest of every attribute, private ones included, and of the history."""
        life = self._current()
        history = [[(call_key(made.call), made.outcome.text) for made in turn] for turn in life.log]
        return digest([dict(life.world.attributes()), history])

    def score(self) -> Verdict:
        """By the object's own hook, else by the gold calls.

        Raises:
            ConfigError: neither a hook nor gold.
            EnvironmentFault: the hook broke, overran, or returned neither a number nor a `Verdict`.
        """
        life = self._current()
        if life.world.judges_itself:
            return life.world.score()
        if not life.task.gold:
            raise ConfigError(f"task {life.task.id} has no gold calls and its world no score(): it cannot be judged")
        return self._judge(life.task.gold, life.log, partial(self._born, life.task), self._limits)

    def _current(self) -> _Life:
        if self._life is None:
            raise EnvironmentFault(f"the environment {self._name!r} was used before reset(task)")
        return self._life

    def _begin(self, task: Task) -> _Life:
        world = self._born(task)
        own = {tool["function"]["name"]: tool for tool in world.tools}
        wanted = [tool["function"]["name"] for tool in task.tools] or list(own)
        if lacking := [name for name in wanted if name not in own]:
            raise ConfigError(f"task {task.id} offers {', '.join(lacking)}; {self._name} has {', '.join(own)}")
        return _Life(task=task, world=world, tools=tuple(own[name] for name in wanted))

    def _born(self, task: Task) -> FunctionWorld:
        try:
            return FunctionWorld(self._factory, task.world.config if task.world else {}, runner=self._runner)
        except ConfigError as error:
            raise ConfigError(f"task {task.id}: {error}") from error

    def _refuse(self, call: ToolCall, life: _Life) -> MadeCall | None:
        """A call that must not reach its tool: nested like a trap, or against its schema."""
        try:
            bounded_copy(dict(call.arguments), self._limits.depth)
        except NestingError:
            text = f"error: arguments are nested deeper than {self._limits.depth} levels"
            return _stopped(call, text, OutcomeKind.TIMEOUT, ErrorClass.LIMIT)
        problems = call_problems(call, life.tools)
        if not problems:
            return None
        text = f"error: {explain_problems(call, life.tools)}"
        return _stopped(call, text, OutcomeKind.ERROR, problems[0].error)

    def _call(self, call: ToolCall, life: _Life) -> MadeCall:
        """The policy's own call: an overrun is undone and told."""
        began = time.perf_counter()
        try:
            return self._run(call, life)
        except Overrun:
            life.world = self._born(life.task)
            self._replay(life.log, life)
            text = f"error: {call.name} was stopped after {self._limits.seconds:g} s, and had no effect"
            return _stopped(call, text, OutcomeKind.TIMEOUT, ErrorClass.LIMIT, seconds=time.perf_counter() - began)

    def _run(self, call: ToolCall, life: _Life) -> MadeCall:
        began = time.perf_counter()
        try:
            text, error = life.world.call(call, self._limits), None
        except ToolError as said:
            text, error = str(said), classify_words(str(said))
        kind = OutcomeKind.ERROR if error else OutcomeKind.SUCCESS
        most = self._limits.characters
        if len(text) > most:
            text = f"{text[:most]}\n[cut: the answer has more than {most} characters]"
            kind, error = OutcomeKind.TIMEOUT, ErrorClass.LIMIT
        outcome = ToolOutcome(kind=kind, text=text, error=error, seconds=time.perf_counter() - began)
        return MadeCall(call=call, outcome=outcome, reached=True)

    def _replayed(self, call: ToolCall, life: _Life) -> MadeCall:
        """A call of the past: an overrun says something of the machine and nothing of the call."""
        try:
            return self._run(call, life)
        except Overrun as slow:
            raise EnvironmentFault(
                f"{self._name}: {call.name} took longer than {self._limits.seconds:g} s when it was replayed; expected "
                "an answer in time. The machine may be busy: give it fewer processes"
            ) from slow

    def _replay(self, log: CallLog, life: _Life) -> None:
        for made in (made for turn in log for made in turn if made.reached):
            again = self._replayed(made.call, life)
            if again.outcome.text != made.outcome.text:
                raise EnvironmentFault(
                    f"{self._name}: {made.call.name}({json.dumps(dict(made.call.arguments))}) answered "
                    f"{made.outcome.text[:80]!r}, but {again.outcome.text[:80]!r} when the same calls were replayed"
                )
        life.log = log


@dataclass(slots=True, kw_only=True)
class _Life:
    """From one `reset` or `restore` to the next."""

    task: Task
    world: FunctionWorld
    tools: tuple[Tool, ...]
    log: CallLog = ((),)

    def note(self, made: MadeCall) -> None:
        """Add a call to the turn in progress."""
        self.log = (*self.log[:-1], (*self.log[-1], made))


def classify_words(text: str) -> ErrorClass:
    """The class of a `ToolError` by its words; it sorts reports and decides nothing."""
    return next(error for error, pattern in WORDINGS if pattern.search(text))


def _stopped(call: ToolCall, text: str, kind: OutcomeKind, error: ErrorClass, *, seconds: float = 0.0) -> MadeCall:
    outcome = ToolOutcome(kind=kind, text=text, error=error, seconds=seconds)
    return MadeCall(call=call, outcome=outcome, reached=False)
