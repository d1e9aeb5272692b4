"""Plays many tickets side by side, and goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from fission_grpo.agents.base import Agent
from fission_grpo.environments.limits import CallLimits
from fission_grpo.evaluation.protocols.tau2 import SoloLimits, SoloPrompt, play_ticket
from fission_grpo.evaluation.records import EpisodeRecord
from fission_grpo.evaluation.session import EPISODE_LOG, play_missing
from fission_grpo.types import Task


def run_tickets(
    tickets: Sequence[Task],
    agent: Agent,
    *,
    traces: Path,
    prompt: SoloPrompt = SoloPrompt.OFFICIAL,
    limits: SoloLimits | None = None,
    call_limits: CallLimits | None = None,
    seed: int = 0,
    report: Callable[[EpisodeRecord], None] = lambda record: None,
) -> tuple[EpisodeRecord, ...]:
    """The records of these tickets, in order; see `play_missing`."""
    play = partial(play_ticket, prompt=prompt, limits=limits, call_limits=call_limits)
    episodes = {ticket.id: partial(play, ticket) for ticket in tickets}
    return play_missing(episodes, agent, log=traces, form=EPISODE_LOG, purpose="tau2", seed=seed, report=report)
