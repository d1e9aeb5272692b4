"""TRL's reward functions and `get_reward` as the judge of trajectories.

Beside what any reward function gets (`algorithm/reward_functions.py`), those of TRL get every column of the row,
`environments`, `trainer_state`, `log_extra` and `log_metric`. A trajectory to which none applies weighs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from fission_grpo.algorithm.failures import find_failure
from fission_grpo.algorithm.groups import Member
from fission_grpo.algorithm.judge import SiblingsJudge, fault_of_ours
from fission_grpo.algorithm.reward_functions import RewardFunction, function_terms
from fission_grpo.algorithm.rewards import Reward, RewardTerm
from fission_grpo.engines.coroutines import all_awaited
from fission_grpo.engines.trl.environment import LiveVerdict, reward_verdict
from fission_grpo.engines.trl.inputs import Inputs, placeholder
from fission_grpo.rollout import Horizon, Trajectory
from fission_grpo.types import Turn

Extras: TypeAlias = dict[str, Any]
"""What reward functions noted about one trajectory, by column."""


class RewardFunctionsJudge:
    """Sums up what the user's functions and the world's own `get_reward` say, siblings together."""

    def __init__(self, functions: Sequence[RewardFunction], *, context: Callable[[], Mapping[str, Any]]) -> None:
        """Take the functions in order.

        Args:
            context: what every function gets beside the trajectories: `trainer_state` and `log_metric`.
        """
        self.functions = functions
        self.context = context
        self._extras: list[Extras] = []

    def siblings(
        self, trajectories: Sequence[Trajectory], *, horizon: Horizon, progress: float, before: Sequence[Turn] = ()
    ) -> list[Member]:
        scored = [place for place, one in enumerate(trajectories) if one.valid and one.turns]
        extras: list[Extras] = [{} for _ in trajectories]
        values = self._values([trajectories[place] for place in scored], [extras[place] for place in scored])
        self._extras += extras
        terms = dict(zip(scored, values, strict=True))
        return [_member(one, terms.get(place, ())) for place, one in enumerate(trajectories)]

    def take_extras(self) -> list[Extras]:
        """What was noted since the last call, one for each trajectory in the order of judging."""
        extras, self._extras = self._extras, []
        return extras

    def _values(self, scored: Sequence[Trajectory], extras: Sequence[Extras]) -> list[tuple[RewardTerm, ...]]:
        """The terms of each trajectory."""
        terms = function_terms(self.functions, scored, columns=self._columns(scored, extras), gather=all_awaited)
        return [(*each, *_own(one)) for one, each in zip(scored, terms, strict=True)]

    def _columns(self, scored: Sequence[Trajectory], extras: Sequence[Extras]) -> dict[str, Any]:
        """What functions get beside prompts and completions."""
        rows = [one.task.meta["row"] for one in scored]

        def log_extra(column: str, values: Sequence[Any]) -> None:
            for extra, value in zip(extras, values, strict=True):
                extra[column] = value

        living = [one.verdict.subject for one in scored if isinstance(one.verdict, LiveVerdict)]
        return {
            **{key: [row.get(key) for row in rows] for key in (rows[0] if rows else ()) if key not in _OURS},
            **self.context(),
            "log_extra": log_extra,
            **({"environments": living} if len(living) == len(scored) else {}),
        }


def judge_of(trainer: Any, found: Inputs) -> RewardFunctionsJudge:
    """The judge of a trainer's rows. As in TRL, rewards of worlds have columns beside those of functions.

    Args:
        trainer: made with the user's functions; where there are none, with the columns already.
    """
    weights = trainer.reward_weights.tolist()
    if found.functions:
        trainer.reward_funcs += [placeholder(name) for name in found.columns]
        trainer.reward_func_names += found.columns
        trainer.reward_processing_classes += [None] * len(found.columns)
        trainer.reward_weights = torch.cat([trainer.reward_weights, torch.ones(len(found.columns))])
    named = zip(found.functions, trainer.reward_func_names, weights, strict=False)
    return RewardFunctionsJudge(
        [RewardFunction(name=name, weight=weight, call=function) for function, name, weight in named],
        context=lambda: {"trainer_state": trainer.state, "log_metric": trainer._log_metric},
    )


def extras_of(judge: SiblingsJudge) -> list[Extras]:
    """What reward functions have noted since the last call; nothing of a judge of ours."""
    return judge.take_extras() if isinstance(judge, RewardFunctionsJudge) else []


_OURS = ("prompt", "completion", "completion_ids")
"""Columns that are not passed on under their own names."""


def _own(trajectory: Trajectory) -> tuple[RewardTerm, ...]:
    """The reward that the world gives itself; TRL's weight for it is 1."""
    verdict = trajectory.verdict
    if not isinstance(verdict, LiveVerdict) or verdict.reward is None:
        return ()
    name = type(verdict.subject).__name__
    return (RewardTerm(name=name, value=verdict.reward, weight=1.0, why="by the world's own get_reward"),)


def _member(trajectory: Trajectory, terms: tuple[RewardTerm, ...]) -> Member:
    """Where a world judges itself, it decides what a success is; elsewhere the sum of all rewards does."""
    if not terms:
        return Member(trajectory=trajectory, reward=None, success=False, failure=fault_of_ours(trajectory))
    reward = Reward(terms=terms, scale=1.0)
    own = trajectory.verdict
    judged = isinstance(own, LiveVerdict) and own.reward is not None
    verdict = own if judged else reward_verdict(reward.total, subject=None)
    assert verdict is not None, "a world that judged itself has said something"
    return Member(
        trajectory=trajectory,
        reward=reward,
        success=verdict.ok,
        failure=find_failure(trajectory.turns, correctness=None, verdict=verdict),
    )
