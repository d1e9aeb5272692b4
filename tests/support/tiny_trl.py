"""A whole run inside TRL in a second: a counter to be set by calls, and a policy that has never heard of it."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tiny_policies import tiny_model
from transformers import TrainerCallback
from trl import GRPOConfig

from fission_grpo.algorithm.context import CorrectiveContext
from fission_grpo.algorithm.groups import Group
from fission_grpo.algorithm.source import FissionSettings
from fission_grpo.chat.parse import render_call
from fission_grpo.engines.trl import FissionGRPOTrainer
from fission_grpo.errors import EnvironmentFault
from fission_grpo.files import write_text
from fission_grpo.models.nano import build_tokenizer
from fission_grpo.policy.scripted import ScriptedPolicy
from fission_grpo.types import ToolCall

FISSION = FissionSettings(contexts=2, group_size=3, capacity=8, per_group=2)
OFF = FissionSettings()


class Counter:
    """Content when it stands at its target; never at 0 by a call."""

    def reset(self, target: int, **row: Any) -> str:
        self.count, self.target = 0, target
        return f" Reach {target}."

    def add(self, step: int) -> int:
        """Add to the counter.

        Args:
            step: what to add
        """
        if step == 13:
            raise EnvironmentFault("the counter burst")
        if step < 1:
            raise ValueError(f"step {step} is not above 0")
        self.count += step
        return self.count

    def get_reward(self) -> float:
        return float(self.count == self.target)


def rows(count: int) -> Dataset:
    """Targets from 1 on."""
    prompt = [{"role": "user", "content": "Count."}]
    return Dataset.from_list([{"prompt": prompt, "target": place + 1} for place in range(count)])


def even(completion_ids: Sequence[Sequence[int]], **rest: Any) -> list[float]:
    """A reward that random policies differ in: the share of even tokens."""
    return [sum(id_ % 2 == 0 for id_ in ids) / len(ids) for ids in completion_ids]


def call(step: Any) -> str:
    return render_call(ToolCall(name="add", arguments={"step": step}))


@cache
def tokenizer() -> Any:
    lines = ["Count. Reach 1.", "error: step is not above 0", call(1), "Add to the counter: what to add", "integer"]
    return build_tokenizer(lines)


def model(family: str = "llama", *, seed: int = 0) -> Any:
    """Random weights, in training mode as a user would have them."""
    made = tiny_model(family, vocabulary=len(tokenizer()), seed=seed)
    for place in (made.config, made.generation_config):
        place.pad_token_id, place.eos_token_id = tokenizer().pad_token_id, tokenizer().eos_token_id
    return made.train()


_HEAD = "<|im_start|>assistant\n"


def scripted(*answers: str, after_error: str = "Done.") -> Callable[[Any], ScriptedPolicy]:
    """A policy whose dialogues begin with one answer after the other, and end with what it says to their reply."""
    following = cycle(answers)

    def script(text: str) -> str:
        *before, last, _ = text.split(_HEAD)
        if not before:
            return next(following)
        return after_error if "error" in last else "Done."

    return lambda trainer: ScriptedPolicy(tokenizer(), script, eos_id=tokenizer().eos_token_id, context_window=4096)


def config(folder: Path, **changes: Any) -> GRPOConfig:
    """Two groups of four, twelve tokens a message."""
    values: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 12,
        "max_tool_calling_iterations": 1,
        "max_steps": 1,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.95,
        "max_grad_norm": 1e3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        **changes,
    }
    return GRPOConfig(**values)


class Notes(TrainerCallback):
    """The gradients of each step, before the optimizer sees them."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        named = rest["model"].named_parameters()
        self.gradients.append({name: one.grad.clone() for name, one in named if one.grad is not None})


def tiny_trainer(
    folder: Path,
    *,
    policy_model: Any = None,
    fission: FissionSettings = FISSION,
    given: Mapping[str, Any] | None = None,
    train_dataset_rows: int = 8,
    **changes: Any,
) -> FissionGRPOTrainer:
    """A trainer on the counter; `changes` are the `GRPOConfig`'s."""
    passed: dict[str, Any] = {
        "reward_funcs": even,
        "train_dataset": rows(train_dataset_rows),
        "environment_factory": Counter,
        "processing_class": tokenizer(),
        **(given or {}),
    }
    return FissionGRPOTrainer(policy_model or model(), args=config(folder, **changes), fission=fission, **passed)


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in trainer.model.state_dict().items()}


def fingerprint(trainer: Any) -> tuple[str, str]:
    """Equal exactly when all weights are, and when the whole buffer is."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights(trainer).items()):
        digest.update(name.encode() + weight.numpy().tobytes())
    return digest.hexdigest(), hashlib.sha256(repr(buffer_of(trainer)).encode()).hexdigest()


def buffer_of(trainer: Any) -> list[tuple[Any, ...]]:
    """The fission buffer, top last."""
    contexts: list[CorrectiveContext] = trainer.fission.source.state_dict()["buffer"]["contexts"]
    return [(one.key, one.ids, one.policy_version, one.parent) for one in contexts]


STEPS = 4


def run_steps(folder: Path, environment: Mapping[str, str], changes: Mapping[str, Any], die_in: int | None) -> None:
    """A run in a process of its own, which leaves a fingerprint; or is killed in the middle of a step."""
    os.environ.update(environment)
    torch.set_num_threads(1)

    def on_step(step: int, groups: Sequence[Group]) -> None:
        if step == die_in:
            os.kill(os.getpid(), signal.SIGKILL)

    trainer = tiny_trainer(
        folder, given={"on_step": on_step}, max_steps=STEPS, save_strategy="steps", save_steps=2, **changes
    )
    trainer.train()
    rank = trainer.accelerator.process_index
    write_text(folder / f"rank-{rank}", " ".join(fingerprint(trainer)))
    trainer.accelerator.end_training()
