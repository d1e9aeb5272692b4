"""The fixed-error probe: the same injected errors for every model, and what is right next.

Unlike natural recovery, its denominator does not move with the policy. Use it as a test metric; the
demonstrations baseline alone trains on such items (of training tasks), and so meets the probe's own kinds of errors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random

from fission_grpo.environments.bfcl import BfclEnvironment
from fission_grpo.tasks.chains import chain_of
from fission_grpo.tasks.corruption import Corruption, corrupt
from fission_grpo.tasks.dialogue import Injection, inject, moments, premature_calls
from fission_grpo.types import ErrorClass, Task, ToolCall


class ProbeKind(StrEnum):
    """Where the injected errors come from."""

    MIXED = "mixed"
    """Corrupted gold calls and premature ones, balanced over error classes as far as the tasks allow."""
    PRECONDITION = "precondition"
    """The natural premature call: right as such, but the world is not ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeItem:
    """One question of the probe."""

    task: Task
    """`messages` end with the wrong call and its real error text; `target` is right next; world and gold stay."""
    wrong: ToolCall
    error: ErrorClass
    text: str
    """The world's own error text."""
    corruption: Corruption | None
    """How the call was spoiled; None for a premature call."""


def probe_items(tasks: Sequence[Task], seed: int, kind: ProbeKind | str = ProbeKind.MIXED) -> list[ProbeItem]:
    """At most one item for each task, in the order of the tasks; a function of the arguments alone.

    Args:
        tasks: tasks at their beginning, with worlds.
        seed: every choice is drawn from it.
        kind: "mixed" or "precondition"; tasks in which nothing is missing have no premature call and give no item.
    """
    draw = _DRAWS[ProbeKind(kind)]
    return list(draw(tasks, seed))


def _mixed(tasks: Sequence[Task], seed: int) -> Iterator[ProbeItem]:
    had: Counter[ErrorClass] = Counter()
    environment = BfclEnvironment()
    for task in tasks:
        rng = Random(f"probe/{seed}/{task.id}")
        items = [*_corruptions(task, rng, environment), *_premature(task, rng, environment)]
        if items:
            rarest = min(had[item.error] for item in items)
            chosen = rng.choice([item for item in items if had[item.error] == rarest])
            had[chosen.error] += 1
            yield chosen


def _preconditions(tasks: Sequence[Task], seed: int) -> Iterator[ProbeItem]:
    environment = BfclEnvironment()
    for task in tasks:
        yield from _premature(task, Random(f"probe/{seed}/{task.id}"), environment)


def _corruptions(task: Task, rng: Random, environment: BfclEnvironment) -> Iterator[ProbeItem]:
    """One explicit error for each kind of corruption, at a random moment."""
    calling = [moment for moment in moments(task) if moment.done < len(task.gold[moment.turn])]
    values = [value for call in chain_of(task) for value in call.arguments.values()]
    for kind in Corruption:
        moment = rng.choice(calling)
        right = task.gold[moment.turn][moment.done]
        wrong = corrupt(right, kind, tools=task.tools, others=values, rng=rng)
        injection = wrong and inject(task, wrong, moment, environment=environment)
        if injection and injection.error is not ErrorClass.LIMIT:
            yield _item(injection, kind)


def _premature(task: Task, rng: Random, environment: BfclEnvironment) -> Iterator[ProbeItem]:
    """The premature call of one moment, if there is any."""
    found = premature_calls(task, environment=environment)
    if found:
        moment, call = rng.choice(found)
        injection = inject(task, call, moment, environment=environment)
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


_DRAWS = {ProbeKind.MIXED: _mixed, ProbeKind.PRECONDITION: _preconditions}
