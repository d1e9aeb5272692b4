"""A rival of fission at the same budget: branch where the policy was least sure, whatever came of it.

After ARPO (arXiv:2507.19849), which branches where token entropy rises behind a tool's answer. Here (ours) the finished
explorations are searched, and the surprisal of the sampled tokens stands for entropy: it is known already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from fission_grpo.algorithm.context import CorrectiveContext, Parent
from fission_grpo.algorithm.groups import Group
from fission_grpo.algorithm.source import FissionSource
from fission_grpo.rollout import Trajectory


class BranchingSource(FissionSource):
    """Hands out the dialogues before uncertain messages; nothing needs to have failed, and no simulator is asked."""

    def observe(self, groups: Sequence[Group], *, policy_version: int) -> None:
        """Push the `per_group` least sure steps of each exploration group; continuations are not branched again."""
        if not self.settings.contexts:
            return
        for group in groups:
            if group.context is None:
                for step in uncertain_steps(group)[: self.settings.per_group]:
                    self.buffer.push(_context(group, step, policy_version=policy_version))
                    self.count.observed += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class UncertainStep:
    """A message of a group that could have been another one."""

    index: int
    """Which trajectory."""
    turn: int
    """Which of its messages."""
    surprisal: float
    """Mean over the tokens of the message, in nats, under the distribution that they were sampled from."""


def uncertain_steps(group: Group) -> list[UncertainStep]:
    """The messages that answered a tool, the least sure first; the opening ones only where there is no other.

    To branch at an opening message, or behind another word of the user's, is just more exploration. Of messages behind
    the very same tokens there is one. Trajectories with a fault of ours are left out.
    """
    valid = [(index, one.trajectory) for index, one in enumerate(group.members) if one.reward is not None]
    answering = {index: _behind_a_tool(trajectory) for index, trajectory in valid}
    alone = not any(answering.values())
    steps: dict[tuple[int, ...], UncertainStep] = {}
    for index, trajectory in valid:
        for place in [0] if alone else answering[index]:
            turn = trajectory.turns[place]
            step = UncertainStep(index=index, turn=place, surprisal=-fmean(turn.completion.logprobs))
            same = steps.setdefault(trajectory.ids[: turn.start], step)
            if step.surprisal > same.surprisal:
                steps[trajectory.ids[: turn.start]] = step
    return sorted(steps.values(), key=lambda step: -step.surprisal)


def _behind_a_tool(trajectory: Trajectory) -> list[int]:
    """Places of the messages that follow one with outcomes."""
    return [place for place in range(1, len(trajectory.turns)) if trajectory.turns[place - 1].outcomes]


def _context(group: Group, step: UncertainStep, *, policy_version: int) -> CorrectiveContext:
    """The dialogue before the message, and the world that it met."""
    trajectory = group.members[step.index].trajectory
    return CorrectiveContext(
        task=trajectory.task,
        x_ids=trajectory.ids[: trajectory.turns[step.turn].start],
        error_ids=(),
        feedback_ids=(),
        messages=trajectory.dialogue(step.turn),
        before=trajectory.turns[: step.turn],
        snapshot=trajectory.snapshots[step.turn - 1] if step.turn else None,
        feedback=None,
        error=None,
        depth=1,
        parent=Parent(group=group.id, trajectory=step.index, turn=step.turn),
        policy_version=policy_version,
        failing=group.failing,
    )
