"""The three stages, asked by the rows of a data set, and what of them a checkpoint has to hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fission_grpo.algorithm.groups import Group
from fission_grpo.algorithm.source import FissionSource
from fission_grpo.algorithm.stages import Stages
from fission_grpo.engines.trl.tasks import Row, TaskReader
from fission_grpo.errors import EnvironmentFault
from fission_grpo.policy.local.hf_policy import HFPolicy
from fission_grpo.seeds import derive


@dataclass(frozen=True, slots=True, kw_only=True)
class RowStages:
    """Rows in, groups out; one for each process."""

    stages: Stages
    reader: TaskReader
    source: FissionSource

    def explore_and_recover(
        self, rows: Sequence[Row], *, step: int, progress: float
    ) -> tuple[list[Group], list[Group]]:
        """Stages 1 to 3: exploration of some rows, and the recoveries that are due.

        Args:
            step: names the groups, and is part of their seed.
            progress: share of the run that is done, in [0, 1].
        Raises:
            EnvironmentFault: every trajectory met a fault of its world.
            PolicyError: sampling failed.
        """
        self._forget()
        rank = self.stages.rank
        tasks = self.reader.read(rows, seed=derive(self.stages.seed, "worlds", rank), name=f"{step}.{rank}")
        groups = self.stages.explore(tasks, step=step, progress=progress)
        _require_any_valid(groups)
        self.stages.observe(groups, step=step)
        contexts = self.stages.next_contexts()
        self.reader.release()
        fission_groups = self.stages.recover(contexts, step=step, progress=progress)
        self.source.await_feedback()
        return groups, fission_groups

    def evaluate(self, rows: Sequence[Row], *, group_size: int, step: int) -> list[Group]:
        """Stage 1 alone: what fails is not remembered. The same rows meet the same worlds whenever they are evaluated.

        Raises:
            EnvironmentFault, PolicyError: see `explore_and_recover`.
        """
        self._forget()
        batch = [repr(row.get("prompt")) for row in rows]
        seed = derive(self.stages.seed, "evaluation", self.stages.rank, *batch)
        tasks = self.reader.read(rows, seed=seed, name="evaluation")
        groups = replace(self.stages, group_size=group_size, seed=seed).explore(tasks, step=step, progress=1.0)
        _require_any_valid(groups)
        return groups

    def state_dict(self) -> dict[str, Any]:
        """The fission buffer, and what prompt lookup has seen: it decides the last digits of a log-probability."""
        policy = self.stages.policy
        guesses = policy.lookup.state_dict() if isinstance(policy, HFPolicy) else None
        return {"fission": self.source.state_dict(), "guesses": guesses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state_dict` stood."""
        self.source.load_state_dict(state["fission"])
        if isinstance(self.stages.policy, HFPolicy) and state["guesses"] is not None:
            self.stages.policy.lookup.load_state_dict(state["guesses"])

    def _forget(self) -> None:
        """The worlds of the last rows, and what a resumed run would not have computed either."""
        self.reader.release()
        if isinstance(self.stages.policy, HFPolicy):
            self.stages.policy.invalidate()


def _require_any_valid(groups: Sequence[Group]) -> None:
    """A world that never works is nobody's bad luck: a run without a valid trajectory would train on nothing.

    Raises:
        EnvironmentFault: there is none; the first fault is told.
    """
    trajectories = [member.trajectory for group in groups for member in group.members]
    if trajectories and not any(one.valid for one in trajectories):
        raise EnvironmentFault(
            f"all {len(trajectories)} trajectories of a step met a fault of their world, the first one: "
            f"{trajectories[0].fault}; correct the environment"
        )
