"""How many bytes a model takes on one device while it is sampled from and trained, from its configuration alone.

    what stays      weights, gradients, two moments of AdamW, a frozen start for the KL penalty
    what comes      keys and values while sampling; activations of one micro-batch, and logits, while training

The sampler keeps the room of its cache from step to step, so all of it is added. Allocators and kernels add their own:
against the peak of a process on a CPU the sum of a training pass was right within 11 % (four shapes;
`tests/models/test_memory.py` demands 20), and of whole steps within a fifth (`tests/commands/test_memory_plan.py`).

The arithmetic is that of a decoder with gated feed-forward layers (Llama, Qwen, SmolLM): for one token, a layer keeps
for its backward pass

    6 h    inputs of both norms, what they normalised, and what they put out
    5 q    queries before and after their norm and their rotation, and the output of attention twice
    4 k    keys likewise, and values
    4 i    gate, its activation, the other half, and their product

with h the hidden size, q and k the width of all query and of all key heads, i the inner size. With recomputation it
keeps its input alone, and one layer at a time keeps the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from fission_grpo.models.lora import LoraSettings, with_adapters
from fission_grpo.policy.local.cost_model import cached_numbers
from fission_grpo.policy.local.kv_cache import GROWING, grown
from fission_grpo.tree.logprobs import LOGITS_AT_ONCE

LOGITS = 3
"""Copies of [tokens, vocabulary] in single precision at the peak of scoring: logits, their softmax, a gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on one device, by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    """Two moments of every trained weight."""
    reference: int
    """The frozen start for the KL penalty; 0 without one, and for LoRA."""
    cache: int
    """Keys and values while sampling."""
    activations: int
    """Of one training micro-batch, logits included."""
    at_work: int = 0
    """Weights as the pass takes them, where that is not how they are kept: gathered from other devices, or cast."""
    exchange: int = 0
    """Buckets in which replicas exchange gradients."""
    generator: int = 0
    """What another engine reserves on this device to sample with (vLLM's share)."""

    @property
    def total(self) -> int:
        """All of it at once: our sampler keeps the room of its cache while it waits for an update."""
        return sum(getattr(self, field.name) for field in fields(self))

    def parts(self) -> str:
        """For a person: what is not nothing."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return ", ".join(f"{name} {size_text(count)}" for name, count in named.items() if count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """How many numbers a model has."""

    whole: int
    """Adapters included."""
    trained: int
    layer: int
    """Of one layer, without adapters."""
    root: int
    """Outside of the layers: embedding, head, last norm."""

    @property
    def base(self) -> int:
        """Without adapters."""
        return self.whole - (self.trained if self.trained < self.whole else 0)


def count_parameters(config: Any, lora: LoraSettings | None = None) -> Parameters:
    """Of a model that is never made: its shapes alone are.

    Args:
        config: of the text model, as transformers writes it.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        layers = [sum(p.numel() for p in layer.parameters()) for layer in model.get_decoder().layers]
        base = sum(p.numel() for p in model.parameters())
        trained: Any = model if lora is None else with_adapters(model, lora)
    return Parameters(
        whole=sum(p.numel() for p in trained.parameters()),
        trained=sum(p.numel() for p in trained.parameters() if p.requires_grad),
        layer=max(layers),
        root=base - sum(layers),
    )


def activation_bytes(
    config: Any, *, tokens: int, size: int, recompute: bool, at_once: int | None = None, stream: int | None = None
) -> int:
    """What the backward pass through all layers finds in memory.

    Args:
        config: of the text model, as transformers writes it.
        tokens: of one micro-batch, each shared prefix once.
        size: bytes of one number of the activations.
        recompute: every layer's activations are computed again (gradient checkpointing).
        at_once: tokens of the largest pass, where a micro-batch is several of them and the graph of all waits for one
            backward pass; none says that it is one.
        stream: bytes of one number between the layers; none takes `size`. Autocast leaves these as wide as the weights
            are kept, and norms and rotations too, beside copies for the products that follow.
    """
    hidden, layers, stream = int(config.hidden_size), int(config.num_hidden_layers), stream or size
    keys = cached_numbers(config) // (2 * layers)
    heads = int(config.num_attention_heads)
    queries = keys * heads // int(getattr(config, "num_key_value_heads", None) or heads)
    copies = (2 * hidden + queries + 2 * keys) if stream > size else 0
    layer = stream * (6 * hidden + 5 * queries + 4 * keys) + size * (copies + 4 * int(config.intermediate_size))
    if not recompute:
        return tokens * layers * layer
    return tokens * stream * layers * hidden + (tokens if at_once is None else at_once) * layer


def logit_bytes(config: Any, *, scored: int, at_once: int) -> int:
    """What scoring some tokens takes at its peak.

    Args:
        scored: tokens of one micro-batch whose distribution is read.
        at_once: most entries of [tokens, vocabulary] that exist at a time.
    """
    return LOGITS * 4 * min(scored * int(config.vocab_size), max(at_once, int(config.vocab_size)))


def own_loop_memory(
    config: Any,
    parameters: Parameters,
    *,
    size: int,
    beta: float,
    recompute: bool,
    rows: int,
    longest: int,
    tokens: int,
    scored: int,
) -> Memory:
    """What our own loop takes on one device.

    Args:
        config: of the text model, as transformers writes it.
        size: bytes of one of its weights. Below four there are master copies of those that are trained, the stream and
            the head are in single precision (`widen_stream`), and adapters are, too.
        beta: weight of the KL penalty.
        recompute: see `activation_bytes`.
        rows, longest: trajectories that are sampled side by side, and tokens of the longest.
        tokens, scored: of one training micro-batch, and those whose distribution is read.
    """
    adapted, wide = parameters.trained < parameters.whole, max(size, 4)
    trained = parameters.trained * wide
    head = 4 * int(config.vocab_size) * int(config.hidden_size) if size < 4 else 0
    positions = grown(0, longest + longest // GROWING)
    return Memory(
        weights=parameters.base * size + (parameters.whole - parameters.base) * wide,
        gradients=trained,
        optimizer=2 * trained + (trained if size < 4 and not adapted else 0),
        reference=parameters.base * size if beta and not adapted else 0,
        cache=rows * positions * cached_numbers(config) * size,
        activations=activation_bytes(config, tokens=tokens, size=size, recompute=recompute, stream=wide)
        + logit_bytes(config, scored=scored, at_once=LOGITS_AT_ONCE),
        at_work=head if adapted else 2 * head,
    )


def size_text(count: int) -> str:
    """A number of bytes, for a person."""
    return f"{count / 2**20:,.0f} MiB" if count < 2**30 else f"{count / 2**30:,.1f} GiB"
