"""Text files: JSON and YAML in, whole files out. What cannot be read is said in one sentence.

A file may come from anybody, and so may the text of a model or of a server: this is the one place where they are read,
with limits of size (`MAX_FILE`, `MAX_LINE`), of depth (`MAX_DEPTH`) and of kind (no aliases and no tags of Python in
YAML). What is written can be read after a crash: the old text or the new one, and never half of it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import secrets
import shutil
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from fission_grpo.errors import ConfigError, DataError

ESCAPED = "backslashreplace"
"""Half a surrogate pair, which UTF-8 cannot hold, becomes the JSON escape that reads back as itself."""
MAX_FILE = 64 * 2**20
"""Bytes of a file that is read as a whole."""
MAX_LINE = 64 * 2**20
"""Bytes of one line of a JSONL file; a long-context task has one million."""
MAX_DEPTH = 128
"""Lists and objects within each other. Whatever walks a value (`json`, `copy`, pydantic) does so by recursion, and the
tightest of them, pydantic's, ends at 200."""
_UNFINISHED = ".unfinished"
_TOO_DEEP = object()
_NESTING = (list, dict)
_QUOTED = 60
"""Most characters of a damaged line that a message repeats."""


def read_jsonl(path: Path, *keys: str) -> Iterator[dict[str, Any]]:
    """Objects of a JSONL file; a last line that a crash cut off is passed over.

    Args:
        keys: what each must have.
    Raises:
        DataError: any other line is no JSON object, or lacks a key.
    """
    for number, line in raw_lines(path):
        if line.endswith(b"\n"):
            yield _object_of(line, keys, path, number)


def raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each line with its number, its end included: bytes, because a crash may cut a character in two.

    Raises:
        DataError: one is longer than `MAX_LINE`.
    """
    with path.open("rb") as file:
        for number in count(1):
            line = file.readline(MAX_LINE + 1)
            if not line:
                return
            if len(line) > MAX_LINE:
                raise DataError(str(path), [f"line {number}: has more than {MAX_LINE} bytes; cut it, or delete it"])
            yield number, line


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text from anybody.

    Raises:
        ValueError: it is no JSON, no UTF-8, or nested deeper than `MAX_DEPTH`.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        value = _TOO_DEEP
    if value is _TOO_DEEP or not is_shallow(value):
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    return value


def is_shallow(value: Any) -> bool:
    """Whether a JSON value is nested no deeper than `MAX_DEPTH`."""
    level = [value] if isinstance(value, _NESTING) else []
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _within(outer)]
        if not level:
            return True
    return False


def _within(value: Any) -> Iterable[Any]:
    """The lists and objects right within one."""
    return (inner for inner in (value if isinstance(value, list) else value.values()) if isinstance(inner, _NESTING))


def parse_yaml(text: str) -> yaml.Node | None:
    """The root of a YAML text from anybody, which `yaml_value` makes a value of; None of an empty one.

    Raises:
        yaml.YAMLError: it is no YAML, nested deeper than `MAX_DEPTH`, or has aliases: nine lines of them can stand for
            a thousand million values.
    """
    try:
        return _PlainLoader(text).get_single_node()
    except RecursionError as error:
        raise yaml.YAMLError(f"nested deeper than {MAX_DEPTH} levels") from error


def yaml_value(node: yaml.Node) -> Any:
    """The plain value of a node.

    Raises:
        yaml.YAMLError: it asks for anything else.
    """
    try:
        return _PlainLoader("").construct_document(node)
    except ValueError as error:  # a 99th of January, for instance
        raise yaml.YAMLError(str(error)) from error


class _PlainLoader(yaml.SafeLoader):
    """Safe, without aliases, and not too deep."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"aliases are not read; write the value out ({event.start_mark})")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.YAMLError(f"nested deeper than {MAX_DEPTH} levels ({event.start_mark})")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def read_text(path: Path, *, most: int | None = None) -> str:
    """A text of at most so many bytes; `MAX_FILE` unless given.

    Raises:
        OSError: it cannot be opened, or is larger.
        UnicodeDecodeError: it is no UTF-8.
    """
    return _read_bytes(path, most).decode()


def _read_bytes(path: Path, most: int | None = None) -> bytes:
    most = MAX_FILE if most is None else most
    with path.open("rb") as file:
        text = file.read(most + 1)
    if len(text) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
    return text


def _object_of(line: bytes, keys: Sequence[str], path: Path, number: int) -> dict[str, Any]:
    try:
        found = parse_json(line)
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
        found = parse_json(_read_bytes(path))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; {remedy}") from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise ConfigError(f"{path} is no JSON ({error}); {remedy}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds {type(found).__name__}, expected a JSON object; {remedy}")
    if missing := [key for key in keys if key not in found]:
        raise ConfigError(f"{path} has no key {missing[0]!r}; {remedy}")
    return found


def whole_path(value: str, *, names: Container[str] = ()) -> str:
    """A relative path of something that is there, as any working directory calls it; all else is left as it is.

    Args:
        names: that are no paths, whatever lies here under them.
    """
    path = Path(value).expanduser()
    return str(path.resolve()) if value and value not in names and path.exists() else value


def file_hash(path: Path) -> str:
    """SHA-256 of all bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    """The same for a text that need not stand in memory as a whole; what breaks in `pieces` leaves the old file.

    Raises:
        OSError: the disk refused it; the file is named.
    """
    unfinished = unfinished_beside(path)
    with ExitStack() as on_failure:
        on_failure.callback(unfinished.unlink, missing_ok=True)
        try:
            with unfinished.open("w", encoding="utf-8", errors=ESCAPED) as file:
                file.writelines(pieces)
        except OSError as error:  # a full disk does not say which file it was
            raise OSError(error.errno, error.strerror, str(path)) from error
        unfinished.replace(path)
        on_failure.pop_all()
