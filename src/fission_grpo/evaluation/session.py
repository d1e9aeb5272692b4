"""An evaluation as a file that grows: every finished record is on disk at once, and a run that was stopped goes on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from fission_grpo.agents.base import Agent
from fission_grpo.errors import PolicyError
from fission_grpo.evaluation.interleave import Played, fly
from fission_grpo.evaluation.records import EpisodeRecord, read_records, to_line

RecordT = TypeVar("RecordT")

PATIENCE = 20
"""Spoiled episodes in a row after which a server or our machinery is taken for dead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format(Generic[RecordT]):
    """How records of one kind are written down."""

    key: Callable[[RecordT], str]
    """What was played."""
    sound: Callable[[RecordT], bool]
    """False where a fault of ours or of a server spoiled it: it is played again."""
    to_line: Callable[[RecordT], str]
    read: Callable[[Path], Sequence[RecordT]]
    """All whole lines of a file; raises DataError with every line that is no record."""


EPISODE_LOG: Format[EpisodeRecord] = Format(
    key=lambda record: record.task,
    sound=lambda record: not record.harness_fault,
    to_line=to_line,
    read=read_records,
)


def play_missing(
    episodes: Mapping[str, Callable[[], Played[RecordT]]],
    agent: Agent,
    *,
    log: Path,
    form: Format[RecordT],
    purpose: str,
    seed: int,
    report: Callable[[RecordT], None] = lambda record: None,
) -> tuple[RecordT, ...]:
    """Play what `log` does not hold yet, append each record as it is finished, return all of them in order.

    Whatever stops it (Ctrl-C, a kill, an agent that cannot go on), finished records are safe, and a second call plays
    the others. The last record of an episode counts.

    Args:
        episodes: by key; each is begun when there is room for it.
        purpose: keeps the seeds of different benchmarks apart.
        report: told every record that this call adds.

    Raises:
        DataError: `log` holds lines that are no records.
        PolicyError, ConfigError: the agent cannot go on, or the last `PATIENCE` episodes were all spoiled.
    """
    held = finished(log, form)
    missing = (begin() for key, begin in episodes.items() if key not in held)
    spoiled = 0
    with log.open("a", encoding="utf-8") as file:
        for record in fly(missing, agent, purpose=purpose, seed=seed):
            file.write(form.to_line(record) + "\n")
            file.flush()
            report(record)
            spoiled = 0 if form.sound(record) else spoiled + 1
            if spoiled == PATIENCE:
                raise PolicyError(
                    f"{PATIENCE} episodes in a row met a fault (see {log}); mend it and go on with --resume"
                )
    latest = {form.key(record): record for record in form.read(log)}
    return tuple(latest[key] for key in episodes if key in latest)


def finished(log: Path, form: Format[RecordT]) -> frozenset[str]:
    """Keys that need not be played again; a half-written last line is cut off, with a warning.

    Raises:
        DataError: `log` holds lines that are no records.
    """
    if not log.exists():
        return frozenset()
    mend(log)
    return frozenset(form.key(record) for record in form.read(log) if form.sound(record))


def mend(log: Path) -> None:
    """Cut off a last line that a kill left half-written, so that lines can be appended; says so in a warning."""
    text = log.read_bytes()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        with log.open("r+b") as file:
            file.truncate(whole)
        warnings.warn(f"{log}: the last line was cut off and is dropped; its episode is played again", stacklevel=2)
