"""The offline variant, for comparison: recovery data collected once from the starting weights.

arXiv:2601.15625 argues that error-correction data made beforehand drifts away from the errors that the present policy
makes. This source makes the drift measurable: its contexts are the failures of the weights before the first update, and
nothing that fails later becomes one. Recoveries are sampled from the present policy as ever, as many as it gets online.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fission_grpo.algorithm.branching import BranchingSource
from fission_grpo.algorithm.groups import Group
from fission_grpo.algorithm.pool import ContextPool
from fission_grpo.algorithm.source import BranchAt, FissionSettings, FissionSource
from fission_grpo.chat.format import ChatFormat
from fission_grpo.simulator.base import ErrorSimulator, ReferencedSimulator


class OfflineSource(FissionSource):
    """Fills a pool before the first update, and hands out contexts from it ever after."""

    def __init__(
        self,
        settings: FissionSettings,
        *,
        simulator: ErrorSimulator | ReferencedSimulator,
        chat: ChatFormat,
        seed: int,
    ) -> None:
        super().__init__(settings, simulator=simulator, chat=chat)
        self.pool = ContextPool(settings.pool, seed=seed)
        self.buffer = self.pool

    def collect(self, explorations: Iterable[Sequence[Group]]) -> list[Group]:
        """Look at explorations of the starting weights until the pool is full or they end; then never again."""
        rest = iter(explorations)
        seen: list[Group] = []
        while self.settings.contexts and self.pool.open and (groups := next(rest, None)):
            super().observe(groups, policy_version=0)
            self.await_feedback()
            seen += groups
        self.pool.close()
        return seen

    def observe(self, groups: Sequence[Group], *, policy_version: int) -> None:
        """Nothing: what fails in training is left alone."""


def fission_source(
    settings: FissionSettings, *, simulator: ErrorSimulator | ReferencedSimulator, chat: ChatFormat, seed: int
) -> FissionSource:
    """The source that the settings ask for.

    Args:
        seed: of the order in which a pool is dealt.
    """
    if settings.pool:
        return OfflineSource(settings, simulator=simulator, chat=chat, seed=seed)
    if settings.branch is BranchAt.UNCERTAINTY:
        return BranchingSource(settings, simulator=simulator, chat=chat)
    return FissionSource(settings, simulator=simulator, chat=chat)
