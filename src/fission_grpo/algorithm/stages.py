"""The three stages of arXiv:2601.15625 as verbs: explore, observe, recover. Whoever owns the optimizer calls them.

    groups         = stages.explore(tasks, step=step, progress=step / steps)              stage 1
                     stages.observe(groups, step=step)                                    stage 2
    contexts       = stages.next_contexts()
    fission_groups = stages.recover(contexts, step=step, progress=step / steps)           stage 3
    rows           = rows_of([*groups, *fission_groups], objective)                       to be trained on

Before the first step `stages.collect` fills the pool of the offline variant, and does nothing for any other; behind the
update `source.await_feedback` takes in what a server still writes. `source.state_dict` belongs into a checkpoint.

This is the seam of engines that drive a whole step (our own trainer, TRL). An engine that drives one dialogue at a time
(verl) takes the parts: `rollout.Dialogue` to sample, `Judge` to score, `FissionSource` to remember.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fission_grpo.algorithm.context import CorrectiveContext
from fission_grpo.algorithm.groups import Group
from fission_grpo.algorithm.judge import SiblingsJudge
from fission_grpo.algorithm.source import FissionSource
from fission_grpo.chat.format import ChatFormat
from fission_grpo.environments.base import Environments
from fission_grpo.policy.base import Policy, Sampling
from fission_grpo.rollout import Horizon, Start, open_group, rollout
from fission_grpo.seeds import derive
from fission_grpo.types import GroupKind, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """Everything between some tasks and the groups that an update is made of.

    Two processes with different ranks draw different random numbers and have a fission buffer each.
    """

    policy: Policy
    chat: ChatFormat
    environments: Environments
    judge: SiblingsJudge
    source: FissionSource
    sampling: Sampling
    group_size: int
    """G: trajectories for each task."""
    horizon: Horizon
    """How far exploration goes in a task with a world; without one it is a single message. How far a recovery goes is
    the source's to say."""
    max_turns: int
    """Most assistant messages for one user message."""
    seed: int
    rank: int = 0

    def explore(
        self,
        tasks: Sequence[Task],
        *,
        step: int,
        progress: float,
        whole_turns: int = 0,
        kind: GroupKind = GroupKind.EXPLORATION,
    ) -> list[Group]:
        """Stage 1: G trajectories for each task.

        Args:
            whole_turns: of the tasks, so many of the last go to the end of the turn, whatever `horizon` is.
            step: optimizer steps made so far; names the groups, and is part of their seed.
            progress: share of the run that is done, in [0, 1], for rewards with a schedule.
            kind: what the groups are for.
        Raises:
            PolicyError: sampling failed.
            ConfigError: a task names an environment that is not there.
        """
        starts = [
            start
            for task in tasks
            for start in open_group(task, self.group_size, chat=self.chat, environments=self.environments)
        ]
        return self._sample(
            starts,
            horizons=self._horizons(tasks, whole_turns),
            kind=kind,
            contexts=[None] * len(tasks),
            step=step,
            progress=progress,
        )

    def collect(self, batches: Iterable[Sequence[Task]], *, progress: float) -> list[Group]:
        """What an offline source looks at before the first update, to fill its pool; nothing for any other source.

        Args:
            batches: tasks to explore, taken one batch after the other until the pool is full.
            progress: see `explore`.
        Returns:
            Every group that was explored for it.
        """
        return self.source.collect(
            self.explore(tasks, step=number, progress=progress, kind=GroupKind.COLLECTION)
            for number, tasks in enumerate(batches)
        )

    def observe(self, groups: Sequence[Group], *, step: int) -> None:
        """Stage 2: what failed is diagnosed, and becomes corrective contexts in the source's buffer.

        A server may go on writing feedback when this returns (`FissionSource.awaits_feedback`): other work can be done
        before `next_contexts` waits for it.
        """
        self.source.observe(groups, policy_version=step)

    def next_contexts(self) -> list[CorrectiveContext]:
        """The contexts to recover from now, the freshest first; none unless the trigger fires."""
        return self.source.next_contexts()

    def recover(self, contexts: Sequence[CorrectiveContext], *, step: int, progress: float) -> list[Group]:
        """Stage 3: G' recoveries from each context, each in a world just as the failed call left it.

        They are of one message, or go to the end of the turn: see `FissionSettings.horizon`.

        What fails in them is observed, too: it becomes a context where the settings allow that depth.

        Args:
            step, progress: see `explore`.
        Raises:
            PolicyError: sampling failed.
        """
        size = self.source.settings.group_size
        groups = self._sample(
            [context.start(self.environments) for context in contexts for _ in range(size)],
            horizons=[self.source.recovery_horizon(context.task) for context in contexts],
            kind=GroupKind.FISSION,
            contexts=contexts,
            step=step,
            progress=progress,
        )
        self.observe(groups, step=step)
        return groups

    def _horizons(self, tasks: Sequence[Task], whole_turns: int) -> list[Horizon]:
        asked = [self.horizon] * (len(tasks) - whole_turns) + [Horizon.TURN] * whole_turns
        return [horizon if task.world else Horizon.CALL for task, horizon in zip(tasks, asked, strict=True)]

    def _sample(
        self,
        starts: Sequence[Start],
        *,
        horizons: Sequence[Horizon],
        kind: GroupKind,
        contexts: Sequence[CorrectiveContext | None],
        step: int,
        progress: float,
    ) -> list[Group]:
        """Roll out as many trajectories for each of some contexts, and judge them."""
        if not starts:
            return []
        size = len(starts) // len(contexts)
        trajectories = rollout(
            starts,
            policy=self.policy,
            chat=self.chat,
            sampling=self.sampling,
            horizons=[horizon for horizon in horizons for _ in range(size)],
            max_turns=self.max_turns,
            seed=derive(self.seed, kind.value, step, self.rank),
        )
        groups = []
        for index, (horizon, context) in enumerate(zip(horizons, contexts, strict=True)):
            siblings = trajectories[index * size : (index + 1) * size]
            before = context.before if context else ()
            judged = self.judge.siblings(siblings, horizon=horizon, progress=progress, before=before)
            groups.append(
                Group(
                    id=f"{step}/{kind.value}/{self.rank}.{index}",
                    kind=kind,
                    task=siblings[0].task,
                    members=tuple(judged),
                    context=context,
                )
            )
        return groups
