"""The loop of Fission-GRPO, to be read aloud (arXiv:2601.15625).

    for each step:
        explore    G trajectories for each of some tasks                          (stage 1)
        observe    what failed becomes corrective contexts in a LIFO buffer       (stage 2)
        recover    G' trajectories from each of the freshest contexts             (stage 3)
        update     one gradient step on both kinds of groups, each with its own baseline

With `fission.own_step` exploration is updated on before `recover`, and recoveries are updated on by themselves: the
likelier reading of the paper.

The stages are `algorithm.stages`, the update is `learner`. Recoveries usually start from the weights that made the
error, in the step that made it; a context that had to wait in the buffer is older, and `fission/age` says by how many
steps. With fission off the second and third lines do nothing, and what is left is GRPO. The offline variant collects
its contexts once, before the first update, and observes nothing later (`algorithm.offline`). A server that writes
feedback does so while exploration is scored under the frozen start.

Data parallel: every process explores its share of the tasks and keeps a buffer of its own; gradients are averaged once
a step, so uneven groups cannot make processes wait for each other in the middle of one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from accelerate import Accelerator

from fission_grpo.algorithm.groups import Group
from fission_grpo.algorithm.judge import SiblingsJudge
from fission_grpo.algorithm.source import FissionSource
from fission_grpo.algorithm.stages import Stages
from fission_grpo.chat.format import ChatFormat
from fission_grpo.environments.base import Environments
from fission_grpo.policy.base import Sampling
from fission_grpo.policy.local.hf_policy import HFPolicy
from fission_grpo.rollout import RolloutSettings
from fission_grpo.run.folder import RunFolder
from fission_grpo.run.metrics import fission_metrics, group_metrics, prefixed, rescued_groups
from fission_grpo.run.traces import trace
from fission_grpo.training.checkpoint import Checkpoints, RunState
from fission_grpo.training.learner import Learner, Update, anywhere
from fission_grpo.training.settings import TrainerSettings
from fission_grpo.training.task_order import TaskOrder
from fission_grpo.types import Task


@dataclass(slots=True)
class StepReport:
    """What a progress display needs after each step."""

    step: int
    metrics: dict[str, float]


@dataclass(slots=True)
class Clock:
    """Seconds by phase of one step."""

    entering: Callable[[str], None] = lambda phase: None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of a `with` block to a phase."""
        self.entering(name)
        begin = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """What one trip through the loop made."""

    collected: list[Group]
    """What an offline source looked at before the first update; empty otherwise."""
    groups: list[Group]
    """Exploration."""
    fission_groups: list[Group]
    """Recoveries."""
    update: Update
    """The step's one update, or both of its updates together."""
    seconds: dict[str, float]
    """By phase: collect, explore, observe, recover, update."""


class Trainer:
    """Explore, observe, recover, update."""

    def __init__(
        self,
        model: Any,
        *,
        chat: ChatFormat,
        tasks: Sequence[Task],
        environments: Environments,
        source: FissionSource,
        judge: SiblingsJudge,
        settings: TrainerSettings,
        rollouts: RolloutSettings,
        run: RunFolder,
        accelerator: Accelerator,
    ) -> None:
        self.settings = settings
        self.chat = chat
        self.tasks = tasks
        ranks, rank = accelerator.num_processes, accelerator.process_index
        self.order = TaskOrder(tasks, settings, rank=rank, ranks=ranks)
        self.source = source
        self.run = run
        self.accelerator = accelerator
        sampling = Sampling(max_tokens=rollouts.max_tokens, temperature=settings.temperature, top_k=settings.top_k)
        self.learner = Learner(
            model,
            settings,
            distribution=sampling,
            longest=rollouts.max_tokens * rollouts.max_turns,
            accelerator=accelerator,
        )
        self.policy = HFPolicy(
            self.learner.model,
            eos_id=chat.eos_id,
            pad_id=chat.pad_id,
            max_rows=settings.max_rows,
            share=settings.tree,
        )
        self.stages = Stages(
            policy=self.policy,
            chat=chat,
            environments=environments,
            judge=judge,
            source=source,
            sampling=sampling,
            group_size=settings.group_size,
            horizon=settings.horizon,
            max_turns=rollouts.max_turns,
            seed=settings.seed,
            rank=rank,
        )
        self.state = RunState(source, self.policy.lookup, self.order)
        self.checkpoints = Checkpoints(run, accelerator, self.state)

    def train(self, *, stop: Callable[[], bool], report: Callable[[StepReport], None]) -> None:
        """Run to the last step, or until `stop` says so; either way the state is saved at the end.

        Args:
            stop: asked after every step.
            report: told after every step.
        """
        while not self.finished:
            with self.run.step_named(self.state.step):
                metrics = self.step()
            report(StepReport(step=self.state.step, metrics=metrics))
            last = stop() or self.finished
            if last or self.state.step % self.settings.checkpoint_every == 0:
                self.checkpoints.save()
            if last:
                break

    @property
    def finished(self) -> bool:
        """Whether every step has been made."""
        return self.state.step >= self.settings.steps

    def step(self) -> dict[str, float]:
        """One step of the loop, written to the run folder; returns its metrics."""
        step, outcome = self.state.step, self.make_step()
        metrics = self._metrics(step, outcome)
        self._write(step, outcome, metrics)
        self.state.step += 1
        return metrics

    def make_step(
        self, *, collect_at_most: int | None = None, entering: Callable[[str], None] = lambda phase: None
    ) -> StepOutcome:
        """The loop's body. Changes weights, source and order; writes nothing.

        Args:
            collect_at_most: batches of tasks that an offline source may look at; every task once unless given.
            entering: told each phase as it begins.
        """
        step, progress = self.state.step, self.state.step / self.settings.steps
        clock = Clock(entering)
        with clock.phase("collect"):
            collected = self.stages.collect(islice(self.order.batches(), collect_at_most), progress=progress)
        self.policy.invalidate()  # a resumed run has nothing cached either
        with clock.phase("explore"):
            tasks, turns = self.order.tasks_of(step)
            groups = self.stages.explore(tasks, step=step, progress=progress, whole_turns=turns)
        with clock.phase("observe"):
            self.stages.observe(groups, step=step)
        with clock.phase("update"):
            update = self._update_before_recovery(groups)
        with clock.phase("observe"):
            contexts = self.stages.next_contexts()
        with clock.phase("recover"):
            fission_groups = self.stages.recover(contexts, step=step, progress=progress)
        with clock.phase("update"):
            if update is None:
                update = self.learner.update([*groups, *fission_groups])
            elif anywhere(bool(fission_groups), self.accelerator):  # gradients are averaged, with or without rows
                update += self.learner.update(fission_groups)
        with clock.phase("observe"):
            self.source.await_feedback()
        sampled = sum(
            sum(member.trajectory.sampled) for group in [*groups, *fission_groups] for member in group.members
        )
        self.order.note(tasks=len(tasks), turns=turns, tokens=sampled)
        return StepOutcome(
            collected=collected, groups=groups, fission_groups=fission_groups, update=update, seconds=clock.seconds
        )

    def _update_before_recovery(self, groups: Sequence[Group]) -> Update | None:
        """The update on exploration, if recoveries have one of their own; else what can be done for it by now."""
        if self.source.settings.own_step:
            update = self.learner.update(groups)
            self.policy.invalidate()
            return update
        if self.source.awaits_feedback:
            self.learner.precompute_reference(groups)
        return None

    def _metrics(self, step: int, outcome: StepOutcome) -> dict[str, float]:
        return {
            **prefixed("collect", group_metrics(outcome.collected)),
            **group_metrics(outcome.groups),
            **prefixed("fission", fission_metrics(outcome.fission_groups, self.source, step)),
            "fission/revived": float(rescued_groups(outcome.groups, outcome.fission_groups)),
            **self.source.simulator_metrics(),
            **prefixed("update", outcome.update.metrics()),
            **prefixed("generate", self.policy.take_count().metrics()),
        }

    def _write(self, step: int, outcome: StepOutcome, metrics: dict[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        groups = [*outcome.collected, *outcome.groups, *outcome.fission_groups]
        scale = self.learner.objective.scale
        self.run.append(self.run.traces, (trace(group, step=step, scale=scale) for group in groups))
        times = {f"time/{name}": seconds for name, seconds in outcome.seconds.items()}
        self.run.append(self.run.metrics, [{"step": step, **metrics, **times}])
