"""The whole run, put together in one place: settings in, a trainer out. All other parts take values, never settings.

`lay_groundwork` is everything but weights; an engine of somebody else's (TRL, verl) takes it and brings its own model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed

from fission_grpo.algorithm.judge import Judge, SiblingsJudge
from fission_grpo.algorithm.offline import fission_source
from fission_grpo.algorithm.reward_functions import JudgeWithFunctions, RewardFunction
from fission_grpo.algorithm.rewards import REWARD_TERMS
from fission_grpo.algorithm.source import FissionSource
from fission_grpo.chat.format import ChatFormat
from fission_grpo.config import RunSettings, SimulatorName
from fission_grpo.engines.coroutines import all_awaited
from fission_grpo.environments.base import Environments
from fission_grpo.environments.functions.imported import imported, imported_environments
from fission_grpo.environments.shipped import SHIPPED
from fission_grpo.errors import ConfigError
from fission_grpo.models.catalog import find_model, load_chat, load_context_window, load_weights
from fission_grpo.models.folder import save_model_folder
from fission_grpo.models.lora import add_lora
from fission_grpo.models.wide_stream import widen_stream
from fission_grpo.preflight import (
    full_precision_accelerator,
    require_fit_environments,
    require_judges,
    require_requests,
)
from fission_grpo.progress import speaks_for_all, warn
from fission_grpo.rollout import render_prompts
from fission_grpo.run.folder import RunFolder
from fission_grpo.seeds import derive
from fission_grpo.simulator.base import ErrorSimulator, ReferencedSimulator
from fission_grpo.simulator.endpoint import endpoint_simulator
from fission_grpo.simulator.guarded import LeakGuardedSimulator
from fission_grpo.simulator.model import model_simulator
from fission_grpo.simulator.passthrough import PassthroughSimulator
from fission_grpo.simulator.rules import RulesSimulator
from fission_grpo.simulator.static import StaticSimulator
from fission_grpo.tasks.jsonl import Given, tasks_from
from fission_grpo.tasks.training_set import short_enough, training_set
from fission_grpo.training.learner import anywhere
from fission_grpo.training.trainer import Trainer
from fission_grpo.types import Task

ENVIRONMENTS: Environments = SHIPPED
"""Those that ship; pass your own beside them to `assemble`."""


def _by_server(settings: RunSettings) -> LeakGuardedSimulator:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Groundwork:
    """What a run needs besides weights, checked: what the workers of any engine are built from."""

    settings: RunSettings
    chat: ChatFormat
    tasks: tuple[Task, ...]
    environments: Environments
    judge: SiblingsJudge
    source: FissionSource


def lay_groundwork(
    settings: RunSettings, *, environments: Environments = ENVIRONMENTS, tasks: Given | None = None
) -> Groundwork:
    """Tasks, environments, chat format, judge and fission source of a run. The policy's weights are not read, and
    nothing is written.

    Args:
        environments: those that ship, and a program's own; `settings.environments` come beside them.
        tasks: in place of `settings.data`.

    Raises:
        ConfigError: data, model or template cannot work, or do not fit each other.
    """
    find_model(settings.model)
    environments = with_own_environments(environments, settings.environments)
    if tasks is None:
        kept = RunFolder(settings.folder).tasks
        chosen = training_set(settings.data, settings.synthetic, environments=environments, given=kept)
    else:
        chosen = tasks_from(tasks, environments=environments)
    require_fit_environments(chosen, {name: make for name, make in environments.items() if name not in ENVIRONMENTS})
    recovery = settings.fission.horizon if settings.fission.contexts else None
    require_judges(chosen, environments, horizons=settings.horizons, recovery=recovery)
    require_requests(chosen, turn_queries=settings.trainer.turn_queries)
    chat = chat_of_run(settings)
    window, drawn = load_context_window(settings.model), len(chosen)
    chosen = short_enough(
        chosen, settings.rollouts.max_prompt, length=lambda task: len(chat.prompt(task.messages, task.tools))
    )
    if len(chosen) < drawn and speaks_for_all():
        left_out = f"{drawn - len(chosen)} of {drawn} tasks have prompts of more than rollouts.max_prompt"
        warn([f"{left_out}={settings.rollouts.max_prompt} tokens and are left out"])
    render_prompts(chosen, chat=chat, window=window, max_tokens=settings.rollouts.max_tokens)
    if not (settings.fission.keep_reasoning or chat.knows_reasoning):
        raise ConfigError(
            "fission.keep_reasoning=false takes out what stands between <think> and </think>, and these are no tokens "
            f"of {settings.model}; leave it out"
        )
    simulator = SIMULATORS[settings.simulator](settings)
    return Groundwork(
        settings=settings,
        chat=chat,
        tasks=tuple(chosen),
        environments=environments,
        judge=judge_of_run(settings, chat),
        source=fission_source(settings.fission, simulator=simulator, chat=chat, seed=settings.trainer.seed),
    )


def chat_of_run(settings: RunSettings) -> ChatFormat:
    """The chat format of some settings' model; no weights are read.

    Raises:
        ConfigError: no such model or template, or one that cannot carry tools.
    """
    return load_chat(
        settings.model, chat_template=settings.chat_template, chat_template_kwargs=settings.chat_template_kwargs
    )


def judge_of_run(settings: RunSettings, chat: ChatFormat) -> SiblingsJudge:
    """Who scores: our own judge, and the functions that the settings name.

    Raises:
        ConfigError: a function cannot be imported, or has the name of another reward.
    """
    judge = Judge(chat=chat, decision=settings.decision, episode=settings.episode, delta=settings.fission.delta_corr)
    rewards = settings.reward
    if not rewards.functions:
        return judge
    found = [imported("reward.functions", place) for place in rewards.functions]
    named = {getattr(one, "__name__", type(one).__name__): one for one in found}
    if len(named) < len(found) or named.keys() & REWARD_TERMS:
        raise ConfigError(
            f"reward.functions: got the names {', '.join(named)}; expected different ones, and none of "
            f"{', '.join(sorted(REWARD_TERMS))}, under which ours stand in the log"
        )
    if idle := next((name for name, one in named.items() if not callable(one)), None):
        raise ConfigError(f"reward.functions: {idle} cannot be called; expected functions")
    weights = rewards.weights or (1.0,) * len(found)
    functions = tuple(
        RewardFunction(name=name, weight=weight, call=call)
        for (name, call), weight in zip(named.items(), weights, strict=True)
    )
    return JudgeWithFunctions(judge=judge, functions=functions, ours=rewards.ours, gather=all_awaited)


def assemble(
    settings: RunSettings, *, environments: Environments = ENVIRONMENTS, tasks: Given | None = None
) -> Trainer:
    """Everything that one run of our own loop needs, wired; nothing is written yet.

    Args:
        settings: of the whole run; with several processes, the trainer has this one's share of a step.
        environments, tasks: see `lay_groundwork`.

    Raises:
        ConfigError: see `lay_groundwork`; or weights that cannot be trained here, or a step that cannot be shared out.
    """
    accelerator = full_precision_accelerator()
    settings = settings.share_of(accelerator.num_processes)
    set_seed(settings.trainer.seed)
    ground = lay_groundwork(settings, environments=environments, tasks=tasks)
    return Trainer(
        model_to_train(settings, seed=settings.trainer.seed),
        chat=ground.chat,
        tasks=ground.tasks,
        environments=ground.environments,
        source=ground.source,
        judge=ground.judge,
        settings=settings.trainer,
        rollouts=settings.rollouts,
        run=RunFolder(settings.folder),
        accelerator=accelerator,
    )


def model_to_train(settings: RunSettings, *, seed: int) -> Any:
    """The weights of some settings as our own loops train them, with adapters around them where these are asked for.

    Args:
        seed: of the run.
    Raises:
        ConfigError: no such model, one that cannot be read, or an attention that forgets.
    """
    model = widen_stream(load_weights(settings.model, precision=settings.precision))
    return model if settings.lora is None else add_lora(model, settings.lora, seed=derive(seed, "lora"))


def open_run(trainer: Trainer, settings: RunSettings, *, resume: bool) -> None:
    """Make the run folder; with `resume`, continue from its newest checkpoint: see `Checkpoints.resume`.

    Raises:
        ConfigError: the folder cannot be used: see `RunFolder.create` and `Checkpoints.resume`.
    """
    run = trainer.run
    if trainer.accelerator.is_main_process:
        try:
            run.create(settings.saved(), resume=resume)
        except OSError as error:
            raise ConfigError(f"cannot write {run.path}: {error.strerror}; choose another --output") from error
    trainer.accelerator.wait_for_everyone()
    if resume:
        trainer.checkpoints.resume()


def save_policy(trainer: Trainer) -> Path:
    """Write the trained policy with its tokenizer and chat template: an ordinary Hugging Face folder.

    Raises:
        FissionError: the disk refused it.
    """
    folder = trainer.run.policy
    if trainer.accelerator.is_main_process:
        with trainer.run.refusal_of(folder):
            save_model_folder(trainer.learner.model, trainer.chat.tokenizer, folder)
    return folder


def agreed(stop: Callable[[], bool], accelerator: Accelerator) -> Callable[[], bool]:
    """`stop` as all processes answer it together: one that stops alone would leave the others waiting."""

    return lambda: anywhere(stop(), accelerator)


def with_own_environments(environments: Environments, places: Mapping[str, str]) -> Environments:
    """The environments at hand, and those that the settings name.

    Raises:
        ConfigError: one cannot be imported, or its name is taken.
    """
    if taken := sorted(environments.keys() & places.keys()):
        raise ConfigError(f"environments.{taken[0]}: this name is taken; choose another one, here and in the tasks")
    return {**environments, **imported_environments(places)}
