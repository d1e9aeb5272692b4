"""Scores a trajectory and says where it failed: the paper's reward at a decision point, the world's in an episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol

from fission_grpo.algorithm.failures import Failure, Fault, find_failure
from fission_grpo.algorithm.groups import Member
from fission_grpo.algorithm.rewards import DecisionReward, EpisodeReward, answered
from fission_grpo.chat.format import ChatFormat
from fission_grpo.chat.parse import render_call
from fission_grpo.environments.dialogue import remaining_gold
from fission_grpo.rollout import Horizon, Trajectory
from fission_grpo.types import EndReason, Task, ToolCall, Turn

ANSWER_TOKENS = 3
"""Reference length of an answer in words, where no call is wanted; ours."""


class SiblingsJudge(Protocol):
    """Scores what was sampled from one context, all of it at once: some rewards compare, or ask a server."""

    def siblings(
        self, trajectories: Sequence[Trajectory], *, horizon: Horizon, progress: float, before: Sequence[Turn] = ()
    ) -> list[Member]:
        """One member for each trajectory, in order; see `Judge.__call__`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Reward and failure of a trajectory, by how far it went."""

    chat: ChatFormat
    decision: DecisionReward = field(default_factory=DecisionReward)
    episode: EpisodeReward = field(default_factory=EpisodeReward)
    delta: float = 1.0
    """delta_corr of arXiv:2601.15625: correctness below it is a failure; 1 = anything imperfect; ours."""

    def __call__(
        self, trajectory: Trajectory, *, horizon: Horizon, progress: float, before: Sequence[Turn] = ()
    ) -> Member:
        """Judge one trajectory.

        Args:
            horizon: CALL is judged against the task's target, a recovery like the message that failed; anything longer
                by the world.
            progress: share of the run that is done, in [0, 1].
            before: the turns of the corrective context that it recovers from.
        """
        if not trajectory.valid or not trajectory.turns:
            return Member(trajectory=trajectory, reward=None, success=False, failure=fault_of_ours(trajectory))
        if horizon is Horizon.CALL:
            return self._by_target(trajectory, progress)
        return self._by_environment(trajectory, gold_ahead(trajectory.task, horizon, before), before)

    def siblings(
        self, trajectories: Sequence[Trajectory], *, horizon: Horizon, progress: float, before: Sequence[Turn] = ()
    ) -> list[Member]:
        """Judge all that was sampled from one context, each by itself; see `__call__`."""
        return [self(each, horizon=horizon, progress=progress, before=before) for each in trajectories]

    def _by_target(self, trajectory: Trajectory, progress: float) -> Member:
        turn, target = trajectory.turns[0], trajectory.task.target
        correctness = self.decision.correctness(turn, target)
        return Member(
            trajectory=trajectory,
            reward=self.decision.score(
                turn,
                target=target,
                gold_tokens=self._gold_tokens(target),
                progress=progress,
                reasoning_tokens=self.chat.reasoning_length(turn.text),
            ),
            success=correctness == 1.0 and trajectory.end is EndReason.HORIZON,
            failure=find_failure(trajectory.turns, correctness=correctness, verdict=None, delta=self.delta),
        )

    def _by_environment(
        self, trajectory: Trajectory, gold: Sequence[ToolCall] | None, before: Sequence[Turn]
    ) -> Member:
        verdict = trajectory.verdict
        if verdict is None:
            raise ValueError(
                f"task {trajectory.task.id}: beyond one call a rollout needs a world to judge it, got none"
            )
        return Member(
            trajectory=trajectory,
            reward=self.episode.score(trajectory.turns, verdict=verdict, gold=gold, before=before),
            success=verdict.ok and answered(trajectory.turns),
            failure=find_failure(trajectory.turns, correctness=None, verdict=verdict),
        )

    def _gold_tokens(self, target: Sequence[ToolCall]) -> int:
        if not target:
            return ANSWER_TOKENS
        return 1 + sum(self.chat.length(render_call(call)) for call in target)


def fault_of_ours(trajectory: Trajectory) -> Failure | None:
    """A fault of ours taints the whole trajectory: not even the model's own errors before it are fissioned."""
    if trajectory.valid:
        return None
    last = max(0, len(trajectory.turns) - 1)
    return Failure(turn=last, error=None, fault=Fault.INFRASTRUCTURE, reason=trajectory.fault)


def gold_ahead(task: Task, horizon: Horizon, before: Sequence[Turn] = ()) -> tuple[ToolCall, ...] | None:
    """Gold calls from where the task begins to the end of what a rollout is judged by; None for a task without gold.

    An episode is judged by all that the user asks, anything shorter by the user turn in progress. A recovery from the
    middle of an episode also has the turns behind it that its failed trajectory had answered.
    """
    if not task.gold:
        return None
    ahead = remaining_gold(task)
    begun = 1 + sum(not turn.outcomes for turn in before[:-1])
    return tuple(chain.from_iterable(ahead if horizon is Horizon.EPISODE else ahead[:begun]))
