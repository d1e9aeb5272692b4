"""The whole run, put together in one place: settings in, a trainer out. All other parts take values, never settings."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from fission_grpo.chat.format import ChatFormat
from fission_grpo.config import RunSettings, SimulatorName
from fission_grpo.demonstrations import CLEAN_SHARE, demonstration_rows
from fission_grpo.environments.bfcl import BFCL, BfclEnvironment
from fission_grpo.errors import ConfigError
from fission_grpo.fission.source import FissionSource
from fission_grpo.judge import Judge
from fission_grpo.models.catalog import find_model, load_policy_model
from fission_grpo.models.folder import save_trained_weights
from fission_grpo.models.lora import add_lora
from fission_grpo.policy.hf import context_window
from fission_grpo.progress import progress
from fission_grpo.rollout import Horizon, Worlds
from fission_grpo.run_folder import RunFolder
from fission_grpo.seeds import derive
from fission_grpo.simulator.base import ErrorSimulator
from fission_grpo.simulator.passthrough import PassthroughSimulator
from fission_grpo.simulator.rules import RulesSimulator
from fission_grpo.simulator.static import StaticSimulator
from fission_grpo.supervised import SupervisedSettings, supervise
from fission_grpo.tasks.training_set import SYNTHETIC, training_set
from fission_grpo.trainer import Trainer
from fission_grpo.types import Task

WORLDS: Worlds = MappingProxyType({BFCL: BfclEnvironment})
"""The worlds that ship; pass your own beside them to `assemble`."""

SIMULATORS: Mapping[SimulatorName, Callable[[], ErrorSimulator]] = MappingProxyType(
    {
        SimulatorName.PASSTHROUGH: PassthroughSimulator,
        SimulatorName.STATIC: StaticSimulator,
        SimulatorName.RULES: RulesSimulator,
    }
)


def assemble(settings: RunSettings, *, worlds: Worlds = WORLDS) -> Trainer:
    """Everything that one run needs, wired; nothing is written yet.

    Raises:
        ConfigError: data, model or template cannot work, or do not fit each other.
    """
    find_model(settings.model)
    set_seed(settings.trainer.seed)
    tasks = training_set(settings.data, settings.synthetic, worlds=worlds)
    require_judges(tasks, settings.trainer.horizon)
    loaded = load_policy_model(settings.model, chat_template=settings.chat_template, precision=settings.precision)
    require_room(tasks, loaded.chat, window=context_window(loaded.model), max_tokens=settings.rollouts.max_tokens)
    model = loaded.model
    if settings.lora is not None:
        model = add_lora(model, settings.lora, seed=derive(settings.trainer.seed, "lora"))
    simulator = SIMULATORS[settings.simulator]()
    return Trainer(
        model,
        chat=loaded.chat,
        tasks=tasks,
        worlds=worlds,
        source=FissionSource(settings.fission, simulator=simulator, chat=loaded.chat),
        judge=Judge(chat=loaded.chat, decision=settings.decision, episode=settings.episode),
        settings=settings.trainer,
        rollouts=settings.rollouts,
        run=RunFolder(settings.folder),
        accelerator=Accelerator(),
    )


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
    """Write the trained policy with its tokenizer and chat template: an ordinary Hugging Face folder."""
    folder = trainer.run.policy
    if trainer.accelerator.is_main_process:
        _save_folder(trainer.model, trainer.chat, folder)
    return folder


def _save_folder(model: Any, chat: ChatFormat, folder: Path) -> None:
    """Write aside, then rename: a folder of this name is a whole one."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    save_trained_weights(model, unfinished)
    chat.renderer.tokenizer.save_pretrained(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def demonstrate(
    settings: RunSettings, supervised: SupervisedSettings, *, count: int, output: Path, worlds: Worlds = WORLDS
) -> list[float]:
    """The other way to the same end: fine-tune the model of some settings on `count` demonstrations, and save it.

    Returns:
        The loss of every step, in nats per token.
    Raises:
        ConfigError: no such model, or tasks that cannot be drawn.
    """
    loaded = load_policy_model(settings.model, chat_template=settings.chat_template, precision=settings.precision)
    enough = settings.synthetic.model_copy(update={"count": count * (1 + CLEAN_SHARE)})
    tasks = training_set(SYNTHETIC, enough, worlds=worlds)
    rows = demonstration_rows(tasks, count=count, seed=supervised.seed, chat=loaded.chat, worlds=worlds)
    model = loaded.model.to(Accelerator().device)
    if settings.lora is not None:
        model = add_lora(model, settings.lora, seed=derive(supervised.seed, "lora"))
    with progress("supervise", total=supervised.steps) as show:
        losses = supervise(
            model,
            rows,
            supervised,
            pad_id=loaded.chat.pad_id,
            report=lambda step, loss: show(step + 1, f"loss {loss:.3f}"),
        )
    _save_folder(model, loaded.chat, output)
    return losses


def agreed(stop: Callable[[], bool], accelerator: Accelerator) -> Callable[[], bool]:
    """`stop` as all processes answer it together: one that stops alone would leave the others waiting."""

    def any_stops() -> bool:
        asked = torch.tensor([stop()], device=accelerator.device)
        return bool(accelerator.gather(asked).any())

    return any_stops if accelerator.num_processes > 1 else stop


def require_judges(tasks: Sequence[Task], horizon: Horizon) -> None:
    """A rollout beyond one call is judged by its world against gold calls.

    Raises:
        ConfigError: a task has a world and nothing to be judged by.
    """
    if horizon is Horizon.CALL:
        return
    blind = [task.id for task in tasks if task.world is not None and not task.gold]
    if blind:
        raise ConfigError(
            f"{len(blind)} task(s) have a world but no gold calls per turn ({', '.join(blind[:3])}, ...): nothing can "
            f"judge a whole {horizon}; add `turns` to them, or choose trainer.horizon=call"
        )


def require_room(tasks: Sequence[Task], chat: ChatFormat, *, window: int, max_tokens: int) -> None:
    """Every prompt must leave room for one answer.

    Raises:
        ConfigError: some do not; the longest is named. Or the template refuses a task's messages.
    """
    lengths = {task.id: len(chat.prompt(task.messages, task.tools)) for task in tasks}
    longest = max(lengths, key=lengths.__getitem__)
    if lengths[longest] + max_tokens > window:
        count = sum(length + max_tokens > window for length in lengths.values())
        raise ConfigError(
            f"{count} of {len(tasks)} prompts leave no room for an answer: {longest} has {lengths[longest]} tokens, "
            f"rollouts.max_tokens is {max_tokens}, the model's window {window}; "
            "lower rollouts.max_tokens, shorten these tasks, or offer them fewer tools"
        )
