"""Where a quickstart leaves what it trained and evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from fission_grpo.run.folder import RunFolder

WARM_START, DEMONSTRATIONS = "warm start", "demonstrations"
"""Names of the two policies that no reinforcement has touched."""

MetricsRows: TypeAlias = Sequence[Mapping[str, Any]]
"""The rows of one `metrics.jsonl`: `step` and numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """A folder of trained and evaluated arms."""

    folder: Path
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    size: int
    """Held-out episodes."""
    demonstrations: int = 1
    """Runs of the demonstrations, at most as many as there are seeds."""

    def seeds_of(self, name: str) -> tuple[int, ...]:
        """The runs of a policy; the warm start is one."""
        runs = {WARM_START: 1, DEMONSTRATIONS: self.demonstrations}
        return self.seeds[: runs.get(name, len(self.seeds))]

    def run(self, arm: str, seed: int) -> RunFolder:
        return RunFolder(self.evaluation(arm, seed).parent)

    def evaluation(self, name: str, seed: int) -> Path:
        return self.folder / f"{name.replace(' ', '-')}-{seed}" / "evaluation"

    def demonstrated(self, seed: int) -> Path:
        """How many rows and updates the demonstrations' policy was given."""
        return self.folder / f"{DEMONSTRATIONS}-{seed}" / "demonstrations.json"

    @property
    def summary(self) -> Path:
        return self.folder / "summary.md"
