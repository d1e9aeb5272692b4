"""Fission as a prompt source with memory: `observe` what failed, ask for the `next_contexts`.

This is everything an engine needs (arXiv:2601.15625, stages 2 and 3); no tensor appears here. Exploration cannot
starve: the source adds recoveries to a step and never takes the place of its exploration.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from pydantic import Field, field_validator, model_validator

from fission_grpo.algorithm.buffer import ContextStore, LifoBuffer
from fission_grpo.algorithm.context import CorrectiveContext, Parent, context_from, corrective_context, failed_call
from fission_grpo.algorithm.failures import Failure, Fault
from fission_grpo.algorithm.groups import Group
from fission_grpo.chat.format import ChatFormat
from fission_grpo.errors import ConfigError
from fission_grpo.rollout import Horizon, Trajectory
from fission_grpo.settings import Settings
from fission_grpo.simulator.background import request_feedback
from fission_grpo.simulator.base import ErrorSimulator, Fallback, Feedback, ReferencedSimulator, case_of
from fission_grpo.types import ErrorClass, Task


class FissionSettings(Settings):
    """How failures become training conditions. Numbers are the whole run's: several processes share them out."""

    contexts: int = Field(default=0, ge=0)
    """Most corrective contexts resampled in one step; 0 turns fission off, and what is left is GRPO."""
    group_size: int = Field(default=8, ge=2)
    """G': recoveries from each context; paper."""
    trigger: int = Field(default=1, ge=1)
    """Unique contexts that must have gathered before any is used; ours: the paper has one, its value is unknown."""
    capacity: int = Field(default=32, ge=1)
    """Room of the LIFO buffer; ours."""
    pool: int = Field(default=0, ge=0)
    """Contexts collected once from the starting weights, and used in place of fresh failures: the offline variant, for
    comparison; ours. 0: none, and failures are fissioned as they happen."""
    per_group: int = Field(default=1, ge=1)
    """Most contexts that one group may contribute in one step; ours."""
    horizon: Horizon = Horizon.TURN
    """How far a recovery goes in a task with a world. `call`: one message, under the same reward and reference as
    exploration, which must be of single calls, too; paper. `turn`: until the policy answers, judged by the world;
    ours."""
    delta_corr: float = Field(default=1.0, gt=0, le=1)
    """A decision whose correctness is below it failed; paper. 1, anything imperfect, is ours: its value is unknown."""
    own_step: bool = False
    """Recoveries are sampled behind the update on exploration and make an update of their own: the likelier reading of
    the paper. Off, both kinds of groups share one update, and recoveries come from the weights that erred; ours."""
    depth: int = Field(default=1, ge=1)
    """Corrective levels: 1 is the paper's; a failed recovery is fissioned again up to this depth."""
    keep_reasoning: bool = True
    """What the policy thought in its failed message, and in those before it in the same rollout, stays in the
    corrective context; ours: the paper does not say. Off, the thoughts are empty there, and the calls stay as they were
    sampled."""
    silent: bool = False
    """Also fission calls that succeeded and were wrong where the world judges the recovery: often their damage cannot
    be undone. A recovery of one call is judged by its reference, and they are failures like any other; paper."""

    @field_validator("horizon")
    @classmethod
    def _within_the_turn(cls, horizon: Horizon) -> Horizon:
        if horizon is Horizon.EPISODE:
            raise ValueError("a recovery ends with its user turn at the latest; choose `turn` or `call`")
        return horizon

    @model_validator(mode="after")
    def _the_trigger_can_fire(self) -> FissionSettings:
        name, room = ("pool", self.pool) if self.pool else ("capacity", self.capacity)
        if self.trigger > room:
            raise ValueError(f"trigger {self.trigger} is more than the buffer can hold ({name} {room})")
        return self

    @model_validator(mode="after")
    def _a_pool_holds_first_failures(self) -> FissionSettings:
        if self.pool and self.depth > 1:
            raise ValueError(
                f"pool {self.pool} holds failures met before training, so that no recovery of depth {self.depth} can "
                "join it; set depth=1, or pool=0"
            )
        return self

    def share_of(self, processes: int) -> FissionSettings:
        """What one of several processes does: its part of the contexts, of the trigger, and of the room for contexts.

        A trigger of 1 fires as soon as there is anything, in each process as in one.

        Raises:
            ConfigError: they cannot be shared out evenly.
        """
        whole = {name: getattr(self, name) for name in ("contexts", "trigger", "capacity", "pool")}
        for name, value in whole.items():
            if value % processes and (name, value) != ("trigger", 1):
                raise ConfigError(
                    f"fission.{name}={value} cannot be shared out among {processes} processes; "
                    f"choose a multiple of {processes}"
                )
        parts = {name: value // processes for name, value in whole.items()}
        return self.model_copy(update={**parts, "trigger": max(parts["trigger"], 1)})


@dataclass(slots=True)
class FissionCount:
    """What the source did since the run began."""

    failures: int = 0
    observed: int = 0
    """Contexts put into the buffer or the pool."""
    unwritten: int = 0
    """Of these, contexts with the fixed string, because the simulator could not read the tools' schemas."""
    used: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    group: Group
    index: int
    trajectory: Trajectory
    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """Failures whose feedback is being written."""

    candidates: list[_Candidate]
    feedback: Future[list[Feedback]]
    policy_version: int


class FissionSource:
    """Catches failures, has them diagnosed, and hands out corrective contexts, freshest first."""

    def __init__(
        self, settings: FissionSettings, *, simulator: ErrorSimulator | ReferencedSimulator, chat: ChatFormat
    ) -> None:
        self.settings = settings
        self.simulator = simulator
        self.chat = chat
        self.buffer: ContextStore = LifoBuffer(settings.capacity)
        self.count = FissionCount()
        self._asked: _Asked | None = None

    def collect(self, explorations: Iterable[Sequence[Group]]) -> list[Group]:
        """What a source wants to see of the starting weights, before the first update; this one wants nothing.

        Args:
            explorations: of one batch of tasks after the other, made as they are asked for.
        Returns:
            Every group that was looked at.
        """
        return []

    def observe(self, groups: Sequence[Group], *, policy_version: int) -> None:
        """Detect what failed, and ask the simulator about it.

        While a server writes, other work can be done: see `awaits_feedback`.
        """
        self.await_feedback()
        if not self.settings.contexts:
            return
        candidates = [candidate for group in groups for candidate in self._candidates(group)]
        if not candidates:
            return
        cases = [case_of(c.group.task, failed_call(c.trajectory, c.failure)) for c in candidates]
        written = request_feedback(self.simulator, cases)
        self._asked = _Asked(candidates=candidates, feedback=written, policy_version=policy_version)
        if not self.simulator.remote:
            self.await_feedback()

    @property
    def awaits_feedback(self) -> bool:
        """Whether a server is writing feedback. It depends on what was asked and never on how fast it is."""
        return self._asked is not None

    def await_feedback(self) -> None:
        """Wait for the feedback that is being written; build x_corr, and push."""
        if self._asked is None:
            return
        asked, feedback = self._asked, self._asked.feedback.result()
        self._asked = None
        for candidate, diagnosis in zip(asked.candidates, feedback, strict=True):
            self.buffer.push(self._context(candidate, diagnosis, policy_version=asked.policy_version))
            self.count.observed += 1
            self.count.unwritten += diagnosis.fallback is Fallback.BROKEN

    def next_contexts(self) -> list[CorrectiveContext]:
        """What to resample now: empty unless the trigger fires."""
        self.await_feedback()
        if len(self.buffer) < max(self.settings.trigger, 1) or not self.settings.contexts:
            return []
        contexts = self.buffer.pop(self.settings.contexts)
        self.count.used += len(contexts)
        return contexts

    def simulator_metrics(self) -> dict[str, float]:
        """What a learned simulator did since the last call; nothing of one that is free."""
        return self.simulator.take_metrics()

    def _context(self, candidate: _Candidate, feedback: Feedback, *, policy_version: int) -> CorrectiveContext:
        return corrective_context(
            candidate.trajectory,
            candidate.failure,
            feedback,
            chat=self.chat,
            keep_reasoning=self.settings.keep_reasoning,
            above=candidate.group.context,
            parent=Parent(group=candidate.group.id, trajectory=candidate.index, turn=candidate.failure.turn),
            policy_version=policy_version,
        )

    def _candidates(self, group: Group) -> list[_Candidate]:
        """The failures of a group that may be fissioned, one for each distinct failed message."""
        depth = group.context.depth if group.context else 0
        unique: dict[tuple[int, ...], _Candidate] = {}
        for index, member in enumerate(group.members):
            if member.failure is None or member.failure.fault is not Fault.MODEL:
                continue
            self.count.failures += 1
            if depth < self.settings.depth and self._feasible(member.failure, group.task):
                key = member.trajectory.ids[: member.trajectory.turns[member.failure.turn].stop]
                unique.setdefault(
                    key, _Candidate(group=group, index=index, trajectory=member.trajectory, failure=member.failure)
                )
        return list(unique.values())[: self.settings.per_group]

    def recovery_horizon(self, task: Task) -> Horizon:
        """How far a recovery in this task goes: without a world there is nothing but the next message."""
        return self.settings.horizon if task.world else Horizon.CALL

    def _feasible(self, failure: Failure, task: Task) -> bool:
        """Whether a recovery can still be right after it."""
        by_reference = self.recovery_horizon(task) is Horizon.CALL
        return self.settings.silent or failure.error is not ErrorClass.SILENT or by_reference

    def state_dict(self) -> dict[str, Any]:
        """The buffer and the counters: with these a resumed run continues as if it had not stopped.

        Plain data: `torch.load(weights_only=True)` reads it back, and JSON could hold it.
        """
        self.await_feedback()
        counts = {name: getattr(self.count, name) for name in FissionCount.__slots__}
        buffer = self.buffer.state_dict()
        contexts = [context.state_dict() for context in buffer["contexts"]]
        return {"buffer": {**buffer, "contexts": contexts}, "count": counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state_dict` stood.

        Raises:
            KeyError, TypeError, ValueError: the state was not written by `state_dict`.
        """
        contexts = [context_from(context) for context in state["buffer"]["contexts"]]
        self.buffer.load_state_dict({**state["buffer"], "contexts": contexts})
        self.count = FissionCount(**state["count"])
