"""The records of an evaluation that is under way: each is on disk as soon as its episode has ended.

PART.partial.jsonl   one line for each episode of a part, in the order in which they ended; removed when all are there

What an earlier, finished evaluation left in the folder stays until then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fission_grpo.evaluation.heldout import COMPLETE, PARTS, Evaluation, save_parts
from fission_grpo.evaluation.records import EPISODE_RECORDS, EpisodeRecord, read_records, to_line
from fission_grpo.evaluation.session import repair_log


class PartialEvaluation:
    """What a folder holds of an evaluation."""

    def __init__(self, folder: Path, *, resume: bool) -> None:
        """Read what need not be played again.

        Args:
            resume: go on with what was stopped; a finished evaluation is taken as it is.
        Raises:
            ConfigError, DataError: what is there cannot be read.
        """
        self._folder = folder
        self.held: dict[tuple[str, str], EpisodeRecord] = {}
        """By part and task; without those that a fault of ours made invalid."""
        if resume:
            self._take(self._read())

    def _read(self) -> Mapping[str, Sequence[EpisodeRecord]]:
        begun = {part: self._file(part) for part in PARTS if self._file(part).exists()}
        if begun:
            for file in begun.values():
                repair_log(file)
            return {part: read_records(file) for part, file in begun.items()}
        return Evaluation.load(self._folder).parts if (self._folder / COMPLETE).exists() else {}

    def _take(self, parts: Mapping[str, Sequence[EpisodeRecord]]) -> None:
        sound = ((part, one) for part, records in parts.items() for one in records if EPISODE_RECORDS.sound(one))
        self.held = {(part, record.task): record for part, record in sound}

    def begin(self) -> None:
        """Forget what is not held: it is played again."""
        for part in PARTS:
            self._file(part).unlink(missing_ok=True)
        for (part, _), record in self.held.items():
            self.keep(part, record)

    def keep(self, part: str, record: EpisodeRecord) -> None:
        """Write a record down."""
        with self._file(part).open("a", encoding="utf-8") as file:
            file.write(to_line(record) + "\n")

    def finish(self, parts: Mapping[str, Sequence[EpisodeRecord]]) -> None:
        """All are there: put them into the files of a finished evaluation."""
        save_parts(self._folder, parts)
        for part in PARTS:
            self._file(part).unlink(missing_ok=True)

    def _file(self, part: str) -> Path:
        return self._folder / f"{part}.partial.jsonl"
