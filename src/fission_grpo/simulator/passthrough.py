"""The world's own words, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from fission_grpo.simulator.base import ErrorSimulator, FailedCall, Feedback
from fission_grpo.simulator.static import StaticSimulator, replies_due


class PassthroughSimulator(ErrorSimulator):
    """Repeats what the world really answered; where it did not answer every call, the fixed string takes over."""

    name = "passthrough"

    def __init__(self) -> None:
        self._fallback = StaticSimulator()

    def diagnose(self, failed: Sequence[FailedCall]) -> list[Feedback]:
        """The world's texts, unchanged; `origin` is `static` where there were none."""
        return [self._diagnose(one) for one in failed]

    def _diagnose(self, failed: FailedCall) -> Feedback:
        if len(failed.outcomes) != replies_due(failed):
            return self._fallback.diagnose([failed])[0]
        return Feedback(texts=tuple(outcome.text for outcome in failed.outcomes), origin=self.name)
