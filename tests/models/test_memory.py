"""The estimate of memory, against the peak of a process that trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import Qwen3Config

from fission_grpo.models.lora import LoraSettings
from fission_grpo.models.memory import (
    Memory,
    Parameters,
    activation_bytes,
    count_parameters,
    logit_bytes,
    size_text,
)
from fission_grpo.tree.logprobs import LOGITS_AT_ONCE

MIB = 2**20


def test_what_a_layer_keeps_by_hand() -> None:
    config = Qwen3Config(
        hidden_size=10,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        intermediate_size=30,
        vocab_size=100,
    )
    # 6 x 10 hidden, 5 x 16 queries, 4 x 8 keys, 4 x 30 inner: 292 numbers a layer.
    assert activation_bytes(config, tokens=7, size=4, recompute=False) == 7 * 4 * 3 * 292
    # Under autocast, the inputs of three layers of all passes, and one layer of the largest: 60 + 80 + 32 numbers in
    # single precision, and 2 x 10 + 16 + 2 x 8 copies beside the 120 inner ones in half of it.
    kept = activation_bytes(config, tokens=7, size=2, recompute=True, at_once=4, stream=4)
    assert kept == 7 * 4 * 3 * 10 + 4 * (4 * 172 + 2 * (52 + 120))
    # The inputs of three layers, and one layer's 292.
    assert activation_bytes(config, tokens=7, size=2, recompute=True) == 7 * 2 * (3 * 10 + 292)
    assert logit_bytes(config, scored=9, at_once=10_000) == 3 * 4 * 900
    assert logit_bytes(config, scored=900, at_once=10_000) == 3 * 4 * 10_000
    assert logit_bytes(config, scored=9, at_once=1) == 3 * 4 * 100  # one token at a time at least


def test_the_sampler_keeps_its_cache_while_weights_are_updated() -> None:
    memory = Memory(weights=4, gradients=4, optimizer=8, reference=0, cache=3, activations=5)
    assert memory.total == 4 + 4 + 8 + 3 + 5
    assert memory.parts() == "weights 0 MiB, gradients 0 MiB, optimizer 0 MiB, cache 0 MiB, activations 0 MiB"
    assert (size_text(3 * MIB), size_text(3 * 2**29)) == ("3 MiB", "1.5 GiB")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("recompute", [False, True])
def test_the_estimate_is_the_peak_of_a_training_process_within_a_fifth(recompute: bool) -> None:
    hidden, layers, vocabulary = 384, 6, 8192
    typed = [str(int(value)) for value in (hidden, layers, vocabulary, 1200, 48, recompute)]
    probe = Path(__file__).with_name("memory_probe.py")
    # What the allocator keeps for later is not the estimate's affair: larger blocks go back at once.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    run = subprocess.run([sys.executable, str(probe), *typed], check=True, capture_output=True, text=True, env=env)
    found = json.loads(run.stdout)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128,
        head_dim=64,
        intermediate_size=3 * hidden,
    )
    weights = 4 * found["parameters"]
    estimate = Memory(
        weights=weights,
        gradients=weights,
        optimizer=2 * weights,
        reference=0,
        cache=0,
        activations=activation_bytes(config, tokens=found["tokens"], size=4, recompute=recompute)
        + logit_bytes(config, scored=found["scored"], at_once=LOGITS_AT_ONCE),
    )
    assert found["peak"] == pytest.approx(estimate.total, rel=0.2)


def test_parameters_are_counted_without_a_model() -> None:
    config = Qwen3Config(
        hidden_size=8,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        intermediate_size=16,
        vocab_size=100,
        tie_word_embeddings=False,
    )
    # Queries, output 2 x 8 x 8; keys, values 2 x 8 x 4; gates 3 x 8 x 16; norms of the layer 2 x 8, of heads 2 x 4.
    layer = 128 + 64 + 384 + 16 + 8
    root = 2 * 100 * 8 + 8
    whole = 3 * layer + root
    assert count_parameters(config) == Parameters(whole=whole, trained=whole, layer=layer, root=root)
    # Rank 2 for seven linear layers: 2 x (inputs + outputs) each.
    adapters = 3 * 2 * ((8 + 8) + 2 * (8 + 4) + (8 + 8) + 2 * (8 + 16) + (16 + 8))
    adapted = count_parameters(config, LoraSettings(rank=2))
    assert adapted == Parameters(whole=whole + adapters, trained=adapters, layer=layer, root=root)
    assert adapted.base == whole
