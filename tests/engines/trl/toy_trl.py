"""Tiny models, trainers and batches of TRL. A module that imports this is skipped where TRL is not installed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from fission_grpo.models.nano import build_tokenizer

pytest.importorskip("trl", reason="TRL is not installed: it has an environment of its own, made from the extra [trl]")

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from fission_grpo.engines.prefix_tree import PrefixTreeMixin

SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "initializer_range": 0.1,
}


class TreeTrainer(PrefixTreeMixin, GRPOTrainer):
    """What a user of TRL writes."""


@cache
def tokenizer() -> Any:
    return build_tokenizer(["a small text"])


def toy_model(**extra: Any) -> Any:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer()), **{**SHAPE, **extra})).float()


def toy_lora() -> LoraConfig:
    """Both halves random: with one at zero, the adapter's model is its reference."""
    return LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)


def toy_trainer(
    model: Any, *, prefix_tree: bool = True, prefix_tree_tokens: int | None = None, rows: int = 8, **settings: Any
) -> Any:
    """A trainer in the state that it has in the middle of an accumulation of one micro-batch, its model training.

    Args:
        rows: of a micro-batch.
        settings: of `GRPOConfig`, `peft_config` and `train_dataset` excepted.
    """
    others = {name: settings.pop(name) for name in ("peft_config",) if name in settings}
    prompts = settings.pop("prompts", ["a", "b"])
    chosen = {"num_generations": rows, "bf16": False, "gradient_checkpointing": False, "temperature": 0.8, **settings}
    trainer = TreeTrainer(
        model=model,
        reward_funcs=even_tokens,
        args=GRPOConfig(
            output_dir=tempfile.mkdtemp(),
            use_cpu=True,
            per_device_train_batch_size=rows,
            max_completion_length=12,
            report_to=[],
            **chosen,
        ),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=tokenizer(),
        prefix_tree=prefix_tree,
        prefix_tree_tokens=prefix_tree_tokens,
        **others,
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


def even_tokens(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """A reward that a random model earns sometimes."""
    return [float(sum(token % 2 == 0 for token in ids)) for ids in completion_ids]


def padded(rows: Sequence[tuple[Sequence[int], Sequence[int]]], *, advantages: Sequence[float]) -> dict[str, Any]:
    """Prompts and completions as TRL pads them: on the left, and on the right."""
    left = max(len(prompt) for prompt, _ in rows)
    right = max(len(completion) for _, completion in rows)
    lines = {"prompt_ids": [], "prompt_mask": [], "completion_ids": [], "completion_mask": []}
    for prompt, completion in rows:
        before, behind = left - len(prompt), right - len(completion)
        lines["prompt_ids"].append([0] * before + list(prompt))
        lines["prompt_mask"].append([0] * before + [1] * len(prompt))
        lines["completion_ids"].append(list(completion) + [0] * behind)
        lines["completion_mask"].append([1] * len(completion) + [0] * behind)
    batch: dict[str, Any] = {name: torch.tensor(values) for name, values in lines.items()}
    batch["tool_mask"] = torch.ones_like(batch["completion_mask"])
    batch["advantages"] = torch.tensor(advantages)
    batch["num_items_in_batch"] = batch["completion_mask"].sum()
    return batch


def family(*, group: int = 4, prompt: int = 20, completion: int = 10, seed: int = 1) -> dict[str, Any]:
    """A group, and recoveries from its first trajectory: ragged, with tool tokens, an old policy and a reference."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(count: int) -> list[int]:
        return torch.randint(5, len(tokenizer()), (count,), generator=generator).tolist()

    asked, feedback = drawn(prompt), drawn(5)
    answers = [drawn(completion - index % 3) for index in range(group)]
    corrected = asked + answers[0] + feedback
    rows = [(asked, answer) for answer in answers]
    rows += [(corrected, drawn(completion - index % 4)) for index in range(group)]
    batch = padded(rows, advantages=torch.randn(2 * group, generator=generator).tolist())
    batch["tool_mask"][1::2, 3:5] = 0  # what a tool has said
    batch["num_items_in_batch"] = (batch["completion_mask"] * batch["tool_mask"]).sum()
    for name in ("old_per_token_logps", "ref_per_token_logps"):
        noise = torch.randn(batch["completion_ids"].shape, generator=generator)
        batch[name] = (-5.5 + 0.3 * noise) * batch["completion_mask"]
    return batch


def rows_of(batch: dict[str, Any], chosen: slice) -> dict[str, Any]:
    return {name: value[chosen] if value.ndim else value for name, value in batch.items()}


def loss_and_gradient(trainer: Any, model: Any, batch: dict[str, Any]) -> tuple[float, Tensor]:
    """Loss, and the gradient of all trained parameters as one vector."""
    model.zero_grad()
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    return float(loss.detach()), gradient_of(model)


def gradient_of(model: Any) -> Tensor:
    grads = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    return torch.cat([(grad.full_tensor() if hasattr(grad, "full_tensor") else grad).flatten() for grad in grads])


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def scored(trainer: Any, model: Any, batch: dict[str, Any], **settings: Any) -> Tensor:
    """Log-probabilities of the completions through the method that TRL asks, without a gradient."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    with torch.no_grad():
        logps: Tensor = trainer._get_per_token_logps_and_entropies(
            model, ids, mask, batch["completion_ids"].shape[1], **settings
        )[0]
    return logps


class Counted:
    """Counts the passes through a decoder, and their positions, while it is open."""

    def __init__(self, model: Any) -> None:
        self._decoder = model.get_decoder()
        self.passes = self.positions = 0

    def __enter__(self) -> Counted:
        self._hook = self._decoder.register_forward_pre_hook(self._count, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _count(self, _module: Any, _given: Any, named: dict[str, Any]) -> None:
        self.passes += 1
        self.positions += named["input_ids"].numel()
