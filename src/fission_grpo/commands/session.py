"""What the evaluations on a benchmark share: a folder is reserved, an agent built, and what is missing played."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch

from fission_grpo.agents.base import Agent
from fission_grpo.agents.baselines import OutcomeReader
from fission_grpo.agents.choice import AgentChoice
from fission_grpo.environments.bfcl.outcomes import classify
from fission_grpo.evaluation.interleave import Played
from fission_grpo.evaluation.records import TRACES, Format, RecordT
from fission_grpo.evaluation.session import finished, play_missing, require_free, reserve
from fission_grpo.progress import progress
from fission_grpo.run.inputs import accelerators
from fission_grpo.run.provenance import record_provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """What to play, and how; equal settings may share a folder."""

    agent: AgentChoice
    limit: int | None = None
    """Episodes of each kind, the first ones; None is all."""
    seed: int = 0

    def saved(self) -> dict[str, Any]:
        """For `settings.json`."""
        return {**asdict(self), "agent": self.agent.saved()}


def run_session(
    settings: SessionSettings,
    episodes: Mapping[str, Callable[[], Played[RecordT]]],
    *,
    form: Format[RecordT],
    purpose: str,
    output: Path,
    resume: bool,
    agent: Agent | None,
    width: int,
    read: OutcomeReader = classify,
) -> tuple[RecordT, ...]:
    """Reserve the folder, build the agent, play what the folder does not hold yet; can be stopped at any moment.

    Args:
        episodes: by key; each is begun when there is room for it.
        purpose: names the evaluation, and keeps the seeds of different ones apart.
        resume: go on with what the folder holds.
        agent: who answers; None builds the one that the settings choose.
        width: dialogues side by side.
        read: what a tool's text means in the world at hand.

    Returns:
        A record for each episode, in order.

    Raises:
        ConfigError: no such model or server, or the folder holds another evaluation, or one that `resume` does not ask
            for.
        DataError: the folder's traces hold lines that are no records.
        PolicyError: the model broke, or the last `MAX_CONSECUTIVE_FAILURES` episodes met a fault; what was finished
            is safe.
    """
    require_free(output, settings.saved(), resume=resume)
    choice, given = settings.agent, agent is not None
    agent = agent or choice.build(width=width, read=read)
    reserve(output, settings.saved())
    record_provenance(
        output,
        inputs=None if given or choice.endpoint else choice.inputs(),
        accelerators=accelerators(),
        threads=torch.get_num_threads(),
    )
    log = output / TRACES
    held = finished(log, form) & episodes.keys()
    with progress(purpose, total=len(episodes), done=len(held)) as advance:
        numbers = count(len(held) + 1)
        return play_missing(
            episodes,
            agent,
            log=log,
            form=form,
            held=held,
            purpose=purpose,
            seed=settings.seed,
            report=lambda record: advance(next(numbers), form.key(record)),
        )
