"""Where every group of a run lies in its `traces.jsonl`, and a line on each trajectory: what a list shows and filters.

The file is read once, in portions; tokens, replies and rewards' terms stay on the disk until somebody looks at them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from fission_grpo.errors import DataError
from fission_grpo.evaluation.events import error_events
from fission_grpo.files import parse_json
from fission_grpo.report.page.episodes import episode_of
from fission_grpo.report.page.sources import Trace
from fission_grpo.report.tree import last_words, readable
from fission_grpo.run.follow import Follower
from fission_grpo.types import GroupKind

_KEPT = 64
"""Groups that were looked at last stay in memory."""
_LONGEST = 300
"""Characters of a trajectory's line that are kept."""


class Ending(StrEnum):
    """Which trajectories are shown."""

    ALL = "all"
    FAILED = "failed"
    RECOVERED = "recovered"
    """Right after an error: its own, or the one that a recovery was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What a trajectory must be to stand in the list; the default lets everything through."""

    ending: Ending = Ending.ALL
    error: str = ""
    """Class of its first error, or of its failure."""
    tool: str = ""
    """Whose call the first error was."""
    words: str = ""
    """Somewhere in its request, its task or its messages, in any case."""

    def __str__(self) -> str:
        """For a status line; nothing where everything is shown."""
        named = ("" if self.ending is Ending.ALL else self.ending.value, self.error, self.tool)
        return " · ".join(filter(None, (*named, self.words and f"/{self.words}")))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedTrajectory:
    """One trajectory, in a line."""

    right: bool
    reward: float | None
    advantage: float
    error: str
    tool: str
    recovered: bool
    calls: str
    """Its messages on one line, clipped."""
    text: str
    """All of them, for a search."""

    def passes(self, chosen: Filter) -> bool:
        """Words aside."""
        if chosen.error not in ("", self.error) or chosen.tool not in ("", self.tool):
            return False
        if chosen.ending is Ending.FAILED:
            return not self.right
        return self.recovered or chosen.ending is Ending.ALL


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One group."""

    start: int
    end: int
    """Bytes of the file."""
    name: str
    step: int
    fission: bool
    task: str
    error: str
    """That its recoveries were given; empty of an exploration group."""
    parent: str | None
    """Name of the group that it grew from."""
    request: str
    members: tuple[ListedTrajectory, ...]

    @property
    def right(self) -> int:
        return sum(member.right for member in self.members)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of the list: a step, a group or a trajectory."""

    step: int
    group: int | None = None
    """Place of the entry."""
    member: int | None = None


class TraceIndex:
    """The groups of one run, in order; grows while the run does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self.cuts = 0
        """How many groups have been forgotten."""
        self._places: dict[str, int] = {}
        self._follower = Follower(path)
        self._load = lru_cache(maxsize=_KEPT)(self._read)

    @property
    def trajectories(self) -> int:
        return sum(len(entry.members) for entry in self.entries)

    def grow(self, most: int) -> bool:
        """Read on, `most` groups at a time; what a resumed run has cut off is forgotten.

        Returns:
            Whether all is read that there is now.
        Raises:
            DataError: a line is no group.
        """
        size = self.path.stat().st_size if self.path.exists() else 0
        self._forget(size, whole=True)
        read = 0
        try:
            for start, end, trace in islice(self._follower.new_at(), most):
                self._forget(start, whole=False)
                entry = _entry(start, end, trace)
                self._places[entry.name] = len(self.entries)
                self.entries.append(entry)
                read += 1
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(str(self.path), [f"group {len(self.entries)}: {error!r}; restore the file"]) from error
        return read < most

    def _forget(self, place: int, *, whole: bool) -> None:
        """Drop the entries that end behind a place in the file, or begin at it or behind it."""
        while self.entries and (self.entries[-1].end > place if whole else self.entries[-1].start >= place):
            self._places.pop(self.entries.pop().name, None)
            self.cuts += 1
            self._load.cache_clear()

    def load(self, group: int) -> Trace:
        """A whole group, from the disk.

        Raises:
            DataError: the file holds another one there by now.
        """
        entry = self.entries[group]
        return self._load(entry.start, entry.end, entry.name)

    def parent(self, trace: Trace) -> Trace | None:
        """The group that a fission group grew from; None of another one, and where it is not in the file."""
        named = trace.get("parent")
        place = self._places.get(str(named["group"])) if named else None
        return None if place is None else self.load(place)

    def _read(self, start: int, end: int, name: str) -> Trace:
        with self.path.open("rb") as file:
            file.seek(start)
            line = file.read(end - start)
        try:
            trace: Mapping[str, Any] = parse_json(line)
            if str(trace["group"]) == name:
                return trace
        except (ValueError, KeyError, TypeError):
            pass
        raise DataError(str(self.path), [f"group {name} is no longer where it was; open the run anew"])

    def lines(self, chosen: Filter, *, first: int = 0) -> Iterator[Line]:
        """Steps, groups and trajectories that pass, in order.

        Args:
            first: group to begin with; its step has no line if the group before it is of the same.
        """
        words = chosen.words.casefold()
        step = self.entries[first - 1].step if first else None
        for group, entry in enumerate(self.entries[first:], first):
            named = not words or words in f"{entry.task}\n{entry.request}".casefold()
            kept = [
                place
                for place, member in enumerate(entry.members)
                if member.passes(chosen) and (named or words in member.text.casefold())
            ]
            if not kept:
                continue
            if entry.step != step:
                step = entry.step
                yield Line(step=step)
            yield Line(step=step, group=group)
            yield from (Line(step=step, group=group, member=place) for place in kept)

    def errors(self) -> list[str]:
        """Classes that occur, sorted."""
        return sorted({member.error for entry in self.entries for member in entry.members} - {""})

    def tools(self) -> list[str]:
        """Tools whose calls failed, sorted."""
        return sorted({member.tool for entry in self.entries for member in entry.members} - {""})


def _entry(start: int, end: int, trace: Trace) -> Entry:
    fission = trace["kind"] == GroupKind.FISSION
    parent = trace.get("parent")
    return Entry(
        start=start,
        end=end,
        name=str(trace["group"]),
        step=int(trace["step"]),
        fission=fission,
        task=str(trace["task"]),
        error=str(trace.get("error") or ""),
        parent=str(parent["group"]) if parent else None,
        request=last_words(trace["prompt"]),
        members=tuple(_member(trace, trajectory, fission=fission) for trajectory in trace["trajectories"]),
    )


def _member(trace: Trace, trajectory: Mapping[str, Any], *, fission: bool) -> ListedTrajectory:
    events, failure = error_events(episode_of(trace, trajectory)), trajectory["failure"]
    right, texts = bool(trajectory["success"]), trajectory["text"]
    first = events[0].error.value if events else ""
    return ListedTrajectory(
        right=right,
        reward=None if trajectory["reward"] is None else float(trajectory["reward"]["total"]),
        advantage=float(trajectory["advantage"]),
        error=first or str((failure or {}).get("error") or ""),
        tool=(events[0].tool or "") if events else "",
        recovered=right and (fission or bool(events)),
        calls=" → ".join(map(readable, texts))[:_LONGEST],
        text="\n".join(texts),
    )


def positions(lines: Sequence[Line], entries: Sequence[Entry]) -> list[int]:
    """Places in the list at which a fission tree begins."""
    return [
        place
        for place, line in enumerate(lines)
        if line.group is not None and line.member is None and entries[line.group].fission
    ]
