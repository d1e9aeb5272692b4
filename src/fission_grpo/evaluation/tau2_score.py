"""From records to the official number, the average reward over the tickets of a split (pass^1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fission_grpo.evaluation.metrics import ACCURACY, by_slice
from fission_grpo.evaluation.protocols.tau2 import Tau2End
from fission_grpo.evaluation.records import EpisodeRecord
from fission_grpo.evaluation.statistics import Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Tau2Score:
    """All tickets that were asked for."""

    issues: Mapping[str, Rate]
    """Right over judged tickets, by kind of issue."""
    ends: Mapping[Tau2End, int]
    """How the judged episodes ended, by official name."""
    faults: int
    """Tickets that a fault of our machinery or of the server made invalid: counted here and nowhere else."""

    @property
    def overall(self) -> Rate:
        """Every ticket counts the same."""
        return sum(self.issues.values(), start=Rate(0, 0))

    def as_json(self) -> dict[str, Any]:
        """Plain values; counts beside every rate."""
        return {
            **_plain(self.overall),
            "faults": self.faults,
            "issues": {issue: _plain(one) for issue, one in self.issues.items()},
            "ends": {str(end): number for end, number in self.ends.items()},
        }


def score_tickets(records: Iterable[EpisodeRecord]) -> Tau2Score:
    """Count the verdicts of records of different tickets."""
    found = tuple(records)
    judged = [record for record in found if record.verdict is not None]
    ends = Counter(map(official_end, judged))
    return Tau2Score(
        issues=MappingProxyType(by_slice(ACCURACY, judged, lambda record: str(record.meta["issue"]))),
        ends=MappingProxyType({end: ends[end] for end in Tau2End}),
        faults=len(found) - len(judged),
    )


def official_end(record: EpisodeRecord) -> Tau2End:
    """The official reason why a judged episode ended."""
    named = record.verdict.error_type if record.verdict else ""
    return Tau2End(named) if named in frozenset(map(str, Tau2End)) else Tau2End.AGENT_STOP


def _plain(one: Rate) -> dict[str, Any]:
    return {"reward": one.value if one.total else 0.0, "right": one.successes, "judged": one.total}
