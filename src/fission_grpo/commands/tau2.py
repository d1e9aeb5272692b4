"""The evaluation of one model on tau2 telecom by settings: assembled, played, scored, put on disk.

settings.json   what was asked for
traces.jsonl    one line for each ticket, appended as it ends
score.json      the average reward, with what may be said about it
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fission_grpo.agents.base import Agent
from fission_grpo.agents.choice import AgentChoice
from fission_grpo.agents.formats import PromptMode
from fission_grpo.environments.tau2.entries import tau2_entries
from fission_grpo.environments.tau2.official import Tau2Split
from fission_grpo.environments.tau2.outcomes import classify_tau2
from fission_grpo.evaluation.claim import claim, require_free
from fission_grpo.evaluation.protocols.tau2 import SoloLimits, SoloPrompt
from fission_grpo.evaluation.records import EpisodeRecord
from fission_grpo.evaluation.tau2.run import run_tickets
from fission_grpo.evaluation.tau2_score import Tau2Score, score
from fission_grpo.files import write_text
from fission_grpo.progress import progress
from fission_grpo.types import ErrorClass, OutcomeKind

OFFICIAL_TEMPERATURE = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tau2Settings:
    """What to play, and how; equal settings may share a folder."""

    agent: AgentChoice
    split: Tau2Split = Tau2Split.BASE
    limit: int | None = None
    """Tickets of the split, the first ones; None is all."""
    prompt: SoloPrompt = SoloPrompt.OFFICIAL
    limits: SoloLimits = field(default_factory=SoloLimits)
    seed: int = 0

    def departures(self) -> tuple[str, ...]:
        """Why a score by these settings is not the official one.

        Never empty: the official agent asks its server for `tool_choice="required"`, which keeps many models from
        speaking where they must call, and sends an empty answer back up to three times. A model is not helped so here.
        """
        checks = {
            "the model is not forced to call a tool": True,
            f"split {self.split}": self.split is not Tau2Split.BASE,
            f"the first {self.limit} tickets only": self.limit is not None,
            f"prompt mode {self.agent.mode}": self.agent.mode is not PromptMode.CHAT_TOOLS,
            f"prompt {self.prompt}": self.prompt is not SoloPrompt.OFFICIAL,
            f"limits {self.limits.max_steps} steps, {self.limits.max_errors} errors": self.limits != SoloLimits(),
            f"temperature {self.agent.temperature:g}, officially 0": self.agent.temperature != OFFICIAL_TEMPERATURE,
        }
        return (*(reason for reason, holds in checks.items() if holds), *self.agent.departures())


@dataclass(frozen=True, slots=True, kw_only=True)
class Tau2Evaluation:
    """A finished evaluation."""

    settings: Tau2Settings
    records: tuple[EpisodeRecord, ...]
    score: Tau2Score

    def as_json(self) -> dict[str, Any]:
        """The score with everything that qualifies it."""
        return {"departures": list(self.settings.departures()), **self.score.as_json()}


def evaluate_tau2(
    settings: Tau2Settings, *, output: Path, resume: bool = False, agent: Agent | None = None, width: int = 16
) -> Tau2Evaluation:
    """Play, score, and keep everything in `output`; can be stopped at any moment and resumed.

    Args:
        agent: who answers; None builds the one that the settings choose.
        width: dialogues side by side.

    Raises:
        ConfigError: tau2 is not installed, no such model or server, or the folder is taken.
        PolicyError: the model broke; what was finished is safe.
    """
    tickets = tau2_entries(settings.split)[: settings.limit]
    require_free(output, asdict(settings), resume=resume)
    agent = agent or settings.agent.build(width=width, read=_read)
    claim(output, asdict(settings))
    shown = 0
    with progress("tau2", total=len(tickets)) as show:

        def report(record: EpisodeRecord) -> None:
            nonlocal shown
            shown += 1
            show(shown, record.meta["issue"])

        records = run_tickets(
            tickets,
            agent,
            traces=output / "traces.jsonl",
            prompt=settings.prompt,
            limits=settings.limits,
            seed=settings.seed,
            report=report,
        )
    found = Tau2Evaluation(settings=settings, records=records, score=score(records))
    write_text(output / "score.json", json.dumps(found.as_json(), indent=2) + "\n")
    return found


def _read(text: str) -> tuple[OutcomeKind, ErrorClass | None]:
    """What a tool's text means to an agent that gets no flag: tau2 writes its errors so."""
    return classify_tau2(text, error=text.startswith("Error: "))
