"""One evaluation in one folder: reserved, played, and written record by record, so that what was stopped goes on.

settings.json   what was asked for; it stands there before anything is played
traces.jsonl    one line for each finished episode, appended as it ends
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fission_grpo.agents.base import Agent
from fission_grpo.agents.baselines import OutcomeReader
from fission_grpo.agents.choice import AgentChoice
from fission_grpo.environments.bfcl.outcomes import classify
from fission_grpo.errors import ConfigError, PolicyError
from fission_grpo.evaluation.interleave import Played, interleave
from fission_grpo.evaluation.records import TRACES, Format, RecordT
from fission_grpo.files import write_text
from fission_grpo.progress import progress
from fission_grpo.settings import with_current_names

MAX_CONSECUTIVE_FAILURES = 20
"""Spoiled episodes in a row after which a server or our machinery is taken for dead."""


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
        PolicyError: the model broke, or the last `MAX_CONSECUTIVE_FAILURES` episodes were spoiled; what was finished
            is safe.
    """
    require_free(output, settings.saved(), resume=resume)
    agent = agent or settings.agent.build(width=width, read=read)
    reserve(output, settings.saved())
    return play_missing(episodes, agent, log=output / TRACES, form=form, purpose=purpose, seed=settings.seed)


def require_free(output: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
    """Refuse before anything is loaded.

    Raises:
        ConfigError: the folder holds an evaluation by other settings, or one that `resume` does not ask for.
    """
    path = output / "settings.json"
    if not path.exists():
        return
    if not resume:
        raise ConfigError(f"{output} already holds an evaluation; go on with --resume or choose another --output")
    held = with_current_names(json.loads(path.read_text(encoding="utf-8")))
    changed = sorted(_changed(held, json.loads(json.dumps(settings))))
    if changed:
        raise ConfigError(f"{output} was begun with other settings ({', '.join(changed)}); choose another --output")


def reserve(output: Path, settings: Mapping[str, Any]) -> None:
    """Take a free folder for these settings: they stand in its `settings.json` from now on."""
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "settings.json", settings)


def write_json(path: Path, value: Any) -> None:
    """One JSON value, for people too."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def play_missing(
    episodes: Mapping[str, Callable[[], Played[RecordT]]],
    agent: Agent,
    *,
    log: Path,
    form: Format[RecordT],
    purpose: str,
    seed: int = 0,
    report: Callable[[RecordT], None] = lambda record: None,
) -> tuple[RecordT, ...]:
    """Play what `log` does not hold yet, append each record as it is finished, return all of them in order.

    Whatever stops it (Ctrl-C, a kill, an agent that cannot go on), finished records are safe, and a second call plays
    the others. The last record of an episode counts.

    Args:
        report: told every record that this call adds.

    Raises:
        DataError: `log` holds lines that are no records.
        PolicyError, ConfigError: the agent cannot go on, or the last `MAX_CONSECUTIVE_FAILURES` episodes were spoiled.
    """
    held = finished(log, form) & episodes.keys()
    missing = (begin() for key, begin in episodes.items() if key not in held)
    failures = 0
    with log.open("a", encoding="utf-8") as file, progress(purpose, total=len(episodes), done=len(held)) as advance:
        for number, record in enumerate(interleave(missing, agent, purpose=purpose, seed=seed), start=len(held) + 1):
            file.write(form.to_line(record) + "\n")
            file.flush()
            advance(number, form.key(record))
            report(record)
            failures = 0 if form.sound(record) else failures + 1
            if failures == MAX_CONSECUTIVE_FAILURES:
                raise PolicyError(
                    f"{MAX_CONSECUTIVE_FAILURES} episodes in a row met a fault (see {log}); repair it and go on with "
                    "--resume"
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
    repair_log(log)
    return frozenset(form.key(record) for record in form.read(log) if form.sound(record))


def repair_log(log: Path) -> None:
    """Cut off a last line that a kill left half-written, so that lines can be appended; says so in a warning."""
    text = log.read_bytes()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        with log.open("r+b") as file:
            file.truncate(whole)
        warnings.warn(f"{log}: the last line was cut off and is dropped; its episode is played again", stacklevel=2)


def _changed(held: Any, asked: Any, path: str = "") -> Iterator[str]:
    """Dotted names of the settings that differ."""
    if isinstance(held, Mapping) and isinstance(asked, Mapping):
        for key in {*held, *asked}:
            yield from _changed(held.get(key), asked.get(key), f"{path}.{key}" if path else key)
    elif held != asked:
        yield path
