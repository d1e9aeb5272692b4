"""Random contexts, and the plain way to continue them, against which any cleverer sampling is checked."""

from __future__ import annotations

from random import Random
from typing import Any

import torch

from fission_grpo.policy.base import Context

VOCABULARY = 64
PAD, NEVER = 0, -1


def tokens(count: int, *, seed: int) -> tuple[int, ...]:
    rng = Random(seed)
    return tuple(rng.randrange(1, VOCABULARY) for _ in range(count))


def naive_greedy(model: Any, context: Context, *, eos: int, max_tokens: int = 12) -> tuple[int, ...]:
    """The whole sequence through the model for every token, no cache, no batch."""
    ids = list(context)
    for _ in range(max_tokens):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == eos:
            break
    return tuple(ids[len(context) :])
