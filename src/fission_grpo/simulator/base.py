"""The Error Simulator: what the world would say about a failed call.

arXiv:2601.15625, stage 2. The paper's simulator reads the reference call; ours are split by type: `FailedCall` has no
field for the reference, so a simulator that takes it *cannot* leak one. Those that want it, or are checked against it,
take a `Case`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol, runtime_checkable

from fission_grpo.environments.dialogue import remaining_gold
from fission_grpo.types import ErrorClass, Message, ParsedMessage, Task, Tool, ToolCall, ToolOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedCall:
    """A failed assistant message as its world saw it; deliberately without the reference."""

    messages: tuple[Message, ...]
    """The dialogue before the failed message."""
    tools: tuple[Tool, ...]
    text: str
    """The failed assistant text exactly as sampled."""
    parsed: ParsedMessage
    outcomes: tuple[ToolOutcome, ...]
    """What the world really answered to each call; empty where there is no world."""
    error: ErrorClass
    """Why it failed; SILENT when every call succeeded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A failure with what would have been right."""

    failed: FailedCall
    reference: tuple[ToolCall, ...]
    """Gold calls that were due; empty where words were."""


class Leakage(StrEnum):
    """What is known of leaks."""

    BLIND = "blind"
    """Its writer never saw the reference."""
    CLEAN = "clean"
    """Its writer saw the reference, and the check found none of it."""
    LEAKED = "leaked"
    """The candidate leaked and was replaced: the text at hand is the fallback's."""


class Fallback(StrEnum):
    """Why another simulator than the one asked had to write."""

    LEAK = "leak"
    UNANSWERED = "unanswered"
    """The model or the server failed, after all tries."""
    EMPTY = "empty"
    """It said nothing that can be used."""
    TOO_LONG = "too_long"
    """The prompt leaves no room in the context window."""
    BUDGET = "budget"
    """Calls or tokens are spent."""
    CIRCUIT_OPEN = "resting"
    """The circuit breaker was open: the server had failed so often, or so slowly, that it was not asked."""
    BROKEN = "broken"
    """A simulator that asks nobody could not make anything of the case: a tool's schema cannot be read."""
    NOT_RECORDED = "not_recorded"
    """Replay has no answer to this prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a feedback cost."""

    prompt_tokens: int = 0
    tokens: int = 0
    """Sampled tokens."""
    seconds: float = 0.0
    """Its share of the waiting time of its batch."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            tokens=self.tokens + other.tokens,
            seconds=self.seconds + other.seconds,
        )


NO_COST = Cost()


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """One diagnosis, with its origin."""

    texts: tuple[str, ...]
    """One tool message for each call of the failed message; exactly one for a malformed message."""
    origin: str
    """Name of the simulator that wrote it (after any fallback)."""
    leakage: Leakage = Leakage.BLIND
    fallback: Fallback | None = None
    cost: Cost = NO_COST
    """Of the candidate, whether or not it was used."""


class Simulator(Protocol):
    """What every simulator says of itself; who inherits gets the defaults of one without server and counts."""

    @property
    def name(self) -> str: ...

    @property
    def remote(self) -> bool:
        """Whether its time is another machine's, so that something else can be done meanwhile."""
        return False

    def take_metrics(self) -> dict[str, float]:
        """What it did since the last call, by the names of `metrics.jsonl`; nothing of one that is free."""
        return {}


class ErrorSimulator(Simulator, Protocol):
    """Writes runtime-style feedback that helps and does not tell. To be inherited from: see `Simulator`."""

    def diagnose(self, failed: Sequence[FailedCall]) -> list[Feedback]:
        """One feedback for each failed call, in order; a batch, so that learned simulators can batch.

        Raises:
            SimulatorError: a fault of ours.
        """
        ...


@runtime_checkable
class ReferencedSimulator(Simulator, Protocol):
    """A simulator that is shown what would have been right, or is checked against it. To be inherited from."""

    def diagnose_cases(self, cases: Sequence[Case]) -> list[Feedback]:
        """One feedback for each case, in order; never raises for anything a model or a server did."""
        ...


def diagnose(simulator: ErrorSimulator | ReferencedSimulator, cases: Sequence[Case]) -> list[Feedback]:
    """Ask any simulator: only one that declares it by its type gets to see a reference.

    Raises:
        SimulatorError: a fault of ours.
    """
    if isinstance(simulator, ReferencedSimulator):
        return simulator.diagnose_cases(cases)
    return simulator.diagnose([case.failed for case in cases])


def case_of(task: Task, failed: FailedCall) -> Case:
    """A failure with the gold calls that were due when it happened: those left of its user turn, else the target.

    Raises:
        ConfigError: a call recorded in the dialogue is not in OpenAI form.
    """
    if not task.gold:
        return Case(failed=failed, reference=task.target)
    due, *_ = remaining_gold(replace(task, messages=failed.messages)) or [()]
    return Case(failed=failed, reference=due)
