"""What a token is drawn from: computed here for the sampler, which draws, and for the scorer, which takes gradients.

A log-probability under another distribution than the one that was sampled from biases the ratio of every update, so
both sides call the same functions with the same `Distribution`. As in vLLM (`processed_logprobs`), the tokens that
top-k leaves are renormalised among themselves.

Shapes: V tokens of the vocabulary, behind any leading dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fission_grpo.types import Distribution


def tempered(logits_V: Tensor, distribution: Distribution) -> Tensor:
    """The logits [..., V] divided by the temperature; as they are where that is 0."""
    return logits_V if distribution.temperature == 0 else logits_V / distribution.temperature


def outside(tempered_V: Tensor, distribution: Distribution) -> Tensor | None:
    """True at the tokens [..., V] that top-k cuts off; None where it cuts nothing.

    Args:
        tempered_V: from `tempered`.
    """
    if not distribution.top_k or distribution.temperature == 0 or distribution.top_k >= tempered_V.shape[-1]:
        return None
    probabilities_V = torch.log_softmax(tempered_V.detach(), dim=-1).exp()
    kth = probabilities_V.topk(distribution.top_k, dim=-1).values[..., -1:]
    return probabilities_V < kth


def log_probabilities(tempered_V: Tensor, outside_V: Tensor | None) -> Tensor:
    """Log-probabilities [..., V], in nats, among the tokens that are left; those outside get a huge negative number.

    Args:
        tempered_V: from `tempered`; carries the gradient.
        outside_V: from `outside`.
    """
    if outside_V is not None:
        # Not -inf, which times its probability of 0 would make an entropy NaN.
        tempered_V = tempered_V.masked_fill(outside_V, torch.finfo(tempered_V.dtype).min)
    return torch.log_softmax(tempered_V, dim=-1)
