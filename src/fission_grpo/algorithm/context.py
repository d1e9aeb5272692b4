"""The corrective context x_corr = [x ; tau_err ; f] (arXiv:2601.15625, stage 2).

What is kept is the *condition* only: tokens, messages and the world as it stood after the failed call. No response,
log-probability or advantage of the past survives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import shorten
from typing import Any

from pydantic import TypeAdapter

from fission_grpo.algorithm.failures import Failure
from fission_grpo.chat.format import ChatFormat
from fission_grpo.chat.transcript import Transcript
from fission_grpo.environments.base import Environment, Environments, Snapshot
from fission_grpo.errors import EnvironmentFault
from fission_grpo.rollout import Start, Trajectory, start_from, turn_messages
from fission_grpo.simulator.base import FailedCall, Feedback
from fission_grpo.types import ErrorClass, Message, Task, ToolCall, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The trajectory that was fissioned."""

    group: str
    trajectory: int
    turn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredCall:
    """A call that was executed, and the world's own words."""

    call: ToolCall
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectiveContext:
    """A failure turned into a training condition."""

    task: Task
    x_ids: tuple[int, ...]
    """The dialogue up to the failed message, token by token."""
    error_ids: tuple[int, ...]
    """tau_err: the failed message exactly as sampled."""
    feedback_ids: tuple[int, ...]
    """f as the tool's reply, up to and including the generation prompt."""
    messages: tuple[Message, ...]
    """The same dialogue as messages, feedback included."""
    before: tuple[Turn, ...]
    """Turns from the start of the task to the failed one: what a recovery may not repeat in vain."""
    calls: tuple[AnsweredCall | None, ...] = ()
    """How the world came there from the task's beginning: None where the user spoke again. Empty without a world."""
    snapshot: Snapshot | None = field(compare=False)
    """The world after the failed call. None without one, and where it was read from a file: the calls bring it back."""
    feedback: Feedback
    error: ErrorClass | None
    depth: int
    """1 for a failure met in exploration, n + 1 for one met in a recovery of depth n."""
    parent: Parent
    policy_version: int
    """Steps of the run that the policy had seen when it failed."""

    @property
    def key(self) -> str:
        """Identity for de-duplication: (x, tau_err), whatever the feedback says."""
        return hashlib.sha256(repr((self.x_ids, self.error_ids)).encode()).hexdigest()

    @property
    def ids(self) -> tuple[int, ...]:
        return self.x_ids + self.error_ids + self.feedback_ids

    def start(self, environments: Environments) -> Start:
        """Where a recovery begins: these tokens, and a world of its own just as it stood after the failed call.

        A world that cannot be brought back there invalidates this recovery and no other.
        """

        def prepare(environment: Environment) -> None:
            if self.snapshot is not None:
                environment.restore(self.snapshot)
            else:
                _replay(self.calls, environment)

        transcript = Transcript(self.x_ids)
        transcript.given(self.error_ids)
        transcript.extend_observed(self.feedback_ids)
        return start_from(
            self.task,
            transcript,
            self.messages,
            environments=environments,
            prepare=prepare,
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain data, fit for any file: everything but the snapshot, which only its environment can read."""
        state: dict[str, Any] = _ADAPTER.dump_python(self, mode="json", exclude={"snapshot"})
        return state


def context_from(state: Mapping[str, Any]) -> CorrectiveContext:
    """The context that `CorrectiveContext.state_dict` wrote down.

    Raises:
        ValueError: pydantic's, naming the first thing that does not fit.
    """
    return _ADAPTER.validate_python({**state, "snapshot": None})


_ADAPTER = TypeAdapter(CorrectiveContext)


def _replay(calls: Sequence[AnsweredCall | None], environment: Environment) -> None:
    """Make the same calls again.

    Raises:
        EnvironmentFault: one was answered otherwise.
    """
    for made in calls:
        if made is None:
            environment.next_turn()
        elif (text := environment.execute(made.call).text) != made.text:
            raise EnvironmentFault(
                f"{made.call.name}: a replay of the same calls was answered {shorten(text, 80)!r}, before "
                f"{shorten(made.text, 80)!r}. Make the world deterministic: seed its random numbers in reset()"
            )


def _answered(turns: Sequence[Turn]) -> Iterator[AnsweredCall | None]:
    """What the turns of one trajectory did to its world; the last one's own end is none of the user's."""
    for place, turn in enumerate(turns):
        if turn.outcomes and not turn.parsed.failures:  # of a malformed message nothing is executed
            pairs = zip(turn.parsed.calls, turn.outcomes, strict=True)
            yield from (AnsweredCall(call=call, text=outcome.text) for call, outcome in pairs)
        elif not turn.outcomes and place < len(turns) - 1:
            yield None


def _without_reasoning(trajectory: Trajectory, turns: Sequence[Turn], chat: ChatFormat) -> tuple[int, ...]:
    """The tokens up to the message behind some turns, which keep their words and not their thoughts."""
    ids: list[int] = []
    end = 0
    for turn in turns:
        ids += trajectory.ids[end : turn.start] + chat.without_reasoning(turn.completion.ids)
        end = turn.stop
    failed = trajectory.turns[len(turns)]
    return (*ids, *trajectory.ids[end : failed.start])


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
    keep_reasoning: bool = True,
    above: CorrectiveContext | None,
    parent: Parent,
    policy_version: int,
) -> CorrectiveContext:
    """Join dialogue, failed message and feedback.

    Args:
        keep_reasoning: off, what was thought in these messages is taken out of the tokens; `messages`, which simulators
            and traces read, tell it all the same.
        above: the trajectory's own corrective context, if it had one.
    """
    failed, turns = trajectory.turns[failure.turn], trajectory.turns[: failure.turn + 1]
    return CorrectiveContext(
        task=trajectory.task,
        x_ids=trajectory.ids[: failed.start] if keep_reasoning else _without_reasoning(trajectory, turns[:-1], chat),
        error_ids=failed.completion.ids if keep_reasoning else chat.without_reasoning(failed.completion.ids),
        feedback_ids=chat.reply(failed.completion.finish, feedback.texts),
        messages=(
            *trajectory.dialogue(failure.turn),
            *turn_messages(failed.parsed, failed.text, feedback.texts),
        ),
        before=(*(above.before if above else ()), *turns),
        calls=(*(above.calls if above else ()), *_answered(turns)) if trajectory.task.world else (),
        snapshot=trajectory.snapshots[failure.turn],
        feedback=feedback,
        error=failure.error,
        depth=above.depth + 1 if above else 1,
        parent=parent,
        policy_version=policy_version,
    )
