"""The BFCL multi-turn world: the official classes as a restorable, judged environment.

Source of rules and texts: `bfcl-eval` 2026.3.23 (Apache-2.0), used as a dependency. Departures from its executor, all
of them closed traps: no model text is evaluated, so builtins, nested expressions and calls by expression are unknown
names; call names inside argument strings are not rewritten; no state leaks between episodes; calls have limits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeAlias

from fission_grpo.environments.bfcl.official import BFCL_CLASSES, bfcl_tools
from fission_grpo.environments.bfcl.outcomes import classify
from fission_grpo.environments.bfcl.verdict import Judgement, gold_key, gold_turns, judge, replayed, verdict, world_key
from fission_grpo.environments.bfcl.world import BfclWorld, unknown_name
from fission_grpo.environments.dialogue import recorded_turns
from fission_grpo.environments.limits import CallLimits
from fission_grpo.errors import ConfigError, EnvironmentFault, boundary
from fission_grpo.types import Task, Tool, ToolCall, ToolOutcome, Verdict

RunCall: TypeAlias = Callable[[BfclWorld, str, Mapping[str, Any], CallLimits], str]
"""How the text of a call is had: a policy's overrun is a text too, a replay's a fault of ours."""

__all__ = ["BFCL", "BFCL_CLASSES", "BfclEnvironment", "BfclSnapshot", "bfcl_tools"]

BFCL = "bfcl"
"""Name of this environment in `World.environment`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BfclSnapshot:
    """A frozen world with the history that the score depends on."""

    world: bytes
    results: tuple[tuple[str, ...], ...]
    """Texts of the calls per turn begun."""
    judgements: tuple[Judgement | None, ...]
    """Of the turns that are over."""


class BfclEnvironment:
    """One life of a BFCL world.

    `Task.world.config` is `{"classes": [...], "initial": {class: state}, "long_context": false}`. Exactly the tools of
    the task are on offer, less those that `task.meta["missed_function"]` (`{"<turn>": [names]}`, as in the official
    Miss Func entries) withholds from `tools` until that turn; as with the official executor, a withheld tool runs when
    it is guessed.
    """

    def __init__(self, limits: CallLimits | None = None) -> None:
        self._limits = limits or CallLimits()
        self._task: Task | None = None

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The tools on offer in this turn."""
        task, turn = self._current(), len(self._results) - 1
        withheld = {
            name
            for given_at, names in task.meta.get("missed_function", {}).items()
            if turn < int(given_at)
            for name in names
        }
        return tuple(tool for tool in task.tools if tool["function"]["name"] not in withheld)

    def reset(self, task: Task) -> None:
        """Build the task's world and replay the calls that its `messages` already hold.

        Raises:
            ConfigError: no BFCL world, a state the official classes cannot load, malformed recorded calls, or the
                package `bfcl_eval` is missing.
            EnvironmentFault: a gold or a recorded call overran its time.
        """
        if task.world is None or task.world.environment != BFCL:
            raise ConfigError(f"task {task.id}: world is {task.world and task.world.environment!r}; expected {BFCL!r}")
        with boundary(EnvironmentFault, f"reset to task {task.id}"):
            self._config = world_key(task.world.config)
            self._world = BfclWorld.initial(self._config)
            self._gold = gold_turns(self._config, gold_key(task.gold), self._limits)
            self._offered = frozenset(tool["function"]["name"] for tool in task.tools)
            self._task = task
            self._results: list[list[str]] = [[]]
            self._judgements: tuple[Judgement | None, ...] = ()
            self._replay(task)

    def next_turn(self) -> None:
        """The user speaks again: the turn so far is judged, and calls from here on belong to the next one."""
        self._current()
        with boundary(EnvironmentFault, "end of turn"):
            self._judgements = (*self._judgements, self._judge_turn())
            self._results.append([])

    def execute(self, call: ToolCall) -> ToolOutcome:
        """Run one call of the policy and read what its answer means.

        Raises:
            EnvironmentFault: our executor broke; what the official class raises is text for the model instead.
        """
        self._current()
        began = time.perf_counter()
        with boundary(EnvironmentFault, f"call of {call.name}"):
            text = self._run(call)
            kind, error = classify(text)
        return ToolOutcome(kind=kind, text=text, error=error, seconds=time.perf_counter() - began)

    def snapshot(self) -> BfclSnapshot:
        """The whole state; immutable, and valid in any environment that was reset to the same task."""
        self._current()
        with boundary(EnvironmentFault, "snapshot"):
            results = tuple(map(tuple, self._results))
            return BfclSnapshot(world=self._world.freeze(), results=results, judgements=self._judgements)

    def restore(self, snapshot: BfclSnapshot) -> None:
        """Go back to a snapshot of the same task."""
        self._current()
        with boundary(EnvironmentFault, "restore"):
            self._world = BfclWorld.thaw(snapshot.world)
            self._results = [list(texts) for texts in snapshot.results]
            self._judgements = snapshot.judgements

    def state_hash(self) -> str:
        """Hex digest of the instances (private state, random generators, sharing) and of the history."""
        self._current()
        with boundary(EnvironmentFault, "state hash"):
            history = repr((self._results, self._judgements, self._world.digest()))
            return blake2b(history.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    def score(self) -> Verdict:
        """The official verdict on the turns begun so far.

        Raises:
            ConfigError: the task has no gold.
        """
        task = self._current()
        if not task.gold:
            raise ConfigError(f"task {task.id} has no gold calls: its world cannot be judged")
        with boundary(EnvironmentFault, "score"):
            return verdict((*self._judgements, self._judge_turn()))

    def _current(self) -> Task:
        if self._task is None:
            raise EnvironmentFault("a BFCL environment was used before reset(task)")
        return self._task

    def _run(self, call: ToolCall, run: RunCall = BfclWorld.call) -> str:
        if self._may_run(call.name):
            text = run(self._world, call.name, call.arguments, self._limits)
        else:
            text = unknown_name(call.name)
        self._results[-1].append(text)
        return text

    def _may_run(self, name: str) -> bool:
        return name in self._offered

    def _judge_turn(self) -> Judgement | None:
        turn = len(self._results) - 1
        return judge(self._gold[turn], self._world.instances, self._results) if turn < len(self._gold) else None

    def _replay(self, task: Task) -> None:
        for turn, calls in enumerate(recorded_turns(task)):
            if turn:
                self.next_turn()
            for call in calls:
                self._run(call, replayed)
