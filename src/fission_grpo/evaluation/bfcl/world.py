"""The world of one BFCL entry with the official judge beside it, turn by turn."""

from __future__ import annotations

from typing import NoReturn

from fission_grpo.environments.bfcl.environment import BfclEnvironment, BfclSnapshot, RunCall
from fission_grpo.environments.bfcl.verdict import Judgement, replayed, together, verdict
from fission_grpo.environments.bfcl.world import BfclWorld, spelled
from fission_grpo.environments.limits import CallLimits
from fission_grpo.errors import EnvironmentFault, boundary
from fission_grpo.evaluation.bfcl.records import BfclEnd
from fission_grpo.types import Task, ToolCall, Verdict

FORCE_TERMINATED = "multi_turn:force_terminated"
INFERENCE_ERROR = "multi_turn:inference_error"
"""The official runner's names for entries that its checker never sees."""

LIMITS = CallLimits(seconds=30.0)
"""Officially a call has all the time in the world; a busy machine must not change a verdict."""


class JudgedWorld(BfclEnvironment):
    """Runs calls and judges each user turn as it ends.

    Like the official executor it runs every function of the entry's classes, whatever is on offer, and reads calls as
    `spelled` does. What the policy sees comes from a world of its own, as in the official generation; the verdict is
    that of the official checker, which runs all calls again beside gold, in one process (`together`).
    """

    def __init__(self, entry: Task) -> None:
        """A fresh world.

        Raises:
            ConfigError: the task has no BFCL world.
            EnvironmentFault: the gold calls could not be replayed.
        """
        super().__init__(LIMITS)
        self._calls: list[list[ToolCall]] = [[]]
        self._apart = True
        self.reset(entry)

    def next_turn(self) -> None:
        """As in every world."""
        super().next_turn()
        self._calls.append([])

    def restore(self, snapshot: BfclSnapshot) -> NoReturn:
        """Not here.

        Raises:
            EnvironmentFault: always, since the verdict is made from all the calls that there were.
        """
        raise EnvironmentFault("a judged BFCL world was asked to go back; expected that an entry is played once")

    def replay(self, call: ToolCall) -> None:
        """Run one recorded call again.

        Raises:
            EnvironmentFault: our executor broke, or was too slow to tell.
        """
        with boundary(EnvironmentFault, f"replay of {call.name}"):
            self._run(call, replayed)

    def _run(self, call: ToolCall, run: RunCall = BfclWorld.call) -> str:
        self._calls[-1].append(call)
        return super()._run(spelled(call), run)

    def _may_run(self, name: str) -> bool:
        return True

    def _judge_turn(self) -> Judgement | None:
        turn, gold = len(self._calls) - 1, self._current().gold
        if turn >= len(gold):
            return None
        self._apart = self._apart and not (self._gold[turn].disturbed or self._world.disturbed())
        if self._apart:
            return super()._judge_turn()
        return together(self._config, gold, self._calls, LIMITS)[turn]

    @property
    def turn_ok(self) -> tuple[bool | None, ...]:
        """Of the turns that are over; None where a turn is not judged."""
        return tuple(None if one is None else one.error is None for one in self._judgements)

    def verdict(self, end: BfclEnd, reason: str) -> Verdict | None:
        """The official verdict on an entry that ended so.

        A force quit in the last user turn is forgiven, because the official runner tells one by the number of turns.
        """
        if end is BfclEnd.FAULT:
            return None
        if end is BfclEnd.INFERENCE_ERROR:
            return self._failed(INFERENCE_ERROR, reason)
        if len(self._judgements) < len(self._gold):
            ended = f"{len(self._judgements)} of {len(self._gold)} user turns were played"
            return self._failed(FORCE_TERMINATED, ended)
        return verdict(self._judgements)

    def _failed(self, error: str, detail: str) -> Verdict:
        judged = sum(bool(turn.results) for turn in self._gold)
        right = sum(ok is True for ok in self.turn_ok)
        return Verdict(ok=False, error_type=error, detail=detail, matched=right / judged)
