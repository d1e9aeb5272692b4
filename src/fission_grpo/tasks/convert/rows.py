"""Rows of a file: JSON Lines, a JSON list, or Parquet. Each with its place, or with what is wrong there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from fission_grpo.errors import ConfigError
from fission_grpo.files import MAX_DEPTH, is_shallow, parse_json, raw_lines, read_text
from fission_grpo.tasks.convert.form import SourceRow

PlacedRow: TypeAlias = tuple[str, SourceRow | None, str]
"""Where a row stands (`line 3`, `row 3`), the row, and else what is wrong with it."""
_LARGEST = 2**30
"""Bytes of a JSON file, which is read as a whole."""


def read_rows(path: Path) -> Iterator[PlacedRow]:
    """The rows of a file, by the ending of its name.

    Raises:
        ConfigError: it cannot be read at all.
    """
    if path.suffix not in _READERS:
        raise ConfigError(f"{path}: got a file {path.suffix!r}, expected one of {', '.join(_READERS)}")
    try:
        yield from _READERS[path.suffix](path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error


def _lines(path: Path) -> Iterator[PlacedRow]:
    for number, line in raw_lines(path):
        if line.strip():
            try:
                yield _placed(f"line {number}", parse_json(line))
            except ValueError as error:
                yield f"line {number}", None, f"is no JSON: {error}"


def _whole(path: Path) -> Iterator[PlacedRow]:
    """A list, an object with one under `data`, or, as in BFCL's own files, JSON Lines after all."""
    try:
        found = parse_json(read_text(path, most=_LARGEST))
    except ValueError:
        yield from _lines(path)
        return
    rows = found.get("data", [found]) if isinstance(found, dict) else found
    if not isinstance(rows, list):
        raise ConfigError(f"{path} holds {type(rows).__name__}, expected a list of objects")
    yield from (_placed(f"row {number}", row) for number, row in enumerate(rows, 1))


def _parquet(path: Path) -> Iterator[PlacedRow]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ConfigError(
            f"{path} is Parquet, which pyarrow reads, and pyarrow is not installed: pip install pyarrow, or save the "
            "table as JSON Lines where it is installed (`Dataset.to_json` of datasets)"
        ) from error
    try:
        batches = ParquetFile(path).iter_batches()
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, 1):
            yield _placed(f"row {number}", json.loads(json.dumps(row, default=str)))
    except ArrowException as error:
        raise ConfigError(f"{path} is no Parquet that can be read: {error}") from error


_READERS: Mapping[str, Callable[[Path], Iterator[PlacedRow]]] = {
    ".jsonl": _lines,
    ".json": _whole,
    ".parquet": _parquet,
}


ENDINGS = tuple(_READERS)
"""Of files that hold rows."""


def _placed(place: str, row: Any) -> PlacedRow:
    if not isinstance(row, dict):
        return place, None, f"holds {type(row).__name__}, expected an object"
    return (place, row, "") if is_shallow(row) else (place, None, f"is nested deeper than {MAX_DEPTH} levels")
