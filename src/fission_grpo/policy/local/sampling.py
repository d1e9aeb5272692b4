"""Tokens from a distribution, with the random numbers given from outside."""

from __future__ import annotations

import torch
from torch import Tensor

from fission_grpo.tree.distribution import log_probabilities, outside, tempered
from fission_grpo.types import Distribution


def draw(logits: Tensor, distribution: Distribution, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draw some tokens from each distribution.

    Args:
        logits: [..., vocabulary] float32.
        uniforms: [..., m] uniform random numbers in [0, 1), on any device: where the cumulative distribution is cut.
            Not used at temperature 0.
    Returns:
        tokens [..., m], and their log-probabilities [..., m] under that very distribution: what `tree.logprobs.score`
        computes again in training.
    """
    scaled = tempered(logits, distribution)
    cut = outside(scaled, distribution)
    whole = log_probabilities(scaled, None)
    if distribution.temperature == 0:
        tokens = whole.argmax(dim=-1, keepdim=True).expand(uniforms.shape)
    else:
        probabilities = whole.exp() if cut is None else whole.exp().masked_fill(cut, 0.0)
        # Devices of Apple have no double precision.
        precision = torch.float32 if logits.device.type == "mps" else torch.float64
        tokens = invert(probabilities, uniforms, precision=precision)
    logprobs = whole if cut is None else log_probabilities(scaled, cut)
    return tokens, logprobs.gather(-1, tokens)


def invert(probabilities: Tensor, uniforms: Tensor, *, precision: torch.dtype) -> Tensor:
    """Tokens by inverting the cumulative distribution: one random number each, where `torch.multinomial` draws one for
    every token of the vocabulary and takes 30 times as long on a CPU.

    A token of probability 0 is never among them, however the numbers are rounded.

    Args:
        probabilities: [..., vocabulary], at least 0, not all 0; they need not add up to 1.
        uniforms: [..., m] in [0, 1]; a number just below 1 may have been rounded up to it.
        precision: of the cumulative distribution.
    """
    cumulative = probabilities.to(precision).cumsum(dim=-1)
    # From the right: a token of probability 0 ends where the one before it ends, and is never the first above.
    tokens = torch.searchsorted(cumulative, uniforms.to(cumulative) * cumulative[..., -1:], right=True)
    tokens = tokens.clamp(max=probabilities.shape[-1] - 1)
    impossible = probabilities.gather(-1, tokens) == 0
    if not impossible.any():
        return tokens
    # A number was rounded up to the total, or a parallel sum stepped up where nothing was added: the token that reaches
    # so far is the last possible one up to there.
    places = torch.arange(probabilities.shape[-1], device=probabilities.device)
    possible = torch.where(probabilities > 0, places, -1).cummax(dim=-1).values
    return torch.where(impossible, possible.gather(-1, tokens), tokens)
