"""Attention takes rows of different lengths apart where that pays, and nobody can tell from the numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_policy_hf import PAD, VOCABULARY, tokens
from test_policy_memory import assert_of_one_text
from tiny_policies import FAMILIES, tiny_model

from fission_grpo.policy.local.cost_model import Roofline
from fission_grpo.policy.local.forward import Reader
from fission_grpo.policy.local.prefix_cache import PrefixMemory
from fission_grpo.policy.stretches import Stretch, stretches
from fission_grpo.tree import tree_attention

WIDTHS = st.lists(st.integers(1, 50), min_size=1, max_size=20)


def test_by_hand() -> None:
    # As one: 4 x 9 = 36. Cut in the middle: 2 x 9 + 2 x 3 = 24, which saves 12.
    widths = np.array([9, 8, 3, 2])
    assert stretches(widths, call=12) == [Stretch(0, 4, 9)]
    assert stretches(widths, call=11) == [Stretch(0, 2, 9), Stretch(2, 4, 3)]
    assert stretches(widths, call=0) == [Stretch(row, row + 1, int(width)) for row, width in enumerate(widths)]


def test_equal_rows_stay_together() -> None:
    assert stretches(np.array([5, 5, 5]), call=0) == [Stretch(0, 3, 5)]


@given(widths=WIDTHS, call=st.integers(0, 60))
def test_every_row_once_as_wide_as_it_needs_and_never_dearer_than_all_at_once(widths: list[int], call: int) -> None:
    found = stretches(np.array(widths), call=call)
    assert [row for s in found for row in range(s.begin, s.end)] == list(range(len(widths)))
    for s in found:
        assert s.width == max(widths[s.begin : s.end])
    cost = sum((s.end - s.begin) * s.width + call for s in found)
    assert cost <= len(widths) * max(widths) + call


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_one_text(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows behind prompts of several lengths, with a few queries (folded heads) and with many."""
    taken: list[int] = []
    attend = tree_attention.scaled_dot_product_attention
    monkeypatch.setattr(
        tree_attention, "scaled_dot_product_attention", lambda *args, **named: taken.append(0) or attend(*args, **named)
    )
    monkeypatch.setattr(Roofline, "call_of_attention", lambda self: 0.0)
    model = tiny_model(family, vocabulary=VOCABULARY)
    reader = Reader(model, pad_id=PAD, share=True)
    contexts = [tokens(11, seed=1), tokens(70, seed=2), tokens(5, seed=3)]
    more = [tokens(3, seed=4), tokens(5, seed=5), ()]
    reader.memory.reserve(3, 128)
    with torch.no_grad():
        order = reader.admit(contexts, first=0)
        before = len(taken)
        logits = reader.next_logits([[contexts[index][-1], *more[index]] for index in order])
        assert len(taken) - before == 3 * model.config.num_hidden_layers
        assert_of_one_text(model, logits, [contexts[index] for index in order], [more[index] for index in order])


def test_what_is_read_anew_lies_in_order_of_its_length() -> None:
    memory = PrefixMemory(layers=1)
    memory.reserve(8, 16)
    contexts = [tokens(length, seed=length) for length in (3, 9, 5, 12)]
    rows = memory.seat(contexts)
    assert sorted(rows) == [0, 1, 2, 3]
    lengths = [len(context) for _, context in sorted(zip(rows, contexts, strict=True))]
    assert lengths == [12, 9, 5, 3]


def test_the_price_of_a_call_by_hand() -> None:
    """`nano`-like: 2 layers of 2 heads of 8 numbers, keys and values of 4 bytes: 128 bytes a token and layer."""
    model = tiny_model()
    # 30 microseconds at 10 GB a second are 300,000 bytes.
    assert Roofline(model).call_of_attention() == pytest.approx(300_000 / 128)
