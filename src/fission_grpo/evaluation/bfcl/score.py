"""From records to the official numbers, and from recorded calls to verdicts once more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Any

from fission_grpo.environments.bfcl.entries import BfclCategory, bfcl_entries
from fission_grpo.errors import ConfigError
from fission_grpo.evaluation.bfcl.records import BfclEnd, BfclRecord
from fission_grpo.evaluation.bfcl.world import JudgedWorld
from fission_grpo.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryScore:
    """One category."""

    right: int
    judged: int
    faults: int
    """Entries that a fault of our machinery or of the server made invalid: counted here and nowhere else."""
    entries: int
    """Entries that the category has."""

    @property
    def accuracy(self) -> float:
        """Right over judged entries; 0 where none was judged."""
        return self.right / self.judged if self.judged else 0.0

    @property
    def complete(self) -> bool:
        """Every entry of the category was judged."""
        return self.judged == self.entries


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """All four categories."""

    categories: Mapping[BfclCategory, CategoryScore]

    @property
    def overall(self) -> float:
        """The official "Multi-Turn overall": the unweighted mean of four categories, a missing one counted as 0."""
        return sum(one.accuracy for one in self.categories.values()) / len(self.categories)

    @property
    def missing(self) -> tuple[BfclCategory, ...]:
        """Categories without a single judged entry; each of them is a 0 in `overall`."""
        return tuple(category for category, one in self.categories.items() if not one.judged)

    @property
    def complete(self) -> bool:
        """All 800 entries were judged."""
        return all(one.complete for one in self.categories.values())

    def as_json(self) -> dict[str, Any]:
        """Plain values; counts beside every rate."""
        categories = {
            str(category): {"accuracy": one.accuracy, "right": one.right, "judged": one.judged, "faults": one.faults}
            for category, one in self.categories.items()
        }
        return {
            "overall": self.overall,
            "counted_as_zero": list(map(str, self.missing)),
            "complete": self.complete,
            "categories": categories,
        }


def score_entries(records: Iterable[BfclRecord]) -> Score:
    """Count the verdicts of records of different entries."""
    found = tuple(records)
    categories = {}
    for category in BfclCategory:
        played = [record for record in found if record.category is category]
        verdicts = [record.verdict for record in played if record.verdict is not None]
        categories[category] = CategoryScore(
            right=sum(verdict.ok for verdict in verdicts),
            judged=len(verdicts),
            faults=len(played) - len(verdicts),
            entries=len(bfcl_entries(category)),
        )
    return Score(categories=MappingProxyType(categories))


def judge_again(record: BfclRecord) -> BfclRecord:
    """The record with a verdict and turn tests made afresh from its calls; what it held before is not looked at.

    Raises:
        ConfigError: there is no such entry, or `bfcl_eval` is not installed.
        EnvironmentFault: our executor broke.
    """
    if record.end is BfclEnd.FAULT:
        return record
    entry = _by_id(record.category).get(record.entry)
    if entry is None:
        raise ConfigError(f"category {record.category} has no entry {record.entry!r}")
    world = JudgedWorld(entry)
    for calls in record.calls:
        for call in calls:
            world.replay(call)
        world.next_turn()
    return replace(record, verdict=world.verdict(record.end, record.reason), turn_ok=world.turn_ok)


@cache
def _by_id(category: BfclCategory) -> Mapping[str, Task]:
    return MappingProxyType({entry.id: entry for entry in bfcl_entries(category)})
