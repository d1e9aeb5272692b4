"""One dialogue from its beginning to its judgement, in a worker of an engine that drives one at a time (verl).

Tasks, contexts and judged trajectories cross between the processes of a run pickled, as everything on Ray does; what
outlives the run, a checkpoint, is plain data (`FissionSource.state_dict`).
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fission_grpo.algorithm.context import CorrectiveContext
from fission_grpo.algorithm.groups import Member
from fission_grpo.algorithm.judge import Judge, SiblingsJudge
from fission_grpo.chat.format import ChatFormat
from fission_grpo.environments.base import Environments, Snapshot
from fission_grpo.errors import ConfigError
from fission_grpo.rollout import Dialogue, Horizon, RolloutSettings, open_task
from fission_grpo.types import Completion, FinishReason, Task, Turn

NO_PICKLE = (pickle.PicklingError, TypeError, AttributeError)
"""What `pickle` raises for a value that it cannot write."""


def judge_of_one(judge: SiblingsJudge) -> Judge:
    """The judge of a run, where it can judge a dialogue without its siblings.

    Raises:
        ConfigError: it asks functions that compare them.
    """
    if not isinstance(judge, Judge):
        raise ConfigError(
            "reward.functions compare siblings, and verl judges each dialogue where it was played; choose our own "
            "loop, or engine=trl"
        )
    return judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """One dialogue under way, and what its judge will have to know."""

    dialogue: Dialogue
    horizon: Horizon
    before: tuple[Turn, ...]
    """Turns of the corrective context that it recovers from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DialoguePlayer:
    """Worlds and judge of a run, in one process."""

    chat: ChatFormat
    environments: Environments
    judge: Judge
    horizon: Horizon
    """Of exploration in a task with a world."""
    recovery_horizon: Horizon
    rollouts: RolloutSettings
    window: int
    """Most tokens of a dialogue."""

    def begin(self, packed: bytes) -> Play:
        """The dialogue of a packed task, or of a packed corrective context in the world as the failed call left it."""
        given: Task | CorrectiveContext = pickle.loads(packed)
        if isinstance(given, CorrectiveContext):
            start, asked, before = given.start(self.environments), self.recovery_horizon, given.before
        else:
            start, asked, before = open_task(given, chat=self.chat, environments=self.environments), self.horizon, ()
        horizon = asked if start.task.world else Horizon.CALL
        room = self.window - self.rollouts.max_tokens
        dialogue = Dialogue(start, chat=self.chat, horizon=horizon, max_turns=self.rollouts.max_turns, room=room)
        return Play(dialogue=dialogue, horizon=horizon, before=before)

    def completion(self, ids: Sequence[int], logprobs: Sequence[float]) -> Completion:
        """What a server sampled; it stopped by itself exactly if it ended the turn."""
        finish = FinishReason.STOP if ids and ids[-1] == self.chat.eos_id else FinishReason.LENGTH
        return Completion(ids=tuple(ids), logprobs=tuple(logprobs), finish=finish)

    def judged(self, play: Play, *, progress: float) -> Member:
        """The dialogue's end, judged where it was played.

        Args:
            progress: share of the run that is done, in [0, 1].
        """
        trajectory = play.dialogue.trajectory()
        return self.judge(trajectory, horizon=play.horizon, progress=progress, before=play.before)


def packed_start(given: Task | CorrectiveContext) -> bytes:
    """For `DialoguePlayer.begin`, in another process."""
    if isinstance(given, CorrectiveContext):
        given = replace(given, snapshot=_portable(given.snapshot))
    return pickle.dumps(given)


def packed_member(member: Member) -> bytes:
    """For the driver: of the worlds along the way only the one that fission may go back to."""
    failed = member.failure.turn if member.failure else None
    trajectory = member.trajectory
    kept = (_portable(one) if turn == failed else None for turn, one in enumerate(trajectory.snapshots))
    return pickle.dumps(replace(member, trajectory=replace(trajectory, snapshots=tuple(kept))))


def unpacked_member(packed: bytes) -> Member:
    """What `packed_member` wrote."""
    member: Member = pickle.loads(packed)
    return member


def _portable(snapshot: Snapshot | None) -> Any:
    """None for a snapshot that cannot leave its process: `CorrectiveContext.calls` bring that world back."""
    try:
        pickle.dumps(snapshot)
    except NO_PICKLE:
        return None
    return snapshot
