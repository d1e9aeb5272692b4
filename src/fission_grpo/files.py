"""Text files that a crash leaves readable: JSON in, whole files out. What cannot be read is said in one sentence."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fission_grpo.errors import ConfigError, DataError

ESCAPED = "backslashreplace"
"""Half a surrogate pair, which UTF-8 cannot hold, becomes the JSON escape that reads back as itself."""
_UNFINISHED = ".unfinished"
_QUOTED = 60
"""Most characters of a damaged line that a message repeats."""


def read_jsonl(path: Path, *keys: str) -> Iterator[dict[str, Any]]:
    """Objects of a JSONL file; a last line that a crash cut off is passed over.

    Args:
        keys: what each must have.
    Raises:
        DataError: any other line is no JSON object, or lacks a key.
    """
    with path.open("rb") as file:  # bytes, because a crash may cut a character in two
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                yield _object_of(line, keys, path, number)


def _object_of(line: bytes, keys: Sequence[str], path: Path, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:  # no JSON, or no UTF-8
        raise _damaged(line, "a JSON object", path, number) from error
    if not isinstance(found, dict):
        raise _damaged(line, "a JSON object", path, number)
    if missing := [key for key in keys if key not in found]:
        raise _damaged(line, f"the key {missing[0]!r}", path, number)
    return found


def _damaged(line: bytes, expected: str, path: Path, number: int) -> DataError:
    text = line.decode(errors="replace").strip()
    shown = text if len(text) <= _QUOTED else f"{text[:_QUOTED]}..."
    return DataError(str(path), [f"line {number}: found {shown!r}, expected {expected}; restore or delete the line"])


def read_json(path: Path, *keys: str, remedy: str) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        keys: what it must have.
        remedy: what to do about a file that cannot be read; ends the message.

    Raises:
        ConfigError: the file cannot be opened, is no JSON, no object, or lacks a key.
    """
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; {remedy}") from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise ConfigError(f"{path} is no JSON ({error}); {remedy}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds {type(found).__name__}, expected a JSON object; {remedy}")
    if missing := [key for key in keys if key not in found]:
        raise ConfigError(f"{path} has no key {missing[0]!r}; {remedy}")
    return found


def unfinished_beside(path: Path) -> Path:
    """Where a file or folder is written before it gets its name: each time elsewhere, so that no two writers meet."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{_UNFINISHED}")


def remove_halves(folder: Path) -> None:
    """Remove what a crash left half-written in a folder; to be called when nobody writes there."""
    for half in folder.glob(f".*{_UNFINISHED}"):
        shutil.rmtree(half) if half.is_dir() else half.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step: readers see the old text or the new one, never half of it."""
    write_pieces(path, (text,))


def write_pieces(path: Path, pieces: Iterable[str]) -> None:
    """The same for a text that need not stand in memory as a whole; what breaks in `pieces` leaves the old file."""
    unfinished = unfinished_beside(path)
    with ExitStack() as on_failure:
        on_failure.callback(unfinished.unlink, missing_ok=True)
        with unfinished.open("w", encoding="utf-8", errors=ESCAPED) as file:
            file.writelines(pieces)
        unfinished.replace(path)
        on_failure.pop_all()
