"""Text files that a crash leaves readable: JSON lines in, whole files out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ESCAPED = "backslashreplace"
"""Half a surrogate pair, which UTF-8 cannot hold, becomes the JSON escape that reads back as itself."""


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of a JSONL file; a last line that a crash cut off is passed over."""
    with path.open("rb") as file:  # bytes, because a crash may cut a character in two
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step: readers see the old text or the new one, never half of it."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8", errors=ESCAPED)
    unfinished.replace(path)
