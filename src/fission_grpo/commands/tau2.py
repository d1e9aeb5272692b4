"""The evaluation of one model on tau2 telecom by settings: played, scored, put on disk.

settings.json   what was asked for
traces.jsonl    one line for each ticket, appended as it ends
score.json      the average reward, with what may be said about it
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fission_grpo.agents.base import Agent
from fission_grpo.agents.formats import PromptMode
from fission_grpo.commands.session import SessionSettings, run_session
from fission_grpo.environments.tau2.entries import tau2_entries
from fission_grpo.environments.tau2.official import Tau2Split
from fission_grpo.environments.tau2.outcomes import classify_tau2
from fission_grpo.evaluation.protocols.tau2 import SoloLimits, SoloPrompt, play_ticket
from fission_grpo.evaluation.records import EPISODE_RECORDS, EpisodeRecord
from fission_grpo.evaluation.session import write_json
from fission_grpo.evaluation.tau2_score import Tau2Score, score_tickets
from fission_grpo.run.lock import writing_into
from fission_grpo.types import ErrorClass, OutcomeKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Tau2Settings(SessionSettings):
    """What to play, and how; `limit` is of the split."""

    split: Tau2Split = Tau2Split.BASE
    prompt: SoloPrompt = SoloPrompt.OFFICIAL
    limits: SoloLimits = field(default_factory=SoloLimits)

    def deviations(self) -> tuple[str, ...]:
        """Why a score by these settings is not the official one.

        Never empty: the official agent asks its server for `tool_choice="required"`, which keeps many models from
        speaking where they must call, and sends an empty answer back up to three times. A model is not helped so here.
        """
        return self.agent.deviations(
            {
                "the model is not forced to call a tool": True,
                f"split {self.split}": self.split is not Tau2Split.BASE,
                f"the first {self.limit} tickets only": self.limit is not None,
                f"prompt mode {self.agent.mode}": self.agent.mode is not PromptMode.CHAT_TOOLS,
                f"prompt {self.prompt}": self.prompt is not SoloPrompt.OFFICIAL,
                f"limits {self.limits.max_steps} steps, {self.limits.max_errors} errors": self.limits != SoloLimits(),
                f"temperature {self.agent.temperature:g}, officially 0": self.agent.temperature != 0,
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tau2Evaluation:
    """A finished evaluation."""

    settings: Tau2Settings
    records: tuple[EpisodeRecord, ...]
    score: Tau2Score

    def as_json(self) -> dict[str, Any]:
        """The score with everything that qualifies it."""
        return {"departures": list(self.settings.deviations()), **self.score.as_json()}


def evaluate_tau2(
    settings: Tau2Settings, *, output: Path, resume: bool = False, agent: Agent | None = None, width: int = 16
) -> Tau2Evaluation:
    """Play, score, and keep everything in `output`; see `run_session`.

    Raises:
        ConfigError: tau2 is not installed, too.
    """
    play = partial(play_ticket, prompt=settings.prompt, limits=settings.limits)
    with writing_into(output):
        records = run_session(
            settings,
            {ticket.id: partial(play, ticket) for ticket in tau2_entries(settings.split)[: settings.limit]},
            form=EPISODE_RECORDS,
            purpose="tau2",
            output=output,
            resume=resume,
            agent=agent,
            width=width,
            read=_read,
        )
        found = Tau2Evaluation(settings=settings, records=records, score=score_tickets(records))
        write_json(output / "score.json", found.as_json())
    return found


def _read(text: str) -> tuple[OutcomeKind, ErrorClass | None]:
    """What a tool's text means to an agent that gets no flag: tau2 writes its errors so."""
    return classify_tau2(text, error=text.startswith("Error: "))
