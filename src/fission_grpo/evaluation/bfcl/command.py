"""The evaluation of one model on BFCL by settings: assembled, played, scored, put on disk.

settings.json   what was asked for
traces.jsonl    one line for each entry, appended as it ends
score.json      the official numbers, with what may be said about them
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

from accelerate import Accelerator

from fission_grpo.agents.base import Agent
from fission_grpo.agents.formats import PromptMode, make_format, require_reader
from fission_grpo.agents.local import OFFICIAL_MAX_TOKENS, OFFICIAL_TEMPERATURE, LocalAgent
from fission_grpo.agents.qwen_fc import Strictness
from fission_grpo.environments.bfcl_entries import BfclCategory, bfcl_entries
from fission_grpo.evaluation.bfcl.episode import Handover
from fission_grpo.evaluation.bfcl.records import BfclRecord
from fission_grpo.evaluation.bfcl.run import finished, run_entries
from fission_grpo.evaluation.bfcl.score import Score, score
from fission_grpo.evaluation.claim import claim
from fission_grpo.models.catalog import find_model, load_policy_model
from fission_grpo.policy.hf import HFPolicy
from fission_grpo.progress import progress
from fission_grpo.run_folder import write_text
from fission_grpo.types import Task

HANDOVER: Mapping[PromptMode, Handover] = MappingProxyType(
    {
        PromptMode.OFFICIAL_QWEN_FC: Handover.TEXT,
        PromptMode.CHAT_TOOLS: Handover.TOOLS,
        PromptMode.COMPACT: Handover.TOOLS,
    }
)
"""How each mode learns of functions that come back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BfclSettings:
    """What to play, and how; equal settings may share a folder.

    Raises:
        ConfigError: a lenient reader with a mode that has none.
    """

    model: str
    """Name for the reports: a folder, a model of ours, or what a server calls it."""
    categories: tuple[BfclCategory, ...] = tuple(BfclCategory)
    limit: int | None = None
    """Entries of each category, the first ones; None is all 200."""
    mode: PromptMode = PromptMode.OFFICIAL_QWEN_FC
    strictness: Strictness = Strictness.OFFICIAL
    temperature: float = OFFICIAL_TEMPERATURE
    max_tokens: int = OFFICIAL_MAX_TOKENS
    seed: int = 0

    def __post_init__(self) -> None:
        require_reader(self.mode, self.strictness)

    def departures(self) -> tuple[str, ...]:
        """Why a score by these settings is not the official one; empty: it is."""
        checks = {
            f"prompt mode {self.mode}": self.mode is not PromptMode.OFFICIAL_QWEN_FC,
            f"{self.strictness} reader": self.strictness is not Strictness.OFFICIAL,
            f"temperature {self.temperature:g}, officially {OFFICIAL_TEMPERATURE}": self.temperature
            not in (0.0, OFFICIAL_TEMPERATURE),
            f"at most {self.max_tokens} tokens an answer, officially {OFFICIAL_MAX_TOKENS}": self.max_tokens
            != OFFICIAL_MAX_TOKENS,
        }
        return tuple(reason for reason, holds in checks.items() if holds)


@dataclass(frozen=True, slots=True, kw_only=True)
class BfclEvaluation:
    """A finished evaluation."""

    settings: BfclSettings
    records: tuple[BfclRecord, ...]
    score: Score

    def as_json(self) -> dict[str, Any]:
        """The score with everything that qualifies it."""
        departures = self.settings.departures()
        official = self.score.complete and not departures
        return {"official": official, "departures": list(departures), **self.score.as_json()}


def evaluate_bfcl(
    settings: BfclSettings, *, output: Path, resume: bool = False, agent: Agent | None = None, width: int = 16
) -> BfclEvaluation:
    """Play, score, and keep everything in `output`; can be stopped at any moment and resumed.

    Args:
        agent: who answers; None loads `settings.model` from this machine. One behind a server takes mode CHAT_TOOLS.
        width: dialogues side by side of a local model.

    Raises:
        ConfigError: no such model, or the folder holds another evaluation, or one that `resume` does not ask for.
        PolicyError: the model broke; what was finished is safe.
    """
    if agent is None:
        find_model(settings.model)
    claim(output, asdict(settings), resume=resume)
    agent = agent or local_agent(settings, width=width)
    entries = _entries(settings)
    traces, handover = output / "traces.jsonl", HANDOVER[settings.mode]
    done = len(finished(traces) & {entry.id for entry in entries})
    with progress("bfcl", total=len(entries), done=done) as show:
        numbers = count(done + 1)
        records = run_entries(
            entries,
            agent,
            handover=handover,
            traces=traces,
            seed=settings.seed,
            report=lambda record: show(next(numbers), record.entry),
        )
    found = BfclEvaluation(settings=settings, records=records, score=score(records))
    write_text(output / "score.json", json.dumps(found.as_json(), indent=2) + "\n")
    return found


def local_agent(settings: BfclSettings, *, width: int = 16) -> LocalAgent:
    """The model of the settings, loaded from this machine.

    Raises:
        ConfigError: no such model, or its template cannot carry tools.
    """
    loaded = load_policy_model(settings.model)
    policy = HFPolicy(loaded.model.to(Accelerator().device), eos_id=loaded.chat.eos_id, pad_id=loaded.chat.pad_id)
    return LocalAgent(
        policy,
        make_format(settings.mode, loaded.chat, settings.strictness),
        name=settings.model,
        width=width,
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
    )


def _entries(settings: BfclSettings) -> list[Task]:
    return [entry for category in settings.categories for entry in bfcl_entries(category)[: settings.limit]]
