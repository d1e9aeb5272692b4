"""How a long command shows where it is: a bar with the time that is left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Show: TypeAlias = Callable[[int, str], None]
"""Told how much is done, and a remark."""

LINES = 50
"""Most plain lines of one phase, its last one not counted."""


@contextmanager
def progress(what: str, *, total: int, done: int = 0) -> Iterator[Show]:
    """Show one phase on standard error.

    Args:
        what: name of the phase.
        total: when it is over.
        done: what an earlier run did already.
    """
    console = Console(stderr=True)
    with _bar(console, what, total, done) if console.is_terminal else _lines(what, total, done) as show:
        yield show


@contextmanager
def _bar(console: Console, what: str, total: int, done: int) -> Iterator[Show]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
    )
    with Progress(*columns, console=console) as bar:
        phase = bar.add_task(what, total=total, completed=done, remark="")
        yield lambda now, remark: bar.update(phase, completed=now, remark=remark)


@contextmanager
def _lines(what: str, total: int, done: int) -> Iterator[Show]:
    begin = time.monotonic()
    every = max(1, total // LINES)

    def show(now: int, remark: str) -> None:
        if now % every and now != total:
            return
        spent = time.monotonic() - begin
        left = spent / max(now - done, 1) * (total - now)
        sys.stderr.write(f"{what} {now}/{total}  {spent:.0f} s, {left:.0f} s left  {remark}\n")
        sys.stderr.flush()

    yield show
