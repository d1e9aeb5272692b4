"""How many more tokens a pass can take follows from what it costs anyway."""

from __future__ import annotations

import pytest
from tiny_policies import tiny_model
from transformers import GPT2Config

from fission_grpo.models.catalog import load_policy_model
from fission_grpo.policy.local.cost_model import DEVICES, CostModel, cached_numbers


def test_by_hand() -> None:
    model = tiny_model()
    config, cpu = model.config, DEVICES["cpu"]
    weights = sum(parameter.numel() for parameter in model.parameters())
    calls = config.num_hidden_layers * cpu.call + 4 * weights / cpu.memory
    cache = 100 * 4 * cached_numbers(config) / cpu.memory
    one = 2 * weights / cpu.arithmetic  # a token: a multiplication and an addition for each weight
    assert CostModel(model).spare(rows=5, width=100) == pytest.approx((calls / 5 + cache) / one)


def test_keys_and_values_of_a_token() -> None:
    config = tiny_model("qwen3").config
    assert cached_numbers(config) == 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim


def test_without_groups_every_head_has_keys_and_values_of_its_own() -> None:
    config = GPT2Config(n_layer=2, n_head=4, n_embd=32)
    assert cached_numbers(config) == 2 * 2 * 4 * 8


def test_nano_has_time_to_spare_on_a_cpu() -> None:
    """A pass of one row takes 4 ms, and each further token about 0.05 ms: measured on the machine it was built on."""
    nano = CostModel(load_policy_model("nano", chat_template=None, precision="fp32").model)
    assert 60 < nano.spare(rows=1, width=0) < 120
    assert nano.spare(rows=80, width=0) == pytest.approx(nano.spare(rows=1, width=0) / 80)
