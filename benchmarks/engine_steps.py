"""Whole training steps as TRL, TRL with our engine, and our own trainer make them.

trl                as installed. Off CUDA, TRL 1.16 scores every position at the LM head, the prompt's too
trl-completions    the same with `trl.trainer.utils._use_triton` answering as on CUDA, so that the completions alone are
                   scored: what TRL does where it is meant to run, and the fair one to compare with
engine             `FissionGRPOTrainer` on an unchanged TRL, with fission off
engine-fission     and on: recoveries join the update
own                our own trainer, with fission off
own-fission        and on
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import trl.trainer.utils as trl_utils
from accelerate import Accelerator
from datasets import Dataset
from engine_worlds import SEED, HelpDesk, StepWork, mean_id
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import qwen3_template
from turns import Phase, Seat

from fission_grpo.algorithm.source import FissionSettings, FissionSource
from fission_grpo.engines.trl import FissionGRPOTrainer
from fission_grpo.engines.trl.rewards import RewardFunction, RewardFunctionsJudge
from fission_grpo.engines.trl.tasks import EnvironmentRows
from fission_grpo.rollout import Horizon, RolloutSettings
from fission_grpo.run.folder import RunFolder
from fission_grpo.simulator.rules import RulesSimulator
from fission_grpo.training.settings import TrainerSettings
from fission_grpo.training.trainer import Trainer

LEARNING_RATE = 1e-6
"""Small, so that all sides sample from nearly the same weights to the end."""


def plain_trl(seat: Seat, work: StepWork, *, as_installed: bool) -> None:
    """TRL's own tool loop asks for a template that never rewrites what it has written, and for a description of how
    calls are written. `nano`'s template is such a one, and its calls are those of Qwen3."""
    if not as_installed:
        trl_utils._use_triton = lambda device: True
    tokenizer = copy.copy(work.chat.tokenizer)
    if work.environment is not None:
        tokenizer.response_template = qwen3_template
    _train(GRPOTrainer(**_given(work), processing_class=tokenizer), seat)


def engine(seat: Seat, work: StepWork, *, fission: bool) -> None:
    trainer = FissionGRPOTrainer(
        **_given(work),
        processing_class=work.chat.tokenizer,
        fission=_fission(work, on=fission),
        rollouts=RolloutSettings(max_tokens=work.message_tokens, max_turns=work.messages),
    )
    seat.clock.watch(trainer.fission.stages.policy, "converse", Phase.SAMPLING)
    _train(trainer, seat)


def own(seat: Seat, work: StepWork, *, fission: bool) -> None:
    """The same rows, environments and rewards as tasks of our own trainer."""
    reader = EnvironmentRows(work.environment)
    trainer = Trainer(
        work.build(),
        chat=work.chat,
        tasks=reader.read(work.rows, seed=SEED, name="task"),
        environments=reader.environments,
        source=FissionSource(_fission(work, on=fission), simulator=RulesSimulator(), chat=work.chat),
        # `Stages` takes any judge of siblings.
        judge=RewardFunctionsJudge([RewardFunction(name="mean_id", weight=1.0, call=mean_id)], context=dict),
        settings=TrainerSettings(
            seed=SEED,
            steps=work.steps,
            queries=work.queries,
            group_size=work.group,
            horizon=Horizon.TURN,
            beta=0.0,
            learning_rate=LEARNING_RATE,
            gradient_checkpointing=work.checkpointing,
        ),
        rollouts=RolloutSettings(max_tokens=work.message_tokens, max_turns=work.messages),
        run=RunFolder(Path(tempfile.mkdtemp())),
        accelerator=Accelerator(cpu=True),
    )
    trainer.run.create({}, resume=False)
    done: dict[str, float] = {}
    update = trainer.learner.update

    def counted(groups: Any) -> Any:
        members = [member for group in groups for member in group.members if member.reward is not None]
        done["rows"] = len(members)
        done["prompt_tokens"] = sum(member.trajectory.prompt for member in members)
        done["sampled_tokens"] = sum(sum(member.trajectory.sampled) for member in members)
        if work.environment is not None:
            first = [member for group in groups if group.context is None for member in group.members]
            done["solved"] = sum(member.success for member in first) / len(first)
        return update(groups)

    trainer.learner.update = counted
    seat.clock.watch(trainer.policy, "converse", Phase.SAMPLING)
    seat.clock.watch(trainer.learner, "update", Phase.LOSS)
    seat.clock.watch(trainer.learner.optimizer, "step", Phase.OPTIMIZER)
    for _ in range(work.steps):
        with seat.turn() as noted:
            trainer.step()
            noted.update(done)
        reader.release()


STEP_SIDES: Mapping[str, tuple[Callable[..., None], Mapping[str, bool]]] = {
    "trl": (plain_trl, {"as_installed": True}),
    "trl-completions": (plain_trl, {"as_installed": False}),
    "engine": (engine, {"fission": False}),
    "engine-fission": (engine, {"fission": True}),
    "own": (own, {"fission": False}),
    "own-fission": (own, {"fission": True}),
}


def _fission(work: StepWork, *, on: bool) -> FissionSettings:
    """Half as many contexts as tasks, G' = G."""
    return FissionSettings(contexts=max(work.queries // 2, 1) if on else 0, group_size=work.group)


def _given(work: StepWork) -> dict[str, Any]:
    """What TRL's trainer and ours are both given."""
    args = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        bf16=False,
        seed=SEED,
        max_steps=work.steps,
        per_device_train_batch_size=work.group,
        gradient_accumulation_steps=work.queries,
        num_generations=work.group,
        shuffle_dataset=False,
        max_completion_length=work.message_tokens * work.messages,
        max_tool_calling_iterations=work.messages - 1,
        beta=0.0,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        gradient_checkpointing=work.checkpointing,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    return {
        "model": work.build(),
        "reward_funcs": [mean_id],
        "args": args,
        "train_dataset": Dataset.from_list(work.rows_in_turn),
        "environment_factory": work.environment,
    }


def _train(trainer: Any, seat: Seat) -> None:
    """Watch a trainer of TRL's, and let it make a step whenever it is its turn."""
    clock, done = seat.clock, {}
    generate_and_score = trainer._generate_and_score_completions

    def counted(inputs: Any) -> Any:
        batch = generate_and_score(inputs)
        done.update(_count(batch))
        if solved := trainer._metrics["train"].get(f"rewards/{HelpDesk.__name__}/mean"):
            done["solved"] = solved[-1]
        return batch

    trainer._generate_and_score_completions = counted
    clock.watch(trainer, "training_step", Phase.LOSS)
    clock.watch(trainer, "_prepare_inputs", Phase.REST)
    clock.watch(trainer, "_generate", Phase.SAMPLING)
    clock.watch(trainer, "_get_per_token_logps_and_entropies", Phase.LOSS)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(TakesTurns(seat, done))
    trainer.train()


def _count(batch: Mapping[str, Any]) -> dict[str, float]:
    """Of the rows that are trained on; those that make up the engine's number weigh nothing."""
    mask = batch["completion_mask"] * batch.get("tool_mask", 1)
    trained = mask.sum(dim=1) > 0
    return {
        "rows": int(trained.sum()),
        "prompt_tokens": int(batch["prompt_mask"][trained].sum()),
        "sampled_tokens": int(mask.sum()),
    }


class TakesTurns(TrainerCallback):
    """A turn lasts from the beginning of a step to that of the next, what is logged between them included."""

    def __init__(self, seat: Seat, done: Mapping[str, float]) -> None:
        self._seat = seat
        self._done = done
        self._working = False

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._over()
        self._seat.begin()
        self._working = True

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self._seat.clock.enter(Phase.OPTIMIZER)

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        self._seat.clock.leave()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._over()

    def _over(self) -> None:
        if self._working:
            self._seat.end(self._done)
        self._working = False
