"""All simulators side by side on one failed call: what each says, what it leaks, what it costs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fission_grpo.errors import ConfigError, SimulatorError
from fission_grpo.simulator.base import Case, ErrorSimulator, Feedback, ReferencedSimulator, diagnose
from fission_grpo.simulator.leak import Leak, leaks_of
from fission_grpo.simulator.passthrough import PassthroughSimulator
from fission_grpo.simulator.rules import RulesSimulator
from fission_grpo.simulator.static import StaticSimulator
from fission_grpo.simulator_lab.corpus import OwnTasks, RecordSettings, simulator_records
from fission_grpo.simulator_lab.records import SimulatorRecord

FREE: tuple[ErrorSimulator, ...] = (PassthroughSimulator(), StaticSimulator(), RulesSimulator())
"""Those that need neither a model nor a server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One simulator on one failed call."""

    simulator: str
    feedback: Feedback | None
    """None where it broke."""
    leaks: tuple[Leak, ...]
    """In what it hands out; a leak-guarded simulator hands out none."""
    seconds: float
    problem: str = ""

    def lines(self) -> Iterator[str]:
        """For a person."""
        if self.feedback is None:
            yield f"{self.simulator}: {self.problem}"
            return
        one = self.feedback
        notes = [f"by {one.origin}"] if one.origin != self.simulator else []
        notes += [f"fallback: {one.fallback}"] if one.fallback else []
        notes += [f"leak check: {one.leakage}", f"{self.seconds:.3f} s"]
        notes += [f"{one.cost.prompt_tokens} + {one.cost.tokens} tokens"] if one.cost.tokens else []
        notes += [f"gives away {leak.literal!r}" for leak in self.leaks]
        yield f"{self.simulator} ({', '.join(notes)})"
        yield from (f"    {line}" for text in one.texts for line in text.splitlines())


def side_by_side(case: Case, simulators: Sequence[ErrorSimulator | ReferencedSimulator] = FREE) -> list[Trial]:
    """Ask each of them once; one that breaks is reported and stops nobody."""
    return [_trial(case, simulator) for simulator in simulators]


def sample_record(seed: int = 0, own: OwnTasks | None = None) -> SimulatorRecord:
    """A failed call to try simulators on, where the user has no records.

    Args:
        own: tasks in whose worlds it is made.
    Raises:
        ConfigError: no call of theirs fails.
    """
    apis = ("TradingBot",) if own is None else ()
    records, _ = simulator_records(RecordSettings(seed=seed, count=1, tasks_per_api=2, apis=apis), own=own)
    if not records:
        raise ConfigError("no wrong call in these tasks is answered with an error; try another --seed, or more tasks")
    return records[0]


def _trial(case: Case, simulator: ErrorSimulator | ReferencedSimulator) -> Trial:
    began = time.perf_counter()
    try:
        (feedback,) = diagnose(simulator, [case])
    except SimulatorError as error:
        seconds = time.perf_counter() - began
        return Trial(simulator=simulator.name, feedback=None, leaks=(), seconds=seconds, problem=str(error))
    seconds = time.perf_counter() - began
    leaks = leaks_of(feedback.texts, case)
    return Trial(simulator=simulator.name, feedback=feedback, leaks=leaks, seconds=seconds)
