"""What a form of rows is, and how a row says that it cannot be one of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

SourceRow: TypeAlias = Mapping[str, Any]
Draft: TypeAlias = dict[str, Any]
"""A line of a task file (docs/tasks.md)."""


class RowError(ValueError):
    """A row that cannot be converted."""

    def __init__(self, reason: str, detail: str = "") -> None:
        """Say why.

        Args:
            reason: the same words for all rows of which it is true: they are counted by it.
            detail: what this row has.
        """
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One way in which people write tasks down."""

    name: str
    """What `--from` calls it."""
    marks: tuple[str, ...]
    """Keys by which its rows are recognised; all of them must be there."""
    records: Callable[[SourceRow], Sequence[Draft]]
    """The tasks of a row, in order. Raises `RowError`."""
    answers: str = ""
    """A folder beside the file, whose file of the same name has further keys of the rows with the same `id`."""

    def fits(self, row: SourceRow) -> bool:
        """Whether a row has the marks of this form."""
        return all(row.get(mark) is not None for mark in self.marks)


def wanted(row: SourceRow, key: str, kind: type) -> Any:
    """The value of a key.

    Raises:
        RowError: it is not there, or of another kind.
    """
    value = row.get(key)
    if not isinstance(value, kind):
        raise RowError(f"{key} is no {_KIND[kind]}", f"got {value!r:.80}")
    return value


_KIND: Mapping[type, str] = {str: "text", list: "list", dict: "object"}
