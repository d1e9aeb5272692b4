"""The fixed string: what the authors compare their simulator with, and what it falls back to."""

from __future__ import annotations

from collections.abc import Sequence

from fission_grpo.simulator.base import ErrorSimulator, FailedCall, Feedback

STATIC_TEXT = "error: you made a mistake. please try again."
"""Verbatim from the authors' repository (arXiv:2601.15625, static mode)."""


class StaticSimulator(ErrorSimulator):
    """Says that something was wrong and nothing more."""

    name = "static"

    def diagnose(self, failed: Sequence[FailedCall]) -> list[Feedback]:
        """The fixed string for each call."""
        return [Feedback(texts=(STATIC_TEXT,) * replies_due(one), origin=self.name) for one in failed]


def replies_due(failed: FailedCall) -> int:
    """Tool messages that a failed message gets: one a call; one, too, if it is malformed or calls nothing."""
    return 1 if failed.parsed.failures else max(1, len(failed.parsed.calls))
