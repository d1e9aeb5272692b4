"""The evaluation of one model on BFCL by settings: played, scored, put on disk.

settings.json   what was asked for
traces.jsonl    one line for each entry, appended as it ends
score.json      the official numbers, with what may be said about them
summary.md      the same in words, with recovery beside accuracy, and two pictures
official/       result files as the official scorer reads them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fission_grpo.agents.base import Agent
from fission_grpo.agents.formats import PromptMode
from fission_grpo.agents.local import OFFICIAL_MAX_TOKENS, OFFICIAL_TEMPERATURE
from fission_grpo.commands.session import SessionSettings, run_session
from fission_grpo.environments.bfcl.entries import BfclCategory, bfcl_entries
from fission_grpo.errors import ConfigError
from fission_grpo.evaluation.bfcl.export import export
from fission_grpo.evaluation.bfcl.records import BFCL_RECORDS, BfclEnd, BfclRecord, as_episode, read_bfcl
from fission_grpo.evaluation.bfcl.score import Score, judge_again, score_entries
from fission_grpo.evaluation.protocols.bfcl import ToolRelease, play_entry
from fission_grpo.evaluation.records import TRACES
from fission_grpo.evaluation.session import write_json
from fission_grpo.files import write_text
from fission_grpo.report.benchmark import benchmark_sections
from fission_grpo.run.lock import writing_into
from fission_grpo.types import Task

RELEASES: Mapping[PromptMode, ToolRelease] = MappingProxyType(
    {
        PromptMode.OFFICIAL_QWEN_FC: ToolRelease.TEXT,
        PromptMode.CHAT_TOOLS: ToolRelease.TOOLS,
        PromptMode.COMPACT: ToolRelease.TOOLS,
    }
)
"""How each mode learns of functions that come back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BfclSettings(SessionSettings):
    """What to play, and how; `limit` is of each category."""

    categories: tuple[BfclCategory, ...] = tuple(BfclCategory)

    def deviations(self) -> tuple[str, ...]:
        """Why a score by these settings is not the official one; empty: it is."""
        agent = self.agent
        return agent.deviations(
            {
                f"prompt mode {agent.mode}": agent.mode is not PromptMode.OFFICIAL_QWEN_FC,
                f"temperature {agent.temperature:g}, officially {OFFICIAL_TEMPERATURE}": agent.temperature
                not in (0.0, OFFICIAL_TEMPERATURE),
                f"at most {agent.max_tokens} tokens an answer, officially {OFFICIAL_MAX_TOKENS}": agent.max_tokens
                != OFFICIAL_MAX_TOKENS,
            }
        )

    def entries(self) -> list[Task]:
        """What will be played, in official order."""
        return [entry for category in self.categories for entry in bfcl_entries(category)[: self.limit]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BfclEvaluation:
    """A finished evaluation."""

    settings: BfclSettings
    records: tuple[BfclRecord, ...]
    score: Score

    def as_json(self) -> dict[str, Any]:
        """The score with everything that qualifies it."""
        deviations = self.settings.deviations()
        official = self.score.complete and not deviations
        return {"official": official, "departures": list(deviations), **self.score.as_json()}


def evaluate_bfcl(
    settings: BfclSettings, *, output: Path, resume: bool = False, agent: Agent | None = None, width: int = 16
) -> BfclEvaluation:
    """Play, score, and keep everything in `output`; see `run_session`."""
    release = RELEASES[settings.agent.mode]
    with writing_into(output):
        records = run_session(
            settings,
            {entry.id: partial(play_entry, entry, release=release) for entry in settings.entries()},
            form=BFCL_RECORDS,
            purpose="bfcl",
            output=output,
            resume=resume,
            agent=agent,
            width=width,
        )
        found = BfclEvaluation(settings=settings, records=records, score=score_entries(records))
        write_json(output / "score.json", found.as_json())
        export(records, output / "official")
        write_text(output / "summary.md", _summary(found, output))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class RescoredBfcl:
    """Recorded transcripts that were judged again."""

    records: tuple[BfclRecord, ...]
    """By the new verdicts."""
    changed: tuple[str, ...]
    """Entries whose verdict is another one now."""

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {"changed": list(self.changed), **score_entries(self.records).as_json()}

    def __str__(self) -> str:
        """One line for a person."""
        return f"{len(self.records)} entries judged again, {len(self.changed)} verdicts changed"


def rescore_bfcl(folder: Path) -> RescoredBfcl:
    """Judge the transcripts of an evaluation again, from their calls alone; nothing is written.

    Raises:
        ConfigError: the folder holds no transcripts.
        DataError: it holds lines that are no records.
    """
    traces = folder / TRACES
    if not traces.is_file():
        raise ConfigError(f"{folder} holds no traces.jsonl; expected a folder that `fission eval bfcl` wrote")
    held = read_bfcl(traces)
    again = tuple(judge_again(record) for record in held)
    changed = tuple(new.entry for old, new in zip(held, again, strict=True) if old.verdict != new.verdict)
    return RescoredBfcl(records=again, changed=changed)


def _summary(found: BfclEvaluation, folder: Path) -> str:
    """The evaluation as Markdown; draws its pictures in `folder`."""
    told = found.as_json()
    missing = [] if found.score.complete else ["not all 800 entries were judged"]
    reasons = [*told["departures"], *missing]
    status = "An official score." if told["official"] else f"Not an official score: {'; '.join(reasons)}."
    episodes = {Path(found.settings.agent.model).name: [as_episode(record) for record in found.records]}
    overall = f"Multi-Turn overall: {100 * found.score.overall:.2f} %"
    zeros = f" ({', '.join(told['counted_as_zero'])} not played, counted as 0)" if told["counted_as_zero"] else ""
    head = ["# BFCL v4 multi-turn\n", f"{overall}{zeros}. {status}\n", *_unshown(found.records)]
    return "\n".join([*head, *benchmark_sections(episodes, folder)])


def _unshown(records: Sequence[BfclRecord]) -> list[str]:
    """A window that is too small looks like a bad model: say it."""
    broken = [record for record in records if record.end is BfclEnd.INFERENCE_ERROR]
    if not broken:
        return []
    return [
        f"{len(broken)} of {len(records)} entries are wrong because the dialogue could not be put before the model "
        f"(officially so, too); the first: {broken[0].reason}.\n"
    ]
