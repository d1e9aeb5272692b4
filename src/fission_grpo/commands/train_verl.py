"""`fission train --engine verl`: the settings of a run as verl's, and verl's trainer on Ray in a run folder of ours.

The folder holds what it always does, but for `checkpoints/`, which are verl's (`global_step_N/`). On several machines
it has to lie where all of them see it.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf, open_dict
from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import validate_config

from fission_grpo.assembly import ENVIRONMENTS, Groundwork, lay_groundwork
from fission_grpo.commands.engine_memory import DeviceMemory, device_memory
from fission_grpo.commands.trained_run import TrainedRun, errors_name_the_run, record_origin, require_same_tasks
from fission_grpo.commands.verl_config import verl_values
from fission_grpo.commands.verl_plugin import settings_json
from fission_grpo.config import RunSettings
from fission_grpo.engines.player import judge_of_one
from fission_grpo.engines.verl.state import newest_step
from fission_grpo.environments.base import Environments
from fission_grpo.errors import ConfigError
from fission_grpo.models.catalog import load_config, load_context_window
from fission_grpo.run.folder import RunFolder
from fission_grpo.run.lock import writing_into
from fission_grpo.tasks.jsonl import Given, write_tasks

MODULE = "verl.trainer.config"
"""Where verl keeps its defaults."""
PLUGIN = "fission_grpo.commands.verl_plugin"
EXTERNAL = "VERL_USE_EXTERNAL_MODULES"
"""Modules that `import verl` loads, separated by commas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerlPlan:
    """What a run inside verl will do, as far as it is known without weights."""

    tasks: int
    updates: int
    rows: int
    """Of a step, on all GPUs together: exploration, and the recoveries that may be due."""
    verl: Mapping[str, Any]
    """What verl's configuration is given."""
    device: DeviceMemory

    def lines(self) -> list[str]:
        """For a person."""
        return [
            f"engine       verl; {self.tasks:,} tasks, {self.updates:,} updates",
            f"a step       {self.rows} rows at most",
            *(f"  {name}: {value}" for name, value in self.verl.items()),
            *self.device.lines(),
        ]


def make_verl_plan(settings: RunSettings) -> VerlPlan:
    """Check everything but the weights; Ray is not started.

    Raises:
        ConfigError: something cannot work, or not inside verl.
    """
    ground, fission = lay_groundwork(settings), settings.fission
    values = _values(ground, resume=False)
    verl_config(ground, resume=False)
    prompt = values["data.max_prompt_length"]
    return VerlPlan(
        tasks=len(ground.tasks),
        updates=settings.trainer.steps * (2 if fission.own_step and fission.contexts else 1),
        rows=settings.trainer.queries * settings.trainer.group_size + fission.contexts * fission.group_size,
        verl=values,
        device=device_memory(settings, load_config(settings.model).get_text_config(), prompt=prompt),
    )


def train_inside_verl(
    settings: RunSettings, *, tasks: Given | None, environments: Environments, resume: bool
) -> TrainedRun:
    """See `commands.train.train`; Ctrl-C ends it at once, and what the newest checkpoint holds is safe."""
    run = RunFolder(settings.folder)
    if extra := sorted(environments.keys() - ENVIRONMENTS.keys()):
        raise ConfigError(
            f"environment {extra[0]!r} lives in this program, and verl's workers are others: name it in the settings, "
            f"environments.{extra[0]}=package.module:name"
        )
    ground = lay_groundwork(settings, tasks=tasks)
    config = verl_config(ground, resume=resume)
    if tasks is not None:
        require_same_tasks(run, ground.tasks)
    done = TrainedRun(settings=settings, environments=ground.environments, step=newest_step(run.checkpoints))
    with writing_into(run.path), errors_name_the_run(done):
        if tasks is not None:
            write_tasks(run.tasks, ground.tasks)
        if not done.finished:
            record_origin(
                run.path,
                settings.model,
                chat=ground.chat,
                tasks=ground.tasks,
                data=settings.data,
                step=done.step,
                processes=settings.engine.devices,
            )
            try:
                run_ppo(config, task_runner_class=TaskRunnerV1)
            finally:
                ray.shutdown()
        done = replace(done, step=newest_step(run.checkpoints))
        if done.finished and not run.policy.is_dir():
            with run.refusal_of(run.policy):
                _save_policy(run, ground, step=done.step)
    return done


def _values(ground: Groundwork, *, resume: bool) -> dict[str, Any]:
    settings = ground.settings
    judge_of_one(ground.judge)
    prompt = max(len(ground.chat.prompt(task.messages, task.tools)) for task in ground.tasks)
    window = settings.engine.vllm_window or load_context_window(settings.model)
    return verl_values(settings, prompt=prompt, window=window, resume=resume)


def verl_config(ground: Groundwork, *, resume: bool) -> Any:
    """verl's whole configuration, which verl itself has found consistent."""
    with initialize_config_module(MODULE, version_base=None):
        config = compose("ppo_trainer")
    with open_dict(config):
        for name, value in _values(ground, resume=resume).items():
            OmegaConf.update(config, name, value)
        config.data.fission = settings_json(ground.settings)
        config.merge_with(ground.settings.engine.verl)
        # Of an entry point that cannot be imported verl says nothing; of a module it does.
        named = os.environ.get(EXTERNAL, "").split(",")
        modules = ",".join(dict.fromkeys([*filter(None, named), PLUGIN]))
        OmegaConf.update(config, f"ray_kwargs.ray_init.runtime_env.env_vars.{EXTERNAL}", modules)
    try:
        with redirect_stdout(sys.stderr):  # what it says would stand before the JSON of a plan
            validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    except (AssertionError, ValueError) as error:
        raise ConfigError(f"verl refuses its configuration: {error}; correct the setting behind it") from error
    return config


def _save_policy(run: RunFolder, ground: Groundwork, *, step: int) -> None:
    """An ordinary Hugging Face folder: the weights that verl has written, and our tokenizer with its chat template."""
    unfinished = run.policy.with_name(f".{run.policy.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(_weights(run, step), unfinished)
    ground.chat.tokenizer.save_pretrained(unfinished)
    unfinished.replace(run.policy)


def _weights(run: RunFolder, step: int) -> Path:
    return run.checkpoints / f"global_step_{step}" / "actor" / "huggingface"
