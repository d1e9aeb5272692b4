"""Weights in bfloat16, and in float32 all that layers add up: the stream between them, the last norm, the logits.

A model that transformers loads in bfloat16 rounds the stream, which is large, at every addition, and logits of 20 to
steps of 1/8. Two passes over the same tokens, in other company or another order, round differently, and a sampler and a
trainer are two such passes. Matrix products stay in bfloat16, where their speed is; attention's own scores and softmax
are in float32 inside its kernels. What is left is the rounding of what goes into products and comes out of them:
docs/performance.md has the numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from fission_grpo.tree.tree_attention import install_attention, sharing_obstacle


def widen_stream(model: Any) -> Any:
    """Let a model in a type narrower than float32 add up in float32; returns it. One in float32 stays as it is.

    Its weights are not changed. A model whose layers are not made of ordinary linear ones (experts that are computed
    together, a quantised one), or do not attend through our function, is left alone.

    Args:
        model: a transformers causal LM, before adapters are put around it.
    """
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    if torch.finfo(model.dtype).bits >= 32 or sharing_obstacle(model) is not None or not _is_plain(model):
        return model
    install_attention(decoder)  # which takes queries and keys that were rotated in float32
    model.get_input_embeddings().register_forward_hook(_widen)
    for module in decoder.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(_narrow)
    head.forward = _WideHead(head)
    return model


def _is_plain(model: Any) -> bool:
    """Every matrix of it belongs to a linear layer or an embedding."""
    return all(
        isinstance(module, torch.nn.Linear | torch.nn.Embedding)
        for module in model.modules()
        if any(parameter.dim() > 1 for parameter in module.parameters(recurse=False))
    )


def _widen(module: torch.nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.float()


def _narrow(module: torch.nn.Linear, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (given[0].to(module.weight.dtype), *given[1:])


class _WideHead:
    """The LM head in float32; its weights are cast once for each change of theirs, unless they are being trained on."""

    def __init__(self, head: torch.nn.Linear) -> None:
        self._head = head
        self._cast: tuple[tuple[int, int], Tensor] | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        bias = self._head.bias
        return linear(hidden.float(), self._weight(), None if bias is None else bias.float())

    def _weight(self) -> Tensor:
        weight = self._head.weight
        if torch.is_grad_enabled() and weight.requires_grad:
            return weight.float()
        version = (id(weight), weight._version)
        if self._cast is None or self._cast[0] != version:
            with torch.inference_mode(False), torch.no_grad():  # a gradient may go through it later
                self._cast = (version, weight.float())
        return self._cast[1]
