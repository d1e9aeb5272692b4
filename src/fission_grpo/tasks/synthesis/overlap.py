"""Whether two sets of tasks share what a fair test must not share.

Single calls overlap by nature (`setHeadlights(mode='on')`), so tasks are compared by what identifies them: the initial
state of each API, runs of eight words of the user's text, and gold chains of three or more calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache

from fission_grpo.environments.bfcl.entries import BfclCategory, bfcl_entries
from fission_grpo.tasks.gold_chain import chain_of, fingerprint, texts_of
from fission_grpo.types import Task

WORDS = 8
"""Length of the compared runs of words."""
SHORTEST_CHAIN = 3
"""Shortest gold chain that is compared."""

_WORD = re.compile(r"\w+")


class Shared(StrEnum):
    """What two tasks have in common."""

    WORLD = "world"
    TEXT = "text"
    CHAIN = "chain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offence:
    """One thing that one task of the first set shares with one of the second."""

    task: str
    other: str
    shared: Shared

    def __str__(self) -> str:
        return f"{self.task}: same {self.shared} as {self.other}"


@dataclass(frozen=True, slots=True)
class Index:
    """Everything that must not be shared with a set of tasks."""

    owners: Mapping[tuple[Shared, str], str] = field(default_factory=dict)
    """Fingerprint -> id of the first task that has it."""

    @classmethod
    def of(cls, tasks: Iterable[Task]) -> Index:
        """The index of some tasks."""
        owners: dict[tuple[Shared, str], str] = {}
        for task in tasks:
            for mark in marks(task):
                owners.setdefault(mark, task.id)
        return cls(owners)

    def offences(self, task: Task) -> list[Offence]:
        """What a task shares with the indexed ones: at most one offence for each other task and kind."""
        met = ((self.owners[mark], mark[0]) for mark in marks(task) if mark in self.owners)
        return [Offence(task=task.id, other=other, shared=kind) for other, kind in dict.fromkeys(met)]


def marks(task: Task) -> Iterator[tuple[Shared, str]]:
    """All that identifies a task."""
    if task.world:
        states = task.world.config.get("initial", {})
        yield from ((Shared.WORLD, fingerprint([api, state])) for api, state in states.items() if state)
    for text in texts_of(task):
        yield from ((Shared.TEXT, run) for run in _runs(text))
    chains = [chain for chain in (chain_of(task), *task.gold) if len(chain) >= SHORTEST_CHAIN]
    yield from ((Shared.CHAIN, fingerprint(chain)) for chain in chains)


def overlap(tasks: Iterable[Task], others: Iterable[Task]) -> list[Offence]:
    """Everything that tasks share with others; empty for fair sets."""
    index = Index.of(others)
    return [offence for task in tasks for offence in index.offences(task)]


def official_overlap(tasks: Iterable[Task]) -> list[Offence]:
    """Everything that tasks share with the 800 official multi-turn entries.

    Raises:
        ConfigError: `bfcl_eval` is not installed.
    """
    index = official_index()
    return [offence for task in tasks for offence in index.offences(task)]


@cache
def official_index() -> Index:
    """The index of the 800 official multi-turn entries.

    Raises:
        ConfigError: `bfcl_eval` is not installed.
    """
    return Index.of(task for category in BfclCategory for task in bfcl_entries(category))


def _runs(text: str) -> Iterator[str]:
    words = _WORD.findall(text.lower())
    return (" ".join(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1))
