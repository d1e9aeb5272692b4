"""Task files by command: drawn, and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fission_grpo.errors import DataError
from fission_grpo.simulator_lab.records import check_simulator_records, looks_like_records
from fission_grpo.tasks.jsonl import read_tasks, write_tasks
from fission_grpo.tasks.synthesis.families import SEEN_APIS
from fission_grpo.tasks.synthesis.generator import Split, synthesise
from fission_grpo.tasks.synthesis.overlap import official_overlap, overlap


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


def check_file(file: Path, *, against: Path | None = None) -> CheckedFile:
    """Find every problem of a file, overlap with the official test entries included.

    Args:
        file: tasks, or simulator records.
        against: another task file that tasks must not overlap with.
    """
    if looks_like_records(file):
        problems = tuple(f"{file}: {problem}" for problem in check_simulator_records(file))
        return CheckedFile(file=file, tasks=None, problems=problems)
    try:
        tasks = read_tasks(file)
        shared = [*official_overlap(tasks), *(overlap(tasks, read_tasks(against)) if against else [])]
    except DataError as error:
        problems = tuple(f"{error.path}: {problem}" for problem in error.problems)
        return CheckedFile(file=file, tasks=0, problems=problems)
    return CheckedFile(file=file, tasks=len(tasks), problems=tuple(f"{file}: {offence}" for offence in shared))
