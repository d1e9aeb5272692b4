"""`fission train --engine trl`: the settings of a run as TRL's, and TRL's trainer in a run folder of ours.

The folder holds what it always does, but for `checkpoints/`, which are TRL's (`checkpoint-N/`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from accelerate import PartialState
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig

from fission_grpo.algorithm.advantages import Scale
from fission_grpo.algorithm.groups import Group
from fission_grpo.algorithm.losses import ObjectiveName
from fission_grpo.assembly import Groundwork, agreed, lay_groundwork
from fission_grpo.commands.engine_memory import DeviceMemory, device_memory, micro_batches
from fission_grpo.commands.launch import launch_line, require_launch
from fission_grpo.commands.tracking import tracking
from fission_grpo.commands.trained_run import (
    TrainedRun,
    alarms_of,
    errors_name_the_run,
    record_origin,
    require_same_tasks,
    status_line,
)
from fission_grpo.config import RunSettings
from fission_grpo.engines.settings import EngineSettings, VllmMode
from fission_grpo.engines.trl import FissionGRPOTrainer, contract
from fission_grpo.engines.trl.limits import SCALES, require_exact, require_tasks
from fission_grpo.engines.trl.policy import require_vllm
from fission_grpo.engines.trl.state import latest_checkpoint
from fission_grpo.environments.base import Environments
from fission_grpo.errors import ConfigError
from fission_grpo.models.catalog import find_model, load_config, load_weights
from fission_grpo.models.folder import save_model_folder
from fission_grpo.models.lora import lora_config
from fission_grpo.progress import ProgressCallback, progress, warn
from fission_grpo.run.alarms import Alarms
from fission_grpo.run.folder import KEPT_CHECKPOINTS, RunFolder
from fission_grpo.run.interruption import Interruption
from fission_grpo.run.lock import writing_into
from fission_grpo.run.traces import trace
from fission_grpo.tasks.jsonl import Given, write_tasks

LOSSES: Mapping[ObjectiveName, Mapping[str, str]] = MappingProxyType(
    {
        ObjectiveName.GRPO: {"loss_type": "dapo", "scale_rewards": "group"},
        ObjectiveName.DR_GRPO: {"loss_type": "dr_grpo", "scale_rewards": "none"},
        ObjectiveName.GRPO_UNSCALED: {"loss_type": "grpo", "scale_rewards": "none"},
    }
)
"""Our objectives as TRL's. DAPO is not among them: ours leaves groups without signal out of the mean, TRL does not."""
UPDATE_NAMES: Mapping[str, str] = MappingProxyType(
    {"loss": "update/loss", "grad_norm": "update/grad_norm", "entropy": "update/entropy", "kl": "update/kl"}
)
"""TRL's names -> those of `metrics.jsonl`, which has both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrlPlan:
    """What a run inside TRL will do, as far as it is known without weights."""

    tasks: int
    updates: int
    rows: int
    """Of a step and process: exploration, and the room for recoveries."""
    micro_batches: int
    """Of a step and process."""
    trl: Mapping[str, Any]
    """What the `GRPOConfig` is given."""
    device: DeviceMemory
    launch: str
    """How the run is started."""

    def lines(self) -> list[str]:
        """For a person."""
        return [
            f"engine       TRL; {self.tasks:,} tasks, {self.updates:,} updates",
            f"a step       {self.rows} rows for each process, in {self.micro_batches} micro-batches",
            *(f"  {name}: {value}" for name, value in self.trl.items()),
            *self.device.lines(),
            f"start        {self.launch}",
        ]


def make_trl_plan(settings: RunSettings) -> TrlPlan:
    """Check everything but the weights.

    Raises:
        ConfigError: something cannot work, or not inside TRL.
    """
    args, ground = exact_config(settings), lay_groundwork(settings)
    require_tasks(ground.tasks, args)
    each = settings.share_of(settings.engine.devices)
    fission, parts = each.fission, micro_batches(each)
    rows = each.trainer.queries * each.trainer.group_size + fission.contexts * fission.group_size
    prompt = max(len(ground.chat.prompt(task.messages, task.tools)) for task in ground.tasks)
    return TrlPlan(
        tasks=len(ground.tasks),
        updates=settings.trainer.steps,
        rows=-(-rows // parts) * parts,
        micro_batches=parts,
        trl=config_values(settings),
        device=device_memory(settings, load_config(settings.model).get_text_config(), prompt=prompt),
        launch=launch_line(settings.engine),
    )


def train_inside_trl(
    settings: RunSettings, *, tasks: Given | None, environments: Environments, resume: bool
) -> TrainedRun:
    """See `commands.train.train`."""
    run = RunFolder(settings.folder)
    require_launch(settings.engine, processes=PartialState().num_processes)
    args = exact_config(settings)
    ground = lay_groundwork(settings, environments=environments, tasks=tasks)
    if tasks is not None:
        require_same_tasks(run, ground.tasks)
    checkpoint = latest_checkpoint(run.checkpoints) if resume else None
    step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    done = TrainedRun(settings=settings, environments=ground.environments, step=step)
    if done.finished and run.policy.is_dir():
        return done
    keeper = RunKeeper(run, scale=SCALES[args.scale_rewards])
    trainer = trainer_of(settings, args, ground, keeper)
    with writing_into(run.path) if trainer.accelerator.is_main_process else nullcontext():
        if trainer.accelerator.is_main_process:
            run.create(settings.saved(), resume=resume)
            run.truncate_after(step)
            run.compare_metrics(step)
            if tasks is not None:
                write_tasks(run.tasks, ground.tasks)
            record_origin(
                run.path,
                settings.model,
                chat=ground.chat,
                tasks=ground.tasks,
                data=settings.data,
                step=step,
                processes=trainer.accelerator.num_processes,
            )
        trainer.accelerator.wait_for_everyone()
        shown = keeper.showing(alarms_of(settings, run, done=step), steps=settings.trainer.steps, done=step)
        told = tracking(settings, is_main_process=trainer.accelerator.is_main_process)
        with errors_name_the_run(done), Interruption() as interruption, shown, told as keeper.tell:
            keeper.stop = agreed(interruption, trainer.accelerator)
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            done = replace(done, step=trainer.state.global_step)
            if done.finished:
                with run.refusal_of(run.policy):
                    _save_policy(trainer, run, spread=settings.engine.sharding.spreads_weights)
    return done


def _save_policy(trainer: FissionGRPOTrainer, run: RunFolder, *, spread: bool) -> None:
    """An ordinary Hugging Face folder; where weights are spread, every process gives its part."""
    accelerator, tokenizer = trainer.accelerator, trainer.chat.tokenizer
    if not spread:
        if accelerator.is_main_process:
            save_model_folder(accelerator.unwrap_model(trainer.model), tokenizer, run.policy)
        return
    unfinished = run.policy.with_name(f".{run.policy.name}.unfinished")
    trainer.save_model(str(unfinished))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        tokenizer.save_pretrained(unfinished)
        unfinished.rename(run.policy)


def trainer_of(settings: RunSettings, args: Any, ground: Groundwork, keeper: RunKeeper) -> FissionGRPOTrainer:
    """TRL's trainer on the groundwork of a run."""
    require_tasks(ground.tasks, args)
    require_vllm(args, ground.chat)
    model = load_weights(settings.model, precision=settings.precision)
    if settings.engine.vllm is VllmMode.COLOCATE:
        model.name_or_path = str(find_model(settings.model).folder.resolve())  # where TRL lets vLLM look
    trainer = FissionGRPOTrainer(
        model,
        args=args,
        processing_class=ground.chat.tokenizer,
        peft_config=lora_config(settings.lora) if settings.lora else None,
        fission=settings.fission,
        tasks=ground.tasks,
        environments=ground.environments,
        judge=ground.judge,
        simulator=ground.source.simulator,
        horizon=settings.trainer.horizon,
        rollouts=settings.rollouts,
        chat=ground.chat,
        on_step=keeper.trace_groups,
        callbacks=[keeper],
        prefix_tree=settings.trainer.tree,
        prefix_tree_tokens=settings.trainer.token_budget,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def exact_config(settings: RunSettings) -> Any:
    """The `GRPOConfig` of a run.

    Raises:
        ConfigError: TRL is another one; something has no counterpart, or would not be exact.
    """
    contract.require_release()
    args = GRPOConfig(**config_values(settings))
    require_exact(args, settings.fission, samples_itself=True)
    return args


def config_values(settings: RunSettings) -> dict[str, Any]:
    """The settings of a run as a `GRPOConfig`'s: a micro-batch is about a group.

    Raises:
        ConfigError: one has no counterpart.
    """
    for reason in _without_counterpart(settings):
        raise ConfigError(f"{reason}; or choose engine.name=own")
    each = settings.share_of(settings.engine.devices)
    trainer, rollouts, parts = each.trainer, each.rollouts, micro_batches(each)
    return {
        "output_dir": str(RunFolder(settings.folder).checkpoints),
        "seed": trainer.seed,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": settings.engine.autocast,
        "max_steps": trainer.steps,
        "per_device_train_batch_size": trainer.queries * trainer.group_size // parts,
        "gradient_accumulation_steps": parts,
        "num_generations": trainer.group_size,
        "max_completion_length": rollouts.max_tokens * rollouts.max_turns,
        "temperature": trainer.temperature,
        "top_k": trainer.top_k,
        **LOSSES[trainer.objective],
        "beta": trainer.beta,
        "learning_rate": trainer.learning_rate,
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.95,
        "weight_decay": trainer.weight_decay,
        "max_grad_norm": trainer.max_grad_norm,
        "disable_dropout": True,
        "gradient_checkpointing": trainer.gradient_checkpointing,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": trainer.checkpoint_every,
        "save_total_limit": KEPT_CHECKPOINTS,
        "report_to": [],
        "disable_tqdm": True,
        **_vllm_values(settings.engine),
    }


def _vllm_values(engine: EngineSettings) -> dict[str, Any]:
    """Only what is said: where the model samples itself, a plan need not speak of vLLM."""
    if engine.vllm is VllmMode.OFF:
        return {}
    common = {"use_vllm": True, "vllm_mode": str(engine.vllm)}
    if engine.vllm is VllmMode.SERVER:
        return {**common, "vllm_server_base_url": engine.vllm_url}
    return {
        **common,
        "vllm_gpu_memory_utilization": engine.vllm_share,
        "vllm_max_model_length": engine.vllm_window,
    }


def _without_counterpart(settings: RunSettings) -> Iterator[str]:
    trainer = settings.trainer
    if trainer.objective not in LOSSES:
        yield f"trainer.objective={trainer.objective} is not known to TRL; choose one of {', '.join(LOSSES)}"
    for name in ("turn_queries", "sampled_tokens"):
        if value := getattr(trainer, name):
            yield f"trainer.{name}={value} is a control of our own loop; set it to 0"
    source = find_model(settings.model)
    if settings.engine.vllm is VllmMode.COLOCATE and not (source.folder / "config.json").exists():
        yield f"a colocated vLLM loads the model from a folder of whole weights, and {settings.model} is none; merge it"
    if trainer.beta and not settings.lora and (source.adapted or not (source.folder / "config.json").exists()):
        yield (
            f"trainer.beta={trainer.beta} holds the policy to its start, which TRL loads from a folder of whole "
            f"weights, and {settings.model} is none; set trainer.beta=0 or lora.rank"
        )


class RunKeeper(TrainerCallback):  # type: ignore[misc]  # transformers is untyped where this is checked
    """Writes what a run folder holds, shows progress, and stops when it is asked to."""

    def __init__(self, run: RunFolder, *, scale: Scale) -> None:
        self.stop: Callable[[], bool] = lambda: False
        self.tell: Callable[[], None] = lambda: None
        self._run = run
        self._scale = scale
        self._main = PartialState().is_main_process
        self._show: ProgressCallback = lambda done, note: None
        self._alarms: Alarms | None = None

    @contextmanager
    def showing(self, alarms: Alarms, *, steps: int, done: int) -> Iterator[None]:
        """Progress on the main process, silence on the others."""
        if not self._main:
            yield
            return
        self._alarms = alarms
        with progress("train", total=steps, done=done) as self._show:
            yield

    def trace_groups(self, step: int, groups: Sequence[Group]) -> None:
        """One line for each group of a step."""
        if self._main:
            self._run.append(self._run.traces, (trace(group, step=step, scale=self._scale) for group in groups))

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **rest: Any) -> None:
        """One line for each step; TRL also tells of the whole run."""
        if not self._main or "reward" not in logs:
            return
        told = {name: value for name, value in logs.items() if value is not None}
        ours = {name: told[theirs] for theirs, name in UPDATE_NAMES.items() if theirs in told}
        self._run.append(self._run.metrics, [{"step": state.global_step - 1, **told, **ours}])
        self._show(state.global_step, status_line(told, entropy="entropy"))
        if self._alarms is not None:
            warn(self._alarms.heed(state.global_step, told))
        self.tell()

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Save at the end, and where somebody asked to stop."""
        asked = self.stop()
        control.should_training_stop = control.should_training_stop or asked
        control.should_save = control.should_save or asked or state.global_step >= state.max_steps
