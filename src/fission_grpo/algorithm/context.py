"""The corrective context x_corr = [x ; tau_err ; f] (arXiv:2601.15625, stage 2).

What is kept is the *condition* only: tokens, messages and the world as it stood after the failed call. No response,
log-probability or advantage of the past survives.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from fission_grpo.algorithm.failures import Failure
from fission_grpo.chat.format import ChatFormat
from fission_grpo.chat.transcript import Transcript
from fission_grpo.environments.base import Environment, Environments, Snapshot
from fission_grpo.rollout import Start, Trajectory, start_from, turn_messages
from fission_grpo.simulator.base import FailedCall, Feedback
from fission_grpo.types import ErrorClass, Message, OutcomeKind, Task, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The trajectory that was fissioned."""

    group: str
    trajectory: int
    turn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectiveContext:
    """A failure turned into a training condition."""

    task: Task
    x_ids: tuple[int, ...]
    """The dialogue up to the failed message, token by token."""
    error_ids: tuple[int, ...]
    """tau_err: the failed message exactly as sampled; empty for a branch at an uncertain step, where nothing failed."""
    feedback_ids: tuple[int, ...]
    """f as the tool's reply, up to and including the generation prompt; empty for a branch."""
    messages: tuple[Message, ...]
    """The same dialogue as messages, feedback included."""
    before: tuple[Turn, ...]
    """Turns from the start of the task to the failed one, which is the last of them (a branch has none): what a
    recovery may not repeat in vain."""
    snapshot: Snapshot | None
    """The world after the last of `before`; None for a task without one."""
    feedback: Feedback | None
    """None for a branch."""
    error: ErrorClass | None
    depth: int
    """1 for a failure met in exploration, n + 1 for one met in a recovery of depth n."""
    parent: Parent
    policy_version: int
    """Steps of the run that the policy had seen when it failed."""
    failing: float = 1.0
    """Share of the valid members of its origin group that did not succeed, in [0, 1]."""
    tool: str | None = None
    """Name of the first call that failed, or of the first one where the whole message was wrong without an error; None
    for a malformed message and for one without a call."""

    @property
    def key(self) -> str:
        """Identity for de-duplication: (x, tau_err), whatever the feedback says."""
        return hashlib.sha256(repr((self.x_ids, self.error_ids)).encode()).hexdigest()

    @property
    def corrects(self) -> bool:
        """Whether it ends with a failed message and its feedback; False for a branch."""
        return bool(self.error_ids)

    @property
    def ids(self) -> tuple[int, ...]:
        return self.x_ids + self.error_ids + self.feedback_ids

    def start(self, environments: Environments) -> Start:
        """Where a recovery begins: these tokens, and a world of its own just as it stood after the failed call.

        A world that cannot be brought back there invalidates this recovery and no other.
        """
        transcript = Transcript(self.x_ids)
        transcript.given(self.error_ids)
        transcript.extend_observed(self.feedback_ids)
        return start_from(
            self.task,
            transcript,
            self.messages,
            environments=environments,
            prepare=self._restore,
        )

    def _restore(self, environment: Environment) -> None:
        """Nothing for a branch at the first message: a world that was just reset is already there."""
        if self.before:
            environment.restore(self.snapshot)


def failed_call(trajectory: Trajectory, failure: Failure) -> FailedCall:
    """What a simulator gets to see: everything but the reference."""
    turn = trajectory.turns[failure.turn]
    return FailedCall(
        messages=trajectory.dialogue(failure.turn),
        tools=trajectory.task.tools,
        text=turn.text,
        parsed=turn.parsed,
        outcomes=turn.outcomes,
        error=failure.error or ErrorClass.SILENT,
    )


def corrective_context(
    trajectory: Trajectory,
    failure: Failure,
    feedback: Feedback,
    *,
    chat: ChatFormat,
    before: tuple[Turn, ...],
    parent: Parent,
    depth: int,
    policy_version: int,
    failing: float,
) -> CorrectiveContext:
    """Join dialogue, failed message and feedback.

    Args:
        before: the turns that led to this trajectory's first one (those of its own corrective context, if it had one).
    """
    failed = trajectory.turns[failure.turn]
    return CorrectiveContext(
        task=trajectory.task,
        x_ids=trajectory.ids[: failed.start],
        error_ids=trajectory.ids[failed.start : failed.stop],
        feedback_ids=chat.reply(failed.completion.finish, feedback.texts),
        messages=(
            *trajectory.dialogue(failure.turn),
            *turn_messages(failed.parsed, failed.text, feedback.texts),
        ),
        before=(*before, *trajectory.turns[: failure.turn + 1]),
        snapshot=trajectory.snapshots[failure.turn],
        feedback=feedback,
        error=failure.error,
        depth=depth,
        parent=parent,
        policy_version=policy_version,
        failing=failing,
        tool=_failed_tool(failed, failure),
    )


def _failed_tool(turn: Turn, failure: Failure) -> str | None:
    """See `CorrectiveContext.tool`."""
    if failure.error is ErrorClass.FORMAT or not turn.parsed.calls:
        return None
    ended = zip(turn.parsed.calls, turn.outcomes, strict=False)
    failed = [call for call, outcome in ended if outcome.kind is not OutcomeKind.SUCCESS]
    return (failed or turn.parsed.calls)[0].name
