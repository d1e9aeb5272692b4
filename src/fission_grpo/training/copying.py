"""Practice in copying: repeated random segments sharpen the induction circuit that a fresh `nano` begins with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from fission_grpo.models.nano import CONTROL
from fission_grpo.training.supervised import SupervisedSettings, supervise
from fission_grpo.types import TokenRow

COPY_STEPS = 100
COPY_SEGMENT = 64
"""Tokens."""


def sharpen_copying(
    model: LlamaForCausalLM,
    *,
    seed: int,
    report: Callable[[int, float], None] = lambda step, loss: None,
    until: int | None = None,
) -> list[float]:
    """Practise on random segments that are repeated: the second time every token can be copied.

    Args:
        report: told the step and its loss.
        until: stop early, at this step of the same schedule.
    Returns:
        The loss of every step, in nats per token.
    """
    generator = torch.Generator().manual_seed(seed)
    first = len(CONTROL)
    rows = []
    for _ in range(COPY_STEPS * 16):
        segment = torch.randint(first, model.config.vocab_size, (COPY_SEGMENT,), generator=generator).tolist()
        rows.append(
            TokenRow(ids=(*segment, *segment), trained=(False,) * (COPY_SEGMENT + 1) + (True,) * (COPY_SEGMENT - 1))
        )
    settings = SupervisedSettings(seed=seed, steps=COPY_STEPS, batch=16, learning_rate=3e-3, floor=0.3)
    return supervise(model, rows, settings, report=report, until=until)


def copy_accuracy(model: LlamaForCausalLM, *, seed: int) -> float:
    """Share of tokens of repeated random segments that the model copies greedily."""
    generator = torch.Generator().manual_seed(seed)
    segment = torch.randint(len(CONTROL), model.config.vocab_size, (32, COPY_SEGMENT), generator=generator)
    ids: Tensor = torch.cat([segment, segment], dim=1)
    with torch.inference_mode():
        guess = model(ids).logits[:, COPY_SEGMENT:-1].argmax(dim=-1)
    return float((guess == ids[:, COPY_SEGMENT + 1 :]).float().mean())
