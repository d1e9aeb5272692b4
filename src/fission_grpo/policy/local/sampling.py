"""Tokens from a distribution, with the random numbers given from outside."""

from __future__ import annotations

import torch
from torch import Tensor

from fission_grpo.policy.base import Sampling


def draw(logits: Tensor, sampling: Sampling, heights: Tensor) -> tuple[Tensor, Tensor]:
    """Draw some tokens from each distribution.

    Args:
        logits: [..., vocabulary] float32.
        heights: [..., m] uniform random numbers in [0, 1), on any device: where the cumulative distribution is cut.
            Not used at temperature 0.
    Returns:
        tokens [..., m], and their log-probabilities [..., m] under the tempered distribution over the whole
        vocabulary: the one that training recomputes. Top-k narrows the draw and not the log-probability.
    """
    scaled = logits if sampling.temperature == 0 else logits / sampling.temperature
    logprobs = torch.log_softmax(scaled, dim=-1)
    if sampling.temperature == 0:
        tokens = logprobs.argmax(dim=-1, keepdim=True).expand(heights.shape)
    else:
        probabilities = logprobs.exp()
        if sampling.top_k:
            kth = probabilities.topk(min(sampling.top_k, probabilities.shape[-1]), dim=-1).values[..., -1:]
            probabilities = probabilities.masked_fill(probabilities < kth, 0.0)
        tokens = _pick(probabilities, heights)
    return tokens, logprobs.gather(-1, tokens)


def _pick(probabilities: Tensor, heights: Tensor) -> Tensor:
    """Tokens by inverting the cumulative distribution: one random number each, where `torch.multinomial` draws one for
    every token of the vocabulary and takes 30 times as long on a CPU."""
    wide = torch.float32 if probabilities.device.type == "mps" else torch.float64
    cumulative = probabilities.to(wide).cumsum(dim=-1)
    # From the right: a token of probability 0 ends where the one before it ends, and is never the first above.
    tokens = torch.searchsorted(cumulative, heights.to(cumulative) * cumulative[..., -1:], right=True)
    return tokens.clamp(max=probabilities.shape[-1] - 1)
