"""A file of lines that grows while it is read: each call gives the whole lines that are new."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fission_grpo.files import parse_json


class Follower:
    """Reads on where it stopped; half a line waits for its end, and a file that was cut is read on from its new end."""

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        """Args: from_end: what is there already is passed over."""
        self._path = path
        self._offset = path.stat().st_size if from_end and path.exists() else 0

    def new(self) -> Iterator[dict[str, Any]]:
        """The objects of the new lines.

        Raises:
            ValueError: a line is no JSON.
        """
        yield from (found for _, _, found in self.new_at())

    def new_at(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """The same, each behind the places at which its line begins and ends, in bytes; may be left at any of them."""
        if not self._path.exists():
            return
        self._offset = min(self._offset, self._path.stat().st_size)
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                start = self._offset
                self._offset += len(line)
                yield start, self._offset, parse_json(line)
