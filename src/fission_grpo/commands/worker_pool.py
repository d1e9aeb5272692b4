"""Processes that do one job after another: what a job imports, draws and builds is there for the next one.

They end with the process that started them, however that ends: killed, too. Spawned, not forked: a copy of this process
would inherit locks without their threads, and a GPU that it cannot use.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path

from fission_grpo.errors import FissionError, message_lines
from fission_grpo.run.interruption import INTERRUPTED, heed_termination

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""One thread for each process: there are as many processes as cores."""
TAIL = 1500
"""Characters of a failed job's log that its error shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One thing to do: what it is called, and what it runs."""

    name: str
    run: Callable[[], None]
    """Can be pickled. Whatever it raises, `SystemExit` included, is a failure, and the end of its process."""
    log: Path
    """Everything that it writes to standard output and standard error."""
    product: Path | None = None
    """What it leaves behind when it has finished: a job whose product exists is not run again."""
    after: tuple[str, ...] = ()
    """Names of the jobs that must have finished before."""


class WorkerPool:
    """Some processes, one job each at a time; leaving the `with` block ends them, and with them what they are doing."""

    def __init__(self, size: int) -> None:
        context = get_context("spawn")
        pipes = [context.Pipe() for _ in range(size)]
        self._processes = [context.Process(target=_serve, args=(theirs,), daemon=True) for _, theirs in pipes]
        self._idle = [ours for ours, _ in pipes]
        self._running: dict[Connection, Job] = {}
        for process, (_, theirs) in zip(self._processes, pipes, strict=True):
            process.start()
            theirs.close()  # so that its end is the end of the pipe

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        """A training saves first, as it does whenever it is asked to stop; an impatient signal ends all at once."""
        for process in self._processes:
            process.terminate()
        for pipe in (*self._idle, *self._running):
            pipe.close()
        try:
            for process in self._processes:
                process.join()
        except KeyboardInterrupt:
            for process in self._processes:
                process.kill()
            raise

    @property
    def idle(self) -> int:
        """How many jobs could begin now."""
        return len(self._idle)

    @property
    def running(self) -> int:
        """How many jobs have begun and not finished."""
        return len(self._running)

    def begin(self, job: Job) -> None:
        """Give a job to an idle process.

        Raises:
            FissionError: something has ended that process while it had nothing to do.
        """
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.log.write_bytes(b"")
        pipe = self._idle.pop()
        try:
            pipe.send(job)
        except BrokenPipeError:
            raise FissionError(
                f"{job.name} could not begin: the process that waited for it is gone, perhaps for want of memory; "
                "run the same command again, what is finished is kept"
            ) from None
        self._running[pipe] = job

    def next_finished(self) -> Job:
        """Wait for the first of the running jobs to finish.

        Raises:
            FissionError: it failed; its log is named.
        """
        ended = wait(list(self._running))
        pipe = next(pipe for pipe in self._running if pipe in ended)
        job = self._running.pop(pipe)
        self._idle.append(pipe)
        try:
            pipe.recv()
        except EOFError:
            tail = job.log.read_text(encoding="utf-8", errors="replace")[-TAIL:]
            raise FissionError(f"{job.name} failed; the end of {job.log}:\n{tail}") from None
        return job


def work(todo: Sequence[Job], *, workers: int, report: Callable[[str], None]) -> None:
    """Run jobs in order, `workers` at a time, each after those it waits for; what is finished is not done again.

    Args:
        report: told one line for each job that begins or ends.
    Raises:
        FissionError: a job failed; its log is named, and the jobs beside it are ended.
    """
    finished = {job.name for job in todo if job.product and job.product.exists()}
    before = len(finished)
    waiting = deque(job for job in todo if job.name not in finished)
    began = time.monotonic()
    with WorkerPool(min(workers, len(waiting))) as pool:
        while waiting or pool.running:
            for job in [job for job in waiting if finished.issuperset(job.after)][: pool.idle]:
                waiting.remove(job)
                pool.begin(job)
                report(f"[{time.monotonic() - began:5.0f} s] begins    {job.name}")
            job = pool.next_finished()
            finished.add(job.name)
            passed, done = time.monotonic() - began, len(finished)
            left = passed / (done - before) * (len(todo) - done)
            report(f"[{passed:5.0f} s] finished  {job.name}  ({done} of {len(todo)}, about {_minutes(left)} left)")


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _serve(pipe: Connection) -> None:
    """The life of one process."""
    os.environ.update(ENVIRONMENT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the pool's owner too, who ends this process
    heed_termination()
    threading.Thread(target=_end_with_parent, name="fission-parent-watch", daemon=True).start()
    try:
        while (job := _next_job(pipe)) is not None:
            _do(job)
            pipe.send(job.name)
    except (KeyboardInterrupt, BrokenPipeError):  # asked to stop, or nobody waits for the job any more
        sys.exit(INTERRUPTED)


def _do(job: Job) -> None:
    _write_to(job.log)
    try:
        job.run()
    except (FissionError, OSError) as error:  # for a person, as on the command line; anything else is our bug
        sys.exit("\n".join(f"fission: {line}" for line in message_lines(error)))
    gc.collect()  # a model is full of cycles, and the next job needs its memory
    sys.stdout.flush()


def _end_with_parent() -> None:
    """Ask this process to stop as soon as its parent is gone: a training saves first, and its lock keeps out whoever
    begins anew meanwhile."""
    parent = parent_process()
    if parent is not None:
        parent.join()  # the end of a pipe that the parent alone holds
        os.kill(os.getpid(), signal.SIGTERM)


def _next_job(pipe: Connection) -> Job | None:
    try:
        job: Job = pipe.recv()
    except EOFError:
        return None
    return job


def _write_to(log: Path) -> None:
    with log.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
