"""The whole run, put together in one place: settings in, a trainer out. All other parts take values, never settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from fission_grpo.algorithm.judge import Judge
from fission_grpo.algorithm.offline import fission_source
from fission_grpo.config import RunSettings, SimulatorName
from fission_grpo.environments.bfcl.environment import BFCL, BfclEnvironment
from fission_grpo.environments.check import check_environment
from fission_grpo.environments.functions.imported import imported_worlds
from fission_grpo.errors import ConfigError, EnvironmentFault
from fission_grpo.models.catalog import find_model, load_policy_model
from fission_grpo.models.folder import save_model_folder
from fission_grpo.models.lora import add_lora
from fission_grpo.policy.local.hf_policy import context_window
from fission_grpo.rollout import Horizon, Worlds, new_world, render_prompts
from fission_grpo.run.folder import RunFolder
from fission_grpo.seeds import derive
from fission_grpo.simulator.base import ErrorSimulator, ReferencedSimulator
from fission_grpo.simulator.endpoint import endpoint_simulator
from fission_grpo.simulator.guarded import GuardedSimulator
from fission_grpo.simulator.model import model_simulator
from fission_grpo.simulator.passthrough import PassthroughSimulator
from fission_grpo.simulator.rules import RulesSimulator
from fission_grpo.simulator.static import StaticSimulator
from fission_grpo.tasks.jsonl import tasks_from
from fission_grpo.tasks.training_set import training_set
from fission_grpo.training.trainer import Trainer
from fission_grpo.types import Task

WORLDS: Worlds = MappingProxyType({BFCL: BfclEnvironment})
"""The worlds that ship; pass your own beside them to `assemble`."""

CHECKED_TASKS = 3
"""Tasks by which each of the user's own worlds is tried before training."""


def _by_server(settings: RunSettings) -> GuardedSimulator:
    assert settings.simulator_endpoint is not None, "RunSettings lets nobody choose a server that is not named"
    return endpoint_simulator(settings.simulator_endpoint)


SIMULATORS: Mapping[SimulatorName, Callable[[RunSettings], ErrorSimulator | ReferencedSimulator]] = MappingProxyType(
    {
        SimulatorName.PASSTHROUGH: lambda settings: PassthroughSimulator(),
        SimulatorName.STATIC: lambda settings: StaticSimulator(),
        SimulatorName.RULES: lambda settings: RulesSimulator(),
        SimulatorName.MODEL: lambda settings: model_simulator(settings.simulator_model),
        SimulatorName.ENDPOINT: _by_server,
    }
)


def assemble(
    settings: RunSettings, *, worlds: Worlds = WORLDS, tasks: Sequence[Task | Mapping[str, Any]] | None = None
) -> Trainer:
    """Everything that one run needs, wired; nothing is written yet.

    Args:
        tasks: in place of `settings.data`.

    Raises:
        ConfigError: data, model or template cannot work, or do not fit each other.
    """
    find_model(settings.model)
    accelerator = full_precision_accelerator()
    worlds = with_own_worlds(worlds, settings.worlds)
    set_seed(settings.trainer.seed)
    if tasks is None:
        chosen = training_set(settings.data, settings.synthetic, worlds=worlds)
    else:
        chosen = tasks_from(tasks, worlds=worlds)
    require_fit_worlds(chosen, {name: make for name, make in worlds.items() if name not in WORLDS})
    require_judges(chosen, worlds, horizon=settings.trainer.horizon, fission=bool(settings.fission.contexts))
    loaded = load_policy_model(settings.model, chat_template=settings.chat_template, precision=settings.precision)
    window = context_window(loaded.model)
    render_prompts(chosen, chat=loaded.chat, window=window, max_tokens=settings.rollouts.max_tokens)
    model = loaded.model
    if settings.lora is not None:
        model = add_lora(model, settings.lora, seed=derive(settings.trainer.seed, "lora"))
    simulator = SIMULATORS[settings.simulator](settings)
    return Trainer(
        model,
        chat=loaded.chat,
        tasks=chosen,
        worlds=worlds,
        source=fission_source(settings.fission, simulator=simulator, chat=loaded.chat, seed=settings.trainer.seed),
        judge=Judge(chat=loaded.chat, decision=settings.decision, episode=settings.episode),
        settings=settings.trainer,
        rollouts=settings.rollouts,
        run=RunFolder(settings.folder),
        accelerator=accelerator,
    )


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
            "precision=bf16 with lora.rank=16"
        )
    return accelerator


def open_run(trainer: Trainer, settings: RunSettings, *, resume: bool) -> None:
    """Make the run folder; with `resume`, continue from its newest checkpoint, or from the start if there is none.

    Raises:
        ConfigError: the folder cannot be used: see `RunFolder.create`.
    """
    run = trainer.run
    if trainer.accelerator.is_main_process:
        try:
            run.create(settings.saved(), resume=resume)
        except OSError as error:
            raise ConfigError(f"cannot write {run.path}: {error.strerror}; choose another --output") from error
    trainer.accelerator.wait_for_everyone()
    if not resume:
        return
    checkpoint = run.latest_checkpoint()
    if checkpoint is not None:
        trainer.resume(checkpoint)
    elif trainer.accelerator.is_main_process:
        run.forget_after(0)


def save_policy(trainer: Trainer) -> Path:
    """Write the trained policy with its tokenizer and chat template: an ordinary Hugging Face folder.

    Raises:
        FissionError: the disk refused it.
    """
    folder = trainer.run.policy
    if trainer.accelerator.is_main_process:
        with trainer.run.refusal_of(folder):
            save_model_folder(trainer.model, trainer.chat, folder)
    return folder


def agreed(stop: Callable[[], bool], accelerator: Accelerator) -> Callable[[], bool]:
    """`stop` as all processes answer it together: one that stops alone would leave the others waiting."""

    def any_stops() -> bool:
        asked = torch.tensor([stop()], device=accelerator.device)
        return bool(accelerator.gather(asked).any())

    return any_stops if accelerator.num_processes > 1 else stop


def with_own_worlds(worlds: Worlds, places: Mapping[str, str]) -> Worlds:
    """The worlds at hand, and those that the settings name.

    Raises:
        ConfigError: one cannot be imported, or its name is taken.
    """
    if taken := sorted(worlds.keys() & places.keys()):
        raise ConfigError(f"worlds.{taken[0]}: this name is taken; choose another one, here and in the tasks")
    return {**worlds, **imported_worlds(places)}


def require_fit_worlds(tasks: Sequence[Task], worlds: Worlds) -> None:
    """Try some tasks of each world before anything is trained in it.

    Raises:
        ConfigError: `check_environment` found problems; all of them are listed.
    """
    problems = [
        f"  {task.id}: {problem}"
        for name, factory in worlds.items()
        for task in _living_in(tasks, name)[:CHECKED_TASKS]
        for problem in check_environment(factory(), task)
    ]
    if problems:
        listed = "\n".join(dict.fromkeys(problems))
        raise ConfigError(f"{', '.join(worlds)}: not fit for training, as these tasks show\n{listed}")


def require_judges(tasks: Sequence[Task], worlds: Worlds, *, horizon: Horizon, fission: bool) -> None:
    """Every rollout must have something to be judged by.

    Beyond one call that is the world: against gold calls per turn, or by a score of its own. One call is judged by the
    task's target; its recoveries go on to the end of the turn.

    Raises:
        ConfigError: a task has nothing, or names a world that is not among `worlds`.
    """
    unjudged = [task for task in tasks if task.world is not None and not task.gold]
    if horizon is Horizon.CALL and (aimless := [task for task in unjudged if not task.target]):
        raise ConfigError(
            f"{_some(aimless)} have neither `gold` nor `turns`, so that nothing says what the next call should be; "
            "add one of them, or choose trainer.horizon=turn, where the world judges"
        )
    names = dict.fromkeys(task.world.environment for task in unjudged if task.world)
    unfit = {name for name in names if not _judges_itself(_living_in(unjudged, name)[0], worlds)}
    blind = [task for task in unjudged if task.world and task.world.environment in unfit]
    if blind and (fission or horizon is not Horizon.CALL):
        what = "a recovery" if horizon is Horizon.CALL else f"a whole {horizon}"
        remedy = "fission.contexts=0" if horizon is Horizon.CALL else "trainer.horizon=call"
        raise ConfigError(
            f"{_some(blind)} have a world that does not judge itself, and no gold calls per turn: nothing can judge "
            f"{what}; add `turns` to them, give the world a score(), or choose {remedy}"
        )


def _judges_itself(task: Task, worlds: Worlds) -> bool:
    """Whether the world of a task without gold can say how it stands."""
    start = new_world(task, worlds)
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


def _living_in(tasks: Sequence[Task], name: str) -> list[Task]:
    return [task for task in tasks if task.world is not None and task.world.environment == name]


def _some(tasks: Sequence[Task]) -> str:
    names = ", ".join(task.id for task in tasks[:3])
    return f"{len(tasks)} task(s) ({names}{', ...' if len(tasks) > 3 else ''})"
