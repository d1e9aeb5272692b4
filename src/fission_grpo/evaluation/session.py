"""One evaluation in one folder: reserved, then written record by record, so that what was stopped goes on.

settings.json   what was asked for; it stands there before anything is played
traces.jsonl    one line for each finished episode, appended as it ends
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from fission_grpo.agents.base import Agent
from fission_grpo.errors import ConfigError, PolicyError
from fission_grpo.evaluation.heldout import COMPLETE
from fission_grpo.evaluation.interleave import Played, interleave
from fission_grpo.evaluation.records import Format, RecordT
from fission_grpo.files import read_json, write_text
from fission_grpo.settings import same_value, with_current_names

MAX_CONSECUTIVE_FAILURES = 20
"""Invalid episodes in a row after which a server or our machinery is taken to be down."""


def require_free(output: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
    """Refuse before anything is loaded.

    Args:
        resume: an evaluation by the same settings may be gone on with, or replaced.
    Raises:
        ConfigError: the folder holds an evaluation by other settings, one that `resume` does not ask for, or a
            `settings.json` that cannot be read.
    """
    path = output / "settings.json"
    if not path.exists():
        if (output / COMPLETE).exists():
            raise ConfigError(
                f"{output} holds an evaluation of version 0.1, which did not say by which settings; choose another "
                "--output (`fission compare` reads both)"
            )
        return
    if not resume:
        raise ConfigError(f"{output} already holds an evaluation; go on with --resume or choose another --output")
    held = with_current_names(read_json(path, remedy="restore it or choose another --output"))
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
    held: Set[str],
    purpose: str,
    seed: int = 0,
    report: Callable[[RecordT], None] = lambda record: None,
) -> tuple[RecordT, ...]:
    """Play what `log` does not hold yet, append each record as it is finished, return all of them in order.

    Whatever stops it (Ctrl-C, a kill, an agent that cannot go on), finished records are safe, and a second call plays
    the others. The last record of an episode counts.

    Args:
        held: keys that `log` holds already: from `finished`, which has also made it fit to be appended to.
        report: told every record that this call adds.

    Raises:
        DataError: `log` holds lines that are no records.
        PolicyError, ConfigError: the agent cannot go on, or the last `MAX_CONSECUTIVE_FAILURES` episodes met a fault,
            or all did: nothing can be said then, and least of all 0 %.
    """
    missing = (begin() for key, begin in episodes.items() if key not in held)
    failures = 0
    with log.open("a", encoding="utf-8") as file:
        for record in interleave(missing, agent, purpose=purpose, seed=seed):
            file.write(form.to_line(record) + "\n")
            file.flush()
            report(record)
            failures = 0 if form.sound(record) else failures + 1
            if failures == MAX_CONSECUTIVE_FAILURES:
                raise PolicyError(
                    f"{MAX_CONSECUTIVE_FAILURES} episodes in a row met a fault (see {log}); repair it and go on with "
                    "--resume"
                )
    latest = {form.key(record): record for record in form.read(log)}
    records = tuple(latest[key] for key in episodes if key in latest)
    if records and not any(map(form.sound, records)):
        raise PolicyError(f"all of {len(records)} episodes met a fault (see {log}); repair it and go on with --resume")
    return records


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
    elif not same_value(held, asked):
        yield path
