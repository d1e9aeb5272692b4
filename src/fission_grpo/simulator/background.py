"""Feedback that is being written, here and now or on another machine while the trainer does something else.

Only a server is asked in the background: it costs no time of this machine. A local model would compete for the very
cores or the very GPU that the trainer wants, and gain nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from fission_grpo.errors import SimulatorError
from fission_grpo.simulator.base import Case, ErrorSimulator, Fallback, Feedback, ReferencedSimulator, diagnose
from fission_grpo.simulator.static import StaticSimulator


def request_feedback(simulator: ErrorSimulator | ReferencedSimulator, cases: Sequence[Case]) -> Future[list[Feedback]]:
    """Feedback to come: one for each case, in order. A remote simulator is asked in the background, any other one now.

    What breaks unexpectedly is raised by the call of `result` or of this function, whichever does the work.
    """
    if simulator.remote:
        worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=simulator.name)
        try:
            return worker.submit(diagnose_surely, simulator, cases)
        finally:
            worker.shutdown(wait=False)
    written: Future[list[Feedback]] = Future()
    written.set_result(diagnose_surely(simulator, cases))
    return written


def diagnose_surely(simulator: ErrorSimulator | ReferencedSimulator, cases: Sequence[Case]) -> list[Feedback]:
    """`diagnose`, with the fixed string for the cases, and only those, for which no feedback can be written: training
    does not end because a tool's schema cannot be read."""
    try:
        return diagnose(simulator, cases)
    except SimulatorError:
        if len(cases) > 1:
            return [feedback for case in cases for feedback in diagnose_surely(simulator, [case])]
        (feedback,) = StaticSimulator().diagnose([case.failed for case in cases])
        return [replace(feedback, fallback=Fallback.BROKEN)]
