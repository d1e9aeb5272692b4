"""Plays many BFCL entries side by side, and goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from fission_grpo.agents.base import Agent
from fission_grpo.evaluation.bfcl.records import BfclEnd, BfclRecord, read_records, to_line
from fission_grpo.evaluation.protocols.bfcl import Handover, play_entry
from fission_grpo.evaluation.session import Format, play_missing
from fission_grpo.types import Task

BFCL_LOG: Format[BfclRecord] = Format(
    key=lambda record: record.entry,
    sound=lambda record: record.end is not BfclEnd.FAULT,
    to_line=to_line,
    read=read_records,
)


def run_entries(
    entries: Sequence[Task],
    agent: Agent,
    *,
    handover: Handover,
    traces: Path,
    seed: int = 0,
    report: Callable[[BfclRecord], None] = lambda record: None,
) -> tuple[BfclRecord, ...]:
    """The records of these entries, in order; see `play_missing`."""
    episodes = {entry.id: partial(play_entry, entry, handover=handover) for entry in entries}
    return play_missing(episodes, agent, log=traces, form=BFCL_LOG, purpose="bfcl", seed=seed, report=report)
