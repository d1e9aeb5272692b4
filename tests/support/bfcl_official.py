"""The official BFCL code, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def official_run(script: str, questions: Iterable[str], folder: Path) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Start official code on these lines in a process of its own; the value waits for its answers.

    Args:
        script: a file beside this one that reads a line a question and prints a JSON line an answer.
    """
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2] / "src"), os.environ.get("PYTHONPATH")]))
    places = [folder / name for name in ("questions", "answers", "errors")]
    places[0].write_text("".join(question + "\n" for question in questions), encoding="utf-8")
    with places[0].open() as stdin, places[1].open("w") as stdout, places[2].open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name(script))],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, "BFCL_PROJECT_ROOT": str(folder), "PYTHONPATH": path},
        )

        def answers() -> list[dict[str, Any]]:
            assert process.wait() == 0, places[2].read_text()[-2000:]
            return [json.loads(line) for line in places[1].read_text(encoding="utf-8").splitlines()]

        try:
            yield answers
        finally:
            process.kill()
            process.wait()
