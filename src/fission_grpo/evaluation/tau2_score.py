"""From records to the official number, the average reward over the tickets of a split (pass^1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fission_grpo.evaluation.protocols.tau2 import Tau2End
from fission_grpo.evaluation.records import EpisodeRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueScore:
    """Tickets about one kind of issue."""

    right: int
    judged: int

    @property
    def reward(self) -> float:
        """Right over judged; 0 where none was judged."""
        return self.right / self.judged if self.judged else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tau2Score:
    """All tickets that were asked for."""

    issues: Mapping[str, IssueScore]
    ends: Mapping[Tau2End, int]
    """How the judged episodes ended, by official name."""
    faults: int
    """Tickets that our machinery or the server spoiled: counted here and nowhere else."""

    @property
    def overall(self) -> IssueScore:
        """Every ticket counts the same."""
        found = self.issues.values()
        return IssueScore(right=sum(one.right for one in found), judged=sum(one.judged for one in found))

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
    asked, right = (Counter(record.meta["issue"] for record in some) for some in (judged, filter(_right, judged)))
    ends = Counter(map(official_end, judged))
    return Tau2Score(
        issues=MappingProxyType({key: IssueScore(right=right[key], judged=asked[key]) for key in sorted(asked)}),
        ends=MappingProxyType({end: ends[end] for end in Tau2End}),
        faults=len(found) - len(judged),
    )


def official_end(record: EpisodeRecord) -> Tau2End:
    """The official reason why a judged episode ended."""
    named = record.verdict.error_type if record.verdict else ""
    return Tau2End(named) if named in frozenset(map(str, Tau2End)) else Tau2End.AGENT_STOP


def _right(record: EpisodeRecord) -> bool:
    return record.valid


def _plain(one: IssueScore) -> dict[str, Any]:
    return {"reward": one.reward, "right": one.right, "judged": one.judged}
