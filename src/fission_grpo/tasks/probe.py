"""The fixed-error probe: the same injected errors for every model, and what is right next.

Unlike natural recovery, its denominator does not move with the policy. Use it as a test metric; the
demonstrations baseline alone trains on such items (of training tasks), and so meets the probe's own kinds of errors.

Tasks are synthesised ones, official entries, or a user's own, of any number of user turns: the error is injected inside
a turn, behind the gold calls that lead there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from random import Random
from typing import TypeAlias

from fission_grpo.environments.base import Environment, Environments
from fission_grpo.environments.shipped import SHIPPED
from fission_grpo.errors import EnvironmentFault
from fission_grpo.tasks.corruption import Corruption, corrupt
from fission_grpo.tasks.dialogue import DecisionPosition, Injection, decision_positions, inject, premature_calls
from fission_grpo.tasks.gold_chain import chain_of
from fission_grpo.types import ErrorClass, Task, ToolCall


class ProbeKind(StrEnum):
    """Where the injected errors come from."""

    MIXED = "mixed"
    """Corrupted gold calls and premature ones, balanced over error classes as far as the tasks allow."""
    PRECONDITION = "precondition"
    """The natural premature call: right as such, but the world is not ready."""
    FIRST_CALL = "first_call"
    """As MIXED, but only at the first call of a user turn: right before the error the user spoke."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeItem:
    """One task of the probe."""

    task: Task
    """`messages` end with the wrong call and its real error text; `target` is right next; world and gold stay."""
    wrong: ToolCall
    error: ErrorClass
    text: str
    """The world's own error text."""
    corruption: Corruption | None
    """How the call was corrupted; None for a premature call."""


def probe_items(
    tasks: Sequence[Task],
    seed: int,
    kind: ProbeKind | str = ProbeKind.MIXED,
    *,
    environments: Environments = SHIPPED,
    broken: Callable[[str], None] = lambda fault: None,
) -> Iterator[ProbeItem]:
    """At most one item for each task, in the order of the tasks, as they are asked for; a function of the arguments.

    Args:
        tasks: tasks at their beginning; see `can_be_probed`.
        seed: every choice is drawn from it.
        kind: tasks in which nothing is missing have no premature call, and give no "precondition" item.
        environments: where wrong calls are executed.
        broken: told of each wrong call that broke its tool in a way that the tool did not announce. Such a call is no
            item: a model would be masked there.
    """
    worlds = _Worlds(environments, broken)
    return _DRAWS[ProbeKind(kind)](tasks, seed, worlds)


def can_be_probed(task: Task) -> bool:
    """Whether an error can be injected: an executable world, gold calls, and a dialogue that has not begun."""
    roles = [message["role"] for message in task.messages]
    return task.world is not None and any(task.gold) and roles.count("user") == 1 and roles[-1] == "user"


def within_turn(item: ProbeItem) -> ProbeItem:
    """The same task, over as soon as its user turn is: the world judges the turns so far, all gold but this one."""
    turn = sum(message["role"] == "user" for message in item.task.messages)
    return replace(item, task=replace(item.task, gold=item.task.gold[:turn], followups=()))


@dataclass(frozen=True, slots=True)
class _Worlds:
    """Where wrong calls are executed: one life for each environment, reset again and again."""

    environments: Environments
    broken: Callable[[str], None]
    lives: dict[str, Environment] = field(default_factory=dict)

    def of(self, task: Task) -> Environment:
        """The environment of a task."""
        assert task.world is not None, "only tasks with a world are probed"
        name = task.world.environment
        if name not in self.lives:
            self.lives[name] = self.environments[name]()
        return self.lives[name]

    def inject(self, task: Task, wrong: ToolCall, position: DecisionPosition) -> Injection | None:
        """See `dialogue.inject`; None for a call that breaks its tool, too."""
        try:
            return inject(task, wrong, position, environment=self.of(task))
        except EnvironmentFault as fault:
            self.broken(str(fault))
            return None

    def premature_calls(self, task: Task) -> list[tuple[DecisionPosition, ToolCall]]:
        """See `dialogue.premature_calls`; none where one breaks its tool."""
        try:
            return premature_calls(task, environment=self.of(task))
        except EnvironmentFault as fault:
            self.broken(str(fault))
            return []


_Allowed: TypeAlias = Callable[[DecisionPosition], bool]


def _anywhere(position: DecisionPosition) -> bool:
    return True


def _first_of_turn(position: DecisionPosition) -> bool:
    return position.done == 0


def _mixed(tasks: Sequence[Task], seed: int, worlds: _Worlds, allowed: _Allowed = _anywhere) -> Iterator[ProbeItem]:
    had: Counter[ErrorClass] = Counter()
    for task in tasks:
        rng = Random(f"probe/{seed}/{task.id}")
        items = [*_corruptions(task, rng, worlds, allowed), *_premature(task, rng, worlds, allowed)]
        if items:
            rarest = min(had[item.error] for item in items)
            chosen = rng.choice([item for item in items if had[item.error] == rarest])
            had[chosen.error] += 1
            yield chosen


def _preconditions(tasks: Sequence[Task], seed: int, worlds: _Worlds) -> Iterator[ProbeItem]:
    for task in tasks:
        yield from _premature(task, Random(f"probe/{seed}/{task.id}"), worlds, _anywhere)


def _corruptions(task: Task, rng: Random, worlds: _Worlds, allowed: _Allowed) -> Iterator[ProbeItem]:
    """One explicit error for each kind of corruption, at a random position."""
    positions = (position for position in decision_positions(task) if position.done < len(task.gold[position.turn]))
    calling = [position for position in positions if allowed(position)]
    values = [value for call in chain_of(task) for value in call.arguments.values()]
    for kind in Corruption:
        position = rng.choice(calling)
        right = task.gold[position.turn][position.done]
        wrong = corrupt(right, kind, tools=task.tools, others=values, rng=rng)
        injection = wrong and worlds.inject(task, wrong, position)
        if injection and injection.error is not ErrorClass.LIMIT:
            yield _item(injection, kind)


def _premature(task: Task, rng: Random, worlds: _Worlds, allowed: _Allowed) -> Iterator[ProbeItem]:
    """The premature call of one position, if there is any."""
    found = [one for one in worlds.premature_calls(task) if allowed(one[0])]
    if found:
        position, call = rng.choice(found)
        injection = worlds.inject(task, call, position)
        if injection:
            yield _item(injection, None)


def _item(injection: Injection, corruption: Corruption | None) -> ProbeItem:
    meta = {**injection.task.meta, "probe": str(corruption or "premature"), "error": str(injection.error)}
    return ProbeItem(
        task=replace(injection.task, meta=meta),
        wrong=injection.call,
        error=injection.error,
        text=injection.text,
        corruption=corruption,
    )


_DRAWS: Mapping[ProbeKind, Callable[[Sequence[Task], int, _Worlds], Iterator[ProbeItem]]] = {
    ProbeKind.MIXED: _mixed,
    ProbeKind.PRECONDITION: _preconditions,
    ProbeKind.FIRST_CALL: partial(_mixed, allowed=_first_of_turn),
}
