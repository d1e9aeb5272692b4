"""Random models of real shapes, and the arithmetic that a training pass through them must do."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from fission_grpo.models.recomputation import recompute_layers
from fission_grpo.tree.prefix_tree import Forest


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the time of a Qwen3 depends on."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    """Whether the LM head is the embedding."""

    def config(self) -> Qwen3Config:
        return Qwen3Config(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            intermediate_size=self.intermediate,
            max_position_embeddings=40960,
            rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
            tie_word_embeddings=self.tied,
        )

    def pass_flops(self, forest: Forest, scored: int) -> float:
        """Multiplications and additions of a forward and a backward pass over the unique tokens, each pair of a token
        and its ancestor attended to once, and `scored` tokens at the LM head; what is computed again does not count."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        layer = attention + 3 * self.hidden * self.intermediate
        pairs = int((forest.position_N + 1).sum())
        forward = 2 * self.layers * (layer * len(forest) + 2 * self.heads * self.head_dim * pairs)
        forward += 2 * self.hidden * self.vocabulary * scored
        return 3.0 * forward


# The public configurations of Qwen/Qwen3-0.6B, 1.7B, 4B and 8B.
SHAPES: Mapping[str, Shape] = {
    "qwen3-0.6b": Shape(
        hidden=1024, layers=28, heads=16, kv_heads=8, head_dim=128, intermediate=3072, vocabulary=151936, tied=True
    ),
    "qwen3-1.7b": Shape(
        hidden=2048, layers=28, heads=16, kv_heads=8, head_dim=128, intermediate=6144, vocabulary=151936, tied=True
    ),
    "qwen3-4b": Shape(
        hidden=2560, layers=36, heads=32, kv_heads=8, head_dim=128, intermediate=9728, vocabulary=151936, tied=True
    ),
    "qwen3-8b": Shape(
        hidden=4096, layers=36, heads=32, kv_heads=8, head_dim=128, intermediate=12288, vocabulary=151936, tied=False
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, where, and in which type."""
    parser.add_argument("--shape", choices=["small", *SHAPES], default="small")
    parser.add_argument("--hidden", type=int, default=512, help="of the small shape, with layers and vocabulary")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--checkpoint", action="store_true", help="every side computes its layers' activations again")


def shape_of(options: argparse.Namespace) -> Shape:
    if options.shape in SHAPES:
        return SHAPES[options.shape]
    heads = options.hidden // 64
    return Shape(
        hidden=options.hidden,
        layers=options.layers,
        heads=heads,
        kv_heads=max(heads // 2, 1),
        head_dim=64,
        intermediate=3 * options.hidden,
        vocabulary=options.vocabulary,
        tied=True,
    )


def build_model(options: argparse.Namespace) -> Any:
    """A random model in evaluation mode, made where it will be used."""
    torch.manual_seed(0)
    with torch.device(options.device):
        model = AutoModelForCausalLM.from_config(shape_of(options).config(), dtype=getattr(torch, options.dtype))
    if options.checkpoint:
        recompute_layers(model)
        model.config.use_cache = False  # TRL leaves it on, and a cache cannot be written twice
    return model.eval()
