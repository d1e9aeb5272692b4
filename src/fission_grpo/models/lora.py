"""Low-rank adapters through peft: train a few million numbers, keep the base as it is."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from pydantic import Field

from fission_grpo.settings import Settings


class LoraSettings(Settings):
    """Shape of the adapters. There is no dropout: the policy that is trained must be the one that sampled."""

    rank: int = Field(default=16, ge=1)
    """Ours."""
    alpha: float = Field(default=32, gt=0)
    """Adapters are scaled by alpha / rank; ours."""
    targets: str | tuple[str, ...] = "all-linear"
    """Modules that get an adapter: every linear layer but the LM head, or names such as `q_proj`; ours."""


def add_lora(model: Any, settings: LoraSettings, *, seed: int) -> Any:
    """A peft model around `model`; adapters start as zero, so the policy is still the same.

    Args:
        seed: of the random half of each adapter; without it two runs with one seed would differ.
    """
    torch.manual_seed(seed)
    return with_adapters(model, settings)


def with_adapters(model: Any, settings: LoraSettings) -> Any:
    """A peft model around `model`, its random half drawn from torch's own stream."""
    with _old_names():
        return get_peft_model(model, lora_config(settings))


def lora_config(settings: LoraSettings) -> LoraConfig:
    """The same shape in peft's own words."""
    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    return LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=targets, task_type="CAUSAL_LM")


def merge_lora(model: Any, folder: Path) -> Any:
    """`model` with the adapter of a folder added to its weights: an ordinary model again."""
    with _old_names():
        return PeftModel.from_pretrained(model, str(folder)).merge_and_unload()


@contextmanager
def _old_names() -> Iterator[None]:
    """peft 0.21 asks transformers 5 for an attribute by a name that is going out of use."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield
