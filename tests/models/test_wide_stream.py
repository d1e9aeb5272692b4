"""In bfloat16 the sampler and the trainer agree as far as rounded matrix products let them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from naive_greedy import NEVER, PAD, VOCABULARY, tokens
from tiny_policies import FAMILIES, tiny_model

from fission_grpo.models.lora import LoraSettings, add_lora
from fission_grpo.models.wide_stream import widen_stream
from fission_grpo.policy.base import Sampling
from fission_grpo.policy.local.hf_policy import HFPolicy
from fission_grpo.tree.logprobs import packed_groups, score
from fission_grpo.types import Distribution, TokenRow

BF16 = torch.bfloat16
CONTEXTS = [tokens(9, seed=seed // 4) for seed in range(16)]


def gaps(model: Any, *, tree: bool = True, tokens: int = 24) -> torch.Tensor:
    """|trainer - sampler| of every token of a few groups, in nats."""
    policy = HFPolicy(model, eos_id=NEVER, pad_id=PAD)
    said = policy.generate(CONTEXTS, sampling=Sampling(max_tokens=tokens), seed=1)
    rows = [
        TokenRow(ids=context + one.ids, trained=(False,) * len(context) + (True,) * len(one.ids))
        for context, one in zip(CONTEXTS, said, strict=True)
    ]
    found = []
    with torch.no_grad():
        groups = packed_groups(model, rows, tree=tree)
        for scores in score(model, rows, groups, width=tokens, distribution=Distribution(), token_budget=4096):
            old = torch.tensor([said[row].logprobs for row in scores.rows])
            found.append((scores.logprobs_BT - old).abs())
    return torch.cat(found)


def steep_model(family: str) -> Any:
    """As far from uniform as a trained one: rounded logits differ by tenths."""
    model = tiny_model(family, vocabulary=VOCABULARY, dtype=BF16, hidden_size=64, num_hidden_layers=6)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(3)
    return model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tree", [True, False])
def test_sampler_and_trainer_come_closer(family: str, tree: bool) -> None:
    """Measured: 0.040, 0.040 and 0.028 nats on average before, 0.025, 0.026 and 0.019 after."""
    narrow = steep_model(family)
    wide = widen_stream(copy.deepcopy(narrow))
    apart, close = gaps(narrow, tree=tree), gaps(wide, tree=tree)
    assert close.mean() < 0.75 * apart.mean()
    assert close.mean() < 0.03


def test_logits_are_in_single_precision_and_follow_the_weights() -> None:
    model = widen_stream(tiny_model(vocabulary=VOCABULARY, dtype=BF16))
    ids = torch.tensor([CONTEXTS[0]])
    with torch.no_grad():
        before = model(ids).logits
        assert before.dtype is torch.float32
        model.get_output_embeddings().weight.mul_(2)
        torch.testing.assert_close(model(ids).logits, 2 * before)
    assert {parameter.dtype for parameter in model.parameters()} == {BF16}
    loss = model(ids).logits.sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_model_in_single_precision_is_left_alone() -> None:
    model = tiny_model(vocabulary=VOCABULARY)
    assert widen_stream(model) is model
    assert "forward" not in vars(model.get_output_embeddings())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_adapters_around_it_train_and_start_as_nothing() -> None:
    """Their base is the same model, and so is the reference that it is held to: adapters are switched off for it."""
    base = widen_stream(tiny_model(vocabulary=VOCABULARY, dtype=BF16))
    ids = torch.tensor([CONTEXTS[0]])
    with torch.no_grad():
        plain = base(ids).logits
    adapted = add_lora(base, LoraSettings(rank=2), seed=0)
    logits = adapted(ids).logits
    assert torch.equal(logits, plain)
    logits.sum().backward()
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and parameter.dtype is torch.float32 for parameter in trained)
    assert gaps(adapted).mean() < 0.01


def test_layers_of_another_kind_are_left_alone() -> None:
    model = tiny_model(vocabulary=VOCABULARY, dtype=BF16)
    model.get_decoder().layers[0].experts = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(2, 3, dtype=BF16))])
    assert "forward" not in vars(widen_stream(model).get_output_embeddings())
