"""Plays many entries side by side; every finished one is on disk at once, and a run that was stopped goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fission_grpo.agents.base import Agent
from fission_grpo.evaluation.bfcl.episode import Handover, play_entry
from fission_grpo.evaluation.bfcl.records import BfclEnd, BfclRecord, mend, read_records, to_line
from fission_grpo.evaluation.flight import fly
from fission_grpo.types import Task


def run_entries(
    entries: Sequence[Task],
    agent: Agent,
    *,
    handover: Handover,
    traces: Path,
    seed: int = 0,
    report: Callable[[BfclRecord], None] = lambda record: None,
) -> tuple[BfclRecord, ...]:
    """Play the entries that `traces` does not hold yet, append each record as it is finished, return all of them.

    Whatever stops it (Ctrl-C, a kill, an agent that cannot go on), finished entries are safe, and a second call plays
    the others. Entries that ended in a fault are played again; the last record of an entry counts.

    Args:
        report: told every record that this call adds.

    Raises:
        DataError: `traces` holds lines that are no records.
        PolicyError, ConfigError: the agent cannot go on.
    """
    kept = finished(traces)
    missing = [entry for entry in entries if entry.id not in kept]
    with traces.open("a", encoding="ascii") as file:
        for record in play_entries(missing, agent, handover=handover, seed=seed):
            file.write(to_line(record) + "\n")
            file.flush()
            report(record)
    places = {entry.id: place for place, entry in enumerate(entries)}
    asked = (record for record in read_records(traces) if record.entry in places)
    return tuple(sorted(asked, key=lambda record: places[record.entry]))


def finished(traces: Path) -> frozenset[str]:
    """Entries that need not be played again; a half-written last line is cut off, with a warning.

    Raises:
        DataError: `traces` holds lines that are no records.
    """
    if not traces.exists():
        return frozenset()
    mend(traces)
    return frozenset(record.entry for record in read_records(traces) if record.end is not BfclEnd.FAULT)


def play_entries(entries: Sequence[Task], agent: Agent, *, handover: Handover, seed: int) -> Iterator[BfclRecord]:
    """Records in the order in which entries end, `agent.width` dialogues in flight all the time.

    Raises:
        PolicyError, ConfigError: the agent cannot go on.
    """
    episodes = (play_entry(entry, handover=handover) for entry in entries)
    return fly(episodes, agent, purpose="bfcl", seed=seed)
