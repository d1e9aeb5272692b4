"""How a long command shows where it is: a bar with the time that is left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ProgressCallback: TypeAlias = Callable[[int, str], None]
"""Called with how much is done, and a note."""

LINES = 50
"""Most plain lines of one phase, its last one not counted."""


@contextmanager
def progress(what: str, *, total: int, done: int = 0) -> Iterator[ProgressCallback]:
    """Show one phase on standard error.

    Args:
        what: name of the phase.
        total: when it is over.
        done: what an earlier run did already.
    """
    console = Console(stderr=True)
    with _bar(console, what, total, done) if console.is_terminal else _lines(what, total, done) as callback:
        yield callback


@contextmanager
def _bar(console: Console, what: str, total: int, done: int) -> Iterator[ProgressCallback]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        phase = bar.add_task(what, total=total, completed=done, note="")
        yield lambda now, note: bar.update(phase, completed=now, note=note)


@contextmanager
def _lines(what: str, total: int, done: int) -> Iterator[ProgressCallback]:
    begin = time.monotonic()
    every = max(1, total // LINES)

    def write_line(now: int, note: str) -> None:
        if now % every and now != total:
            return
        spent = time.monotonic() - begin
        left = spent / max(now - done, 1) * (total - now)
        sys.stderr.write(f"{what} {now}/{total}  {spent:.0f} s, {left:.0f} s left  {note}\n")
        sys.stderr.flush()

    yield write_line


def speaks_for_all() -> bool:
    """Whether this is the first of the processes that `accelerate launch` starts; asked of the environment, which knows
    it before anything that takes time is imported."""
    return os.environ.get("RANK", "0") == "0"


def warn(lines: Iterable[str]) -> None:
    """Say something on standard error beside a phase that is shown, or nothing."""
    for line in lines:
        sys.stderr.write(f"warning: {line}\n")
        sys.stderr.flush()
