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
        if not self._path.exists():
            return
        self._offset = min(self._offset, self._path.stat().st_size)
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield parse_json(line)
