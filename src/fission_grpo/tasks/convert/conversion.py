"""Rows in, tasks out: what can be converted is checked as a task file is, and what cannot is said with its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fission_grpo.environments.base import Environments
from fission_grpo.errors import ConfigError
from fission_grpo.tasks.convert.form import Draft, Form, RowError, SourceRow
from fission_grpo.tasks.convert.forms import FORMS, form_of
from fission_grpo.tasks.convert.rows import PlacedRow, read_rows
from fission_grpo.tasks.jsonl import inspected, opened
from fission_grpo.types import Task

UNSOUND = "the task that comes of it has problems"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A row, or one decision point of a row, that is no task."""

    place: str
    reason: str
    """The same words for all of which it is true."""
    text: str
    """The reason, and what this one has."""

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What came of the rows of a file."""

    form: str
    rows: int
    records: Sequence[Draft]
    """Lines of a task file, each with an id."""
    tasks: Sequence[Task]
    """The same as tasks, in order."""
    left_out: Sequence[LeftOut]

    @property
    def in_a_world(self) -> int:
        """Tasks that are played in a world, and judged by it."""
        return sum(task.world is not None for task in self.tasks)

    @property
    def ask_for_calls(self) -> int:
        """Decision points at which calls are right."""
        return sum(task.world is None and bool(task.target) for task in self.tasks)

    @property
    def ask_for_words(self) -> int:
        """Decision points at which words are right."""
        return len(self.tasks) - self.in_a_world - self.ask_for_calls

    def without(self, ids: Collection[str], reason: str) -> Conversion:
        """The same without some tasks, each of which is left out for one reason."""
        kept = [place for place, task in enumerate(self.tasks) if task.id not in ids]
        more = [LeftOut(place=task.id, reason=reason, text=reason) for task in self.tasks if task.id in ids]
        return replace(
            self,
            records=[self.records[place] for place in kept],
            tasks=[self.tasks[place] for place in kept],
            left_out=[*self.left_out, *more],
        )

    def reasons(self) -> Mapping[str, int]:
        """How often something was left out, by why; the commonest first."""
        return dict(Counter(one.reason for one in self.left_out).most_common())


def convert_rows(file: Path, form: str | None = None, *, environments: Environments | None = None) -> Conversion:
    """Convert all rows of a file that can be.

    Args:
        form: one of `FORMS`; None to recognise it by the first row.
        environments: where gold calls are executed; default: those that are shipped.

    Raises:
        ConfigError: the file cannot be read, or its form is not recognised.
    """
    rows = list(read_rows(file))
    chosen = FORMS[form] if form else _recognised(file, rows)
    rows = list(_completed(rows, file, chosen))
    left_out: list[LeftOut] = []
    drafts = list(_drafts(rows, chosen, left_out))
    records: list[Draft] = []
    tasks: list[Task] = []
    checked = inspected(((place, *opened(record)) for place, record in drafts), environments)
    for (place, task, found), (_, record) in zip(checked, drafts, strict=True):
        if task is None:
            left_out.append(LeftOut(place=place, reason=UNSOUND, text=f"{UNSOUND}: {'; '.join(found)}"))
        else:
            records.append({"id": task.id, **record})
            tasks.append(task)
    return Conversion(form=chosen.name, rows=len(rows), records=records, tasks=tasks, left_out=left_out)


def _drafts(rows: Iterable[PlacedRow], form: Form, left_out: list[LeftOut]) -> Iterator[tuple[str, Draft]]:
    """What each row becomes, with its place; what becomes nothing is added to `left_out`."""
    for place, row, problem in rows:
        if row is None:
            left_out.append(LeftOut(place=place, reason="is no row", text=problem))
            continue
        try:
            if not form.fits(row):
                raise RowError("keys are missing", f"expected {', '.join(form.marks)}, got {', '.join(row)}")
            found = form.records(row)
        except RowError as error:
            left_out.append(LeftOut(place=place, reason=error.reason, text=str(error)))
            continue
        for number, record in enumerate(found, 1):
            several = len(found) > 1
            yield f"{place}, task {number}" if several else place, {**_name(row, number if several else 0), **record}


def _name(row: SourceRow, number: int) -> dict[str, Any]:
    """The id of a task of a row that has one."""
    name = row.get("id")
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        return {}
    return {"id": f"{name}/{number}" if number else str(name)}


def _recognised(file: Path, rows: Iterable[PlacedRow]) -> Form:
    row = next((row for _, row, _ in rows if row is not None), None)
    if row is None:
        raise ConfigError(f"{file} holds no row; expected one object a line, or a list of objects")
    form = form_of(row)
    if form is None:
        known = "; ".join(f"{one.name} ({', '.join(one.marks)})" for one in FORMS.values())
        raise ConfigError(
            f"{file}: the first row has the keys {', '.join(row)}, which is no form that is known; expected {known}. "
            "Rename its keys, or write tasks yourself: docs/tasks.md"
        )
    return form


def _completed(rows: Iterable[PlacedRow], file: Path, form: Form) -> Iterator[PlacedRow]:
    """Rows with the keys that a second file has for them."""
    beside = file.parent / form.answers / file.name
    further = (row for _, row, _ in read_rows(beside)) if form.answers and beside.is_file() else ()
    known = {str(row["id"]): row for row in further if row is not None and "id" in row}
    for place, row, problem in rows:
        yield place, row if row is None else {**known.get(str(row.get("id")), {}), **row}, problem
