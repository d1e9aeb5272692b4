"""Sides of a benchmark that take turns: each in a process of its own, of which one works while the others sleep.

So all sides meet the same load of the machine, and the peak memory of each is its own.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import wraps
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

import torch
from tree import resident_mib


class Phase(StrEnum):
    """What a side is doing."""

    SAMPLING = "sampling"
    """And what answers: tools and worlds."""
    LOSS = "loss"
    """Scoring, loss and backward pass."""
    OPTIMIZER = "optimizer"
    REST = "rest"


class Clock:
    """Seconds of the wall by phase; a phase inside another one stops that one's clock."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._open: list[Phase] = [Phase.REST]
        self._since = 0.0

    def start(self) -> None:
        self._seconds.clear()
        self._since = time.perf_counter()

    def stop(self) -> dict[str, float]:
        """What was counted since `start`."""
        self._count()
        return dict(self._seconds)

    def enter(self, phase: Phase) -> None:
        self._count()
        self._open.append(phase)

    def leave(self) -> None:
        self._count()
        self._open.pop()

    def watch(self, owner: Any, method: str, phase: Phase) -> None:
        """Every call of a method of this object is a phase from now on."""
        own = getattr(owner, method)

        @wraps(own)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.enter(phase)
            try:
                return own(*args, **kwargs)
            finally:
                self.leave()

        setattr(owner, method, watched)

    def _count(self) -> None:
        now = time.perf_counter()
        self._seconds[self._open[-1]] += now - self._since
        self._since = now


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What was measured on a side while it worked."""

    phases: Mapping[str, float]
    """Seconds of the wall."""
    cpu_seconds: float
    """Of all its threads."""
    peak_mib: float
    """Above what the process held before its first turn: the model, and what was imported."""
    noted: Mapping[str, float] = field(default_factory=dict)
    """What the side says that it has done."""

    @property
    def seconds(self) -> float:
        return sum(self.phases.values())


class Seat:
    """A side's end: it sleeps in `begin` until it is its turn."""

    def __init__(self, connection: Connection) -> None:
        self.clock = Clock()
        self._connection = connection
        self._held: float | None = None
        self._cpu = 0.0

    def begin(self) -> None:
        self._connection.send("ready")
        self._connection.recv()
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        if self._held is None:
            self._held = resident_mib()
        self._cpu = time.process_time()
        self.clock.start()

    def end(self, noted: Mapping[str, float]) -> None:
        phases, cpu = self.clock.stop(), time.process_time() - self._cpu
        peak = resident_mib("VmHWM") - (self._held or 0.0)
        self._connection.send(Turn(phases=phases, cpu_seconds=cpu, peak_mib=peak, noted=dict(noted)))

    @contextmanager
    def turn(self) -> Iterator[dict[str, float]]:
        """A turn as a `with` block, which notes what it has done."""
        noted: dict[str, float] = {}
        self.begin()
        yield noted
        self.end(noted)


Work: TypeAlias = Callable[[Seat], None]
"""What a side does, one turn after the other; it has to be picklable."""


def take_turns(
    sides: Mapping[str, Work], *, turns: int, threads: int, told: Callable[[str], None]
) -> dict[str, list[Turn]]:
    """Let every side take a turn, then every side another one.

    Args:
        turns: as many as the work of each side takes.
        threads: of torch, in each process.
        told: hears of each turn.
    Returns:
        The turns of each side, in order.
    """
    context = get_context("spawn")
    seats, processes = {}, []
    for name, work in sides.items():
        seats[name], theirs = context.Pipe()
        processes.append(context.Process(target=_sit, args=(theirs, work, threads), daemon=True))
        processes[-1].start()
        theirs.close()
    taken: dict[str, list[Turn]] = {name: [] for name in sides}
    try:
        for _ in range(turns):
            for name, seat in seats.items():
                _received(seat, name)  # nobody begins while another one still prepares
            for name, seat in seats.items():
                seat.send("go")
                taken[name].append(_received(seat, name))
                told(f"{name}: {taken[name][-1].seconds:.2f} s")
    except SystemExit:
        for process in processes:
            process.kill()
        raise
    for process in processes:
        process.join()
    return taken


def _received(seat: Connection, name: str) -> Any:
    try:
        return seat.recv()
    except EOFError:
        raise SystemExit(f"the side {name} has ended; why stands above") from None


def _sit(connection: Connection, work: Work, threads: int) -> None:
    torch.set_num_threads(threads)
    work(Seat(connection))
