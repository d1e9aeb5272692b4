"""Task files by command: drawn, made of rows of others, and checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fission_grpo.assembly import ENVIRONMENTS, with_own_environments
from fission_grpo.config import RunSettings
from fission_grpo.environments.base import Environments
from fission_grpo.errors import ConfigError, DataError
from fission_grpo.files import write_pieces
from fission_grpo.preflight import require_fit_environments, require_judges, require_requests
from fission_grpo.rollout import Horizon
from fission_grpo.simulator_lab.records import check_simulator_records, looks_like_records
from fission_grpo.tasks.convert.conversion import Conversion, convert_rows
from fission_grpo.tasks.convert.hub import fetched
from fission_grpo.tasks.convert.rows import ENDINGS
from fission_grpo.tasks.gold_chain import canonical
from fission_grpo.tasks.jsonl import read_tasks, write_tasks
from fission_grpo.tasks.synthesis.families import SEEN_APIS
from fission_grpo.tasks.synthesis.generator import Split, synthesise
from fission_grpo.tasks.synthesis.overlap import Offence, official_overlap, overlap
from fission_grpo.tasks.training_set import GIVEN, SYNTHETIC
from fission_grpo.types import Task

OFFICIAL = "it is an official test entry, or shares a text, a world or a chain of calls with one"
"""Why a task is left out that must not be trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeTasks:
    """A task file that was written."""

    file: Path
    split: Split
    seed: int
    tasks: int
    hidden: int
    """Of these, tasks with an unmet precondition that nothing in their text tells."""

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        counts = {"tasks": self.tasks, "hidden_precondition": self.hidden}
        return {"file": str(self.file), **counts, "split": self.split, "seed": self.seed}

    def __str__(self) -> str:
        """One line for a person."""
        return f"{self.tasks} tasks in {self.file}, {self.hidden} with a hidden precondition"


def make_tasks(
    output: Path, *, split: Split, count: int, seed: int = 0, apis: tuple[str, ...] = SEEN_APIS
) -> MadeTasks:
    """Draw tasks over APIs of one set and write them; folders are made.

    Raises:
        ConfigError: the drawing cannot be done.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    tasks = synthesise(seed, count, apis=apis, split=split)
    write_tasks(output, tasks)
    hidden = sum(bool(task.meta["hidden"]) for task in tasks)
    return MadeTasks(file=output, split=split, seed=seed, tasks=len(tasks), hidden=hidden)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertedFile:
    """A task file that was made of rows of others."""

    file: Path
    conversion: Conversion
    compared: bool
    """Whether tasks that are official test entries were looked for, and left out."""

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        made = self.conversion
        return {
            "file": str(self.file),
            "form": made.form,
            "rows": made.rows,
            "tasks": len(made.tasks),
            "in_a_world": made.in_a_world,
            "ask_for_calls": made.ask_for_calls,
            "ask_for_words": made.ask_for_words,
            "left_out": len(made.left_out),
            "reasons": dict(made.reasons()),
            "problems": list(map(str, made.left_out)),
            "compared_with_official_entries": self.compared,
        }

    def __str__(self) -> str:
        """For a person: what came of it, and why some did not."""
        made = self.conversion
        lines = [
            f"{self.file}: {len(made.tasks)} tasks from {made.rows} rows ({made.form}): {made.ask_for_calls} ask for "
            f"calls, {made.ask_for_words} for words, {made.in_a_world} live in a world"
        ]
        lines += [f"left out: {len(made.left_out)}"] if made.left_out else []
        lines += [f"{count:>8}  {reason}" for reason, count in made.reasons().items()]
        lines += [] if self.compared else ["not compared with the official test entries: bfcl_eval is not installed"]
        return "\n".join(lines)


def convert_file(
    source: str, output: Path, *, form: str | None = None, environments: Environments = ENVIRONMENTS
) -> ConvertedFile:
    """Write the rows of others as tasks; folders are made.

    Args:
        source: a file, or a data set on the Hub: `owner/name`, or `owner/name:file`.
        form: one of `FORMS`; None to recognise it.
        environments: where gold calls are executed.

    Raises:
        ConfigError: nothing can be read, or nothing can be converted (a `DataError` then says why, row by row).
    """
    file = Path(source).expanduser()
    made = convert_rows(
        file if file.exists() or file.suffix in ENDINGS else fetched(source), form, environments=environments
    )
    try:
        made, compared = made.without({one.task for one in _official(list(made.tasks))}, OFFICIAL), True
    except ConfigError:  # no benchmark at hand; `data check` asks again
        compared = False
    if not made.tasks:
        raise DataError(source, list(map(str, made.left_out)) or ["holds no row"])
    output.parent.mkdir(parents=True, exist_ok=True)
    write_pieces(output, (json.dumps(record, ensure_ascii=False) + "\n" for record in made.records))
    return ConvertedFile(file=output, conversion=made, compared=compared)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedFile:
    """A file of tasks or of simulator records, and what is wrong with it."""

    file: Path
    tasks: int | None
    """How many there are; None of simulator records."""
    problems: tuple[str, ...]
    """Each with the file that it is in."""

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        counted = {} if self.tasks is None else {"tasks": self.tasks}
        return {"file": str(self.file), "ok": not self.problems, **counted, "problems": list(self.problems)}

    def __str__(self) -> str:
        """For a person: every problem in a line of its own, and a last line."""
        if self.problems:
            return "\n".join((*self.problems, f"{len(self.problems)} problem(s)"))
        return f"{self.file}: no problems" if self.tasks is None else f"{self.file}: {self.tasks} tasks, no problems"


def check_file(file: Path, *, against: Path | None = None, environments: Environments = ENVIRONMENTS) -> CheckedFile:
    """Find every problem of a file, overlap with the official test entries included.

    Args:
        file: tasks, or simulator records.
        against: another task file that tasks must not overlap with.
        environments: where gold calls are executed.
    """
    if looks_like_records(file):
        problems = tuple(f"{file}: {problem}" for problem in check_simulator_records(file))
        return CheckedFile(file=file, tasks=None, problems=problems)
    try:
        tasks = read_tasks(file, environments=environments)
        shared = _official(tasks)
        shared += overlap(tasks, read_tasks(against, environments=environments)) if against else []
    except DataError as error:
        return _unreadable(file, error)
    return CheckedFile(file=file, tasks=len(tasks), problems=tuple(f"{file}: {offence}" for offence in shared))


def check_project(settings: RunSettings) -> tuple[CheckedFile, ...]:
    """Find every problem of the task files that some settings name, and of the worlds that these tasks live in.

    Beyond each file: environments are tried as before a training, everything that is explored or evaluated must have a
    judge, and no held-out task may be trained on.

    Raises:
        ConfigError: the settings name no file of tasks, or an environment that cannot be imported.
    """
    if settings.data in (SYNTHETIC, GIVEN):
        raise ConfigError(f"data={settings.data} is no file to check; give a FILE, or settings whose data is one")
    own = with_own_environments(ENVIRONMENTS, settings.environments)
    files = [Path(name).expanduser() for name in (settings.data, settings.heldout) if name is not None]
    seen: dict[str, Task] = {}
    return tuple(_checked(file, settings, own, seen, trained=not place) for place, file in enumerate(files))


def _checked(
    file: Path, settings: RunSettings, environments: Environments, seen: dict[str, Task], *, trained: bool
) -> CheckedFile:
    """One file of some settings.

    Args:
        seen: tasks that are trained on, by all that they ask; filled by the file that is.
        trained: whether it is trained on, rather than held out.
    """
    try:
        tasks = read_tasks(file, environments=environments)
    except DataError as error:
        return _unreadable(file, error)
    marked = {canonical([task.messages, task.followups, task.world and task.world.config]): task for task in tasks}
    both = marked.keys() & seen.keys()
    problems = [f"{marked[mark].id}: asks the same as {seen[mark].id}, which is trained on" for mark in both]
    seen |= marked if trained else {}
    problems += map(str, _official(tasks))
    recovery = settings.fission.horizon if trained and settings.fission.contexts else None
    horizons = settings.horizons if trained else {Horizon.EPISODE}
    try:
        require_fit_environments(tasks, {name: environments[name] for name in settings.environments})
        require_judges(tasks, environments, horizons=horizons, recovery=recovery)
        require_requests(tasks, turn_queries=settings.trainer.turn_queries if trained else 0)
    except ConfigError as error:
        problems.append(str(error))
    return CheckedFile(
        file=file, tasks=len(tasks), problems=tuple(f"{file}: {problem}" for problem in sorted(problems))
    )


def _official(tasks: list[Task]) -> list[Offence]:
    """What tasks share with the official entries; those in worlds of the user's own need no BFCL at hand."""
    comparable = [task for task in tasks if task.world is None or task.world.environment in ENVIRONMENTS]
    return official_overlap(comparable) if comparable else []


def _unreadable(file: Path, error: DataError) -> CheckedFile:
    problems = tuple(f"{error.path}: {problem}" for problem in error.problems)
    return CheckedFile(file=file, tasks=0, problems=problems)
