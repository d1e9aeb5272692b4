"""The Error Simulator: what the world would say about a failed call.

arXiv:2601.15625, stage 2. The paper's simulator reads the reference call; ours are split by type: `FailedCall` has no
field for the reference, so a simulator that takes it *cannot* leak one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fission_grpo.types import ErrorClass, Message, ParsedMessage, Tool, ToolOutcome


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
class Feedback:
    """One diagnosis, with its origin."""

    texts: tuple[str, ...]
    """One tool message for each call of the failed message; exactly one for a malformed message."""
    origin: str
    """Name of the simulator that wrote it (after any fallback)."""


class ErrorSimulator(Protocol):
    """Writes runtime-style feedback that helps and does not tell."""

    @property
    def name(self) -> str: ...

    def diagnose(self, failed: Sequence[FailedCall]) -> list[Feedback]:
        """One feedback for each failed call, in order; a batch, so that learned simulators can batch.

        Raises:
            SimulatorError: a fault of ours.
        """
        ...
