"""The fixed-error probe and the blind-spot probe on the official Base entries, played by one model.

settings.json   what was asked for
traces.jsonl    one line for each injected error, appended as its user turn ends
probes.json     every rate with its count
summary.md      the same as tables
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fission_grpo.agents.base import Agent
from fission_grpo.commands.session import SessionSettings, run_session
from fission_grpo.environments.bfcl.entries import BfclCategory, bfcl_entries
from fission_grpo.environments.bfcl.environment import BfclEnvironment
from fission_grpo.evaluation.blind_spot import BlindSpot, Speaker, bfcl_probe, blind_spot, blind_spot_pairs
from fission_grpo.evaluation.interleave import Played
from fission_grpo.evaluation.metrics import PROBE_METRICS, Metric, measure
from fission_grpo.evaluation.paired import EvaluatedArm
from fission_grpo.evaluation.protocols.ours import play_task
from fission_grpo.evaluation.records import EPISODE_RECORDS, EpisodeRecord, probed
from fission_grpo.evaluation.session import write_json
from fission_grpo.files import write_text
from fission_grpo.report.contrasts import blind_spot_markdown
from fission_grpo.report.tables import metrics_table
from fission_grpo.run.lock import writing_into
from fission_grpo.tasks.probe import ProbeItem


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSettings(SessionSettings):
    """What to play, and how; `limit` is of each of the three kinds, `seed` says which errors are injected too."""

    def items(self) -> dict[str, ProbeItem]:
        """Fixed errors, then the two halves of the blind-spot pairs; by the id of their task."""
        fixed = bfcl_probe(self.seed, limit=self.limit)
        pairs = blind_spot_pairs(bfcl_entries(BfclCategory.BASE), self.seed, limit=self.limit)
        items = (*fixed, *(pair.own for pair in pairs), *(pair.foreign for pair in pairs))
        return {item.task.id: item for item in items}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeEvaluation:
    """Both probes of one model."""

    settings: ProbeSettings
    fixed: tuple[EpisodeRecord, ...]
    blind_spot: BlindSpot

    def as_json(self) -> dict[str, Any]:
        """Counts beside every rate; the gap in points of a share."""
        gap = self.blind_spot.gap
        return {
            "fixed_errors": {metric.name: _counted(metric, self.fixed) for metric in PROBE_METRICS},
            "blind_spot": {
                "own": [gap.before.successes, gap.before.total],
                "foreign": [gap.after.successes, gap.after.total],
                "gap": gap.difference,
                "interval": [gap.interval.low, gap.interval.high],
                "p_value": gap.change.p_value,
            },
        }


def evaluate_probes(
    settings: ProbeSettings, *, output: Path, resume: bool = False, agent: Agent | None = None, width: int = 16
) -> ProbeEvaluation:
    """Play, measure, and keep everything in `output`; see `run_session`."""
    with writing_into(output):
        records = run_session(
            settings,
            {key: partial(_play, item) for key, item in settings.items().items()},
            form=EPISODE_RECORDS,
            purpose="probes",
            output=output,
            resume=resume,
            agent=agent,
            width=width,
        )
        found = _evaluation(settings, records)
        write_json(output / "probes.json", found.as_json())
        write_text(output / "summary.md", _summary(found))
    return found


def _summary(found: ProbeEvaluation) -> str:
    """Both probes as Markdown."""
    name = Path(found.settings.agent.model).name
    return "\n".join(
        [
            "# Probes on BFCL Base\n",
            f"## Fixed errors\n\n{metrics_table([EvaluatedArm(name=name, runs={0: found.fixed})], PROBE_METRICS)}",
            f"## Blind spot\n\n{blind_spot_markdown(found.blind_spot)}",
        ]
    )


def _play(item: ProbeItem) -> Played[EpisodeRecord]:
    record = yield from play_task(item.task, BfclEnvironment())
    return probed(item, record)


def _evaluation(settings: ProbeSettings, records: Sequence[EpisodeRecord]) -> ProbeEvaluation:
    parts: dict[str, list[EpisodeRecord]] = {}
    for record in records:
        parts.setdefault(record.meta["part"], []).append(record)
    own, foreign = (parts.get(f"blind spot, {speaker}", []) for speaker in Speaker)
    return ProbeEvaluation(
        settings=settings,
        fixed=tuple(parts.get("probe", [])),
        blind_spot=blind_spot(own, foreign, seed=settings.seed),
    )


def _counted(metric: Metric, records: Sequence[EpisodeRecord]) -> list[int]:
    rate = measure(metric, records)
    return [rate.successes, rate.total]
