"""What must hold before anything expensive begins: tasks that can be judged, worlds that work, exact arithmetic."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

from accelerate import Accelerator

from fission_grpo.environments.base import Environments
from fission_grpo.environments.check import check_environment
from fission_grpo.errors import ConfigError, EnvironmentFault
from fission_grpo.rollout import Horizon, new_environment
from fission_grpo.training.task_order import whole_turns
from fission_grpo.types import Task

CHECKED_TASKS = 3
"""Tasks by which each of the user's own worlds is tried before training."""


def full_precision_accelerator() -> Accelerator:
    """accelerate as this machine is set up for it.

    Raises:
        ConfigError: it is set up for mixed precision: the trainer would then score tokens otherwise than the sampler.
    """
    mixed = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if mixed == "no":  # otherwise accelerate itself may fail, for its own reasons, before it can be asked
        accelerator = Accelerator()
        mixed = accelerator.mixed_precision
    if mixed != "no":
        raise ConfigError(
            f"accelerate is set to mixed_precision={mixed}, which would score tokens otherwise than they were sampled; "
            "set it to `no` (accelerate launch --mixed_precision no), and for weights of half the size choose "
            "precision=bf16"
        )
    return accelerator


def require_fit_environments(tasks: Sequence[Task], environments: Environments) -> None:
    """Try some tasks of each world before anything is trained in it.

    Raises:
        ConfigError: `check_environment` found problems; all of them are listed.
    """
    problems = [
        f"  {task.id}: {problem}"
        for name, factory in environments.items()
        for task in _tasks_in(tasks, name)[:CHECKED_TASKS]
        for problem in check_environment(factory(), task)
    ]
    if problems:
        listed = "\n".join(dict.fromkeys(problems))
        raise ConfigError(f"{', '.join(environments)}: not fit for training, as these tasks show\n{listed}")


def require_judges(
    tasks: Sequence[Task], environments: Environments, *, horizons: Collection[Horizon], recovery: Horizon | None
) -> None:
    """Every rollout must have something to be judged by.

    Beyond one call that is the world: against gold calls per turn, or by a score of its own. One call is judged by the
    task's target, and so is a recovery of one call; a call in the middle of an episode has none.

    Args:
        horizons: of exploration.
        recovery: of recoveries; None without any.
    Raises:
        ConfigError: a task has nothing, or names a world that is not among `environments`; or recoveries of one call
            are to follow on whole turns.
    """
    further = set(horizons) - {Horizon.CALL}
    if recovery is Horizon.CALL and further:
        raise ConfigError(
            "fission.horizon=call judges a recovery by the reference of the call that failed, and whole turns have "
            "none; set trainer.horizon=call and trainer.turn_queries=0, or fission.horizon=turn"
        )
    unjudged = [task for task in tasks if task.world is not None and not task.gold]
    if Horizon.CALL in horizons and (aimless := [task for task in unjudged if not task.target]):
        raise ConfigError(
            f"{_some(aimless)} have neither `gold` nor `turns`, so that nothing says what the next call should be; "
            "add one of them, or choose trainer.horizon=turn, where the world judges"
        )
    names = dict.fromkeys(task.world.environment for task in unjudged if task.world)
    unfit = {name for name in names if not _judges_itself(_tasks_in(unjudged, name)[0], environments)}
    blind = [task for task in unjudged if task.world and task.world.environment in unfit]
    if blind and (further or recovery is Horizon.TURN):
        what = f"a whole {sorted(further)[0]}" if further else "a recovery"
        remedy = "trainer.horizon=call and trainer.turn_queries=0" if further else "fission.horizon=call"
        raise ConfigError(
            f"{_some(blind)} have a world that does not judge itself, and no gold calls per turn: nothing can judge "
            f"{what}; add `turns` to them, give the world a score(), or choose {remedy}"
        )


def require_requests(tasks: Sequence[Task], *, turn_queries: int) -> None:
    """Whole turns beside single messages need somewhere to begin.

    Raises:
        ConfigError: no task with a world ends with a user message.
    """
    if turn_queries and not whole_turns(tasks):
        raise ConfigError(
            f"trainer.turn_queries={turn_queries} explores whole turns, and none of the {len(tasks)} task(s) has a "
            "world and ends with a user message; add such tasks, or set trainer.turn_queries=0"
        )


def _judges_itself(task: Task, environments: Environments) -> bool:
    """Whether the world of a task without gold can say how it stands."""
    start = new_environment(task, environments)
    if start is None:
        return False
    try:
        start.reset(task)
        start.score()
    except ConfigError:
        return False
    except EnvironmentFault:  # a fault of the moment; in training it would be masked
        return True
    return True


def _tasks_in(tasks: Sequence[Task], name: str) -> list[Task]:
    return [task for task in tasks if task.world is not None and task.world.environment == name]


def _some(tasks: Sequence[Task]) -> str:
    names = ", ".join(task.id for task in tasks[:3])
    return f"{len(tasks)} task(s) ({names}{', ...' if len(tasks) > 3 else ''})"
