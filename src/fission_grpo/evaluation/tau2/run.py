"""Plays many tickets side by side; every finished one is on disk at once, and a run that was stopped goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fission_grpo.agents.base import Agent
from fission_grpo.environments.limits import CallLimits
from fission_grpo.evaluation.bfcl.records import mend
from fission_grpo.evaluation.flight import fly
from fission_grpo.evaluation.records import EpisodeRecord, read_records, to_line
from fission_grpo.evaluation.tau2.episode import SoloLimits, SoloPrompt, play_ticket
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
    """Play the tickets that `traces` does not hold yet, append each record as it is finished, return all of them.

    Whatever stops it, finished tickets are safe, and a second call plays the others. Tickets that ended in a fault of
    ours or the server's are played again; the last record of a ticket counts.

    Args:
        report: told every record that this call adds.

    Raises:
        DataError: `traces` holds lines that are no records.
        PolicyError, ConfigError: the agent cannot go on.
    """
    kept: frozenset[str] = frozenset()
    if traces.exists():
        mend(traces)
        kept = frozenset(record.task for record in read_records(traces) if record.verdict is not None)
    episodes = (
        play_ticket(ticket, prompt=prompt, limits=limits, call_limits=call_limits)
        for ticket in tickets
        if ticket.id not in kept
    )
    with traces.open("a", encoding="utf-8") as file:
        for record in fly(episodes, agent, purpose="tau2", seed=seed):
            file.write(to_line(record) + "\n")
            file.flush()
            report(record)
    latest = {record.task: record for record in read_records(traces)}
    return tuple(latest[ticket.id] for ticket in tickets if ticket.id in latest)
