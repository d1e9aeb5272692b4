"""Gradient checkpointing that does not wait for training mode."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from fission_grpo.errors import ConfigError


def recompute_layers(model: Any) -> None:
    """From now on a backward pass computes each layer's activations again, and a forward pass keeps its input alone.

    The layers are those that transformers would checkpoint. It does so in training mode only, which also switches
    dropout on, and the policy that is trained must be the one that sampled. Passes without a gradient, generation with
    its cache among them, are as before.

    Args:
        model: a transformers causal LM, or a peft model around one; changed for good, its weights and mode are not.
    Raises:
        ConfigError: no layer of the model can be checkpointed.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError(
            f"{model.config.model_type} has no layers that transformers can checkpoint; "
            "leave gradient_checkpointing off"
        )
    for layer in layers:
        # Nothing is drawn at random with dropout off, so no random state need be kept.
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
