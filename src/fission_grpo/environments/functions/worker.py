"""Where the code of a world runs: on a thread of its own with deadlines, or right here."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from fission_grpo.errors import EnvironmentFault, FissionError, ToolError, boundary

MOST_STUCK = 32
"""Threads that may hang in one process before no new one is started; ours."""
_STUCK = "fission-stuck-worker"
_ResultT = TypeVar("_ResultT")


class Overrun(Exception):  # noqa: N818  (not an error: the caller decides what it means)
    """A job did not end in time; its worker is lost."""


class _Job(NamedTuple):
    what: str
    run: Callable[[], Any]
    answer: Future[Any]


class Runner(Protocol):
    """Where the code of one world runs."""

    def run(self, what: str, job: Callable[[], _ResultT], *, seconds: float) -> _ResultT:
        """What `job` returns.

        Raises:
            ToolError: as the job raised it.
            EnvironmentFault: the job raised anything else.
            Overrun: it took longer than `seconds`, where that is watched.
        """
        ...


class SameThread:
    """Runs jobs where they are asked for, and waits for them as long as they take: for code that is known to end.

    With short tools a `Worker` costs four times the processor time, and on a busy machine waits for its turn besides.
    """

    def run(self, what: str, job: Callable[[], _ResultT], *, seconds: float) -> _ResultT:
        """See `Runner`."""
        with boundary(EnvironmentFault, what):
            return job()


_Jobs: TypeAlias = "SimpleQueue[_Job | None]"


class Worker:
    """All jobs of one worker run on one thread, as connections that are bound to their thread require.

    Python cannot kill a thread. After an overrun the worker is abandoned: its thread sees no further job and ends with
    the stuck one, if ever; being a daemon it does not keep the process alive. What a job does to the process itself
    (`os._exit`, a crash in C, all memory used up) is not contained: give such tools a process of their own.
    """

    def __init__(self) -> None:
        """Start the thread.

        Raises:
            EnvironmentFault: too many threads of this process are stuck already.
        """
        stuck = sum(thread.name == _STUCK for thread in threading.enumerate())
        if stuck >= MOST_STUCK:
            raise EnvironmentFault(f"{stuck} tools hang in this process. Give the slow tools a time-out of their own.")
        self._jobs: _Jobs = SimpleQueue()
        self._thread = threading.Thread(target=_serve, args=(self._jobs,), name="fission-worker", daemon=True)
        self._thread.start()
        weakref.finalize(self, self._jobs.put, None)

    def run(self, what: str, job: Callable[[], _ResultT], *, seconds: float) -> _ResultT:
        """What `job` returns.

        Raises:
            ToolError: as the job raised it.
            EnvironmentFault: the job raised anything else, or tried to end the process.
            Overrun: it took longer than `seconds`.
        """
        answer: Future[_ResultT] = Future()
        self._jobs.put(_Job(what, job, answer))
        try:
            return answer.result(seconds)
        except TimeoutError as error:  # the job's own TimeoutError arrives as an EnvironmentFault
            self._thread.name = _STUCK
            self._jobs.put(None)
            raise Overrun(f"{what} took longer than {seconds:g} s") from error


def _serve(jobs: _Jobs) -> None:
    while _serve_one(jobs.get()):
        pass  # a loop variable would keep the last job, and all it refers to, alive


def _serve_one(job: _Job | None) -> bool:
    if job is None:
        return False
    try:
        with boundary(EnvironmentFault, job.what):
            job.answer.set_result(job.run())
    except (FissionError, ToolError) as error:
        job.answer.set_exception(error)
    except (SystemExit, KeyboardInterrupt) as error:
        job.answer.set_exception(EnvironmentFault(f"{job.what} tried to end the process: {type(error).__name__}"))
    finally:
        if not job.answer.done():
            job.answer.set_exception(EnvironmentFault(f"{job.what} ended its thread"))
    return True
