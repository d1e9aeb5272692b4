"""Nothing is read twice under the same weights, and nobody can tell from the tokens."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_greedy import NEVER, PAD, VOCABULARY, naive_greedy, tokens
from tiny_policies import FAMILIES, tiny_model

from fission_grpo.policy.base import Sampling
from fission_grpo.policy.local.forward import ForwardRunner
from fission_grpo.policy.local.hf_policy import HFPolicy
from fission_grpo.policy.local.kv_cache import KVCache, cache_argument

GREEDY = Sampling(max_tokens=6, temperature=0.0)


def policy_of(family: str = "llama", *, max_rows: int = 256) -> HFPolicy:
    return HFPolicy(tiny_model(family, vocabulary=VOCABULARY), eos_id=NEVER, pad_id=PAD, max_rows=max_rows)


def say(policy: HFPolicy, *dialogues: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [completion.ids for completion in policy.generate(dialogues, sampling=GREEDY, seed=0)]


def assert_of_one_text(
    model: Any, logits: torch.Tensor, contexts: Sequence[tuple[int, ...]], more: Sequence[tuple[int, ...]]
) -> None:
    """Logits [rows, tokens, vocabulary] are those that a row's context and new tokens have alone."""
    for row, (context, new) in enumerate(zip(contexts, more, strict=True)):
        whole = model(torch.tensor([context + new])).logits[0, len(context) - 1 :]
        assert torch.allclose(logits[row, : len(new) + 1], whole, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_side_by_side_have_the_logits_of_one_text(family: str) -> None:
    """Drafts behind prompts of several lengths, with fewer keys and values than heads."""
    model = tiny_model(family, vocabulary=VOCABULARY)
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    runner = ForwardRunner(model, pad_id=PAD, share=True)
    contexts = [tokens(11, seed=1), tokens(5, seed=2), tokens(1, seed=3)]
    more = [tokens(3, seed=4), tokens(7, seed=5), ()]
    runner.cache.reserve(3, 32)
    with torch.no_grad():
        order = runner.prefill(contexts, first=0)
        logits = runner.next_logits([[contexts[index][-1], *more[index]] for index in order])
        assert_of_one_text(model, logits, [contexts[index] for index in order], [more[index] for index in order])


@pytest.mark.parametrize("family", FAMILIES)
def test_turns_recoveries_and_siblings_say_what_a_fresh_reading_would(family: str) -> None:
    policy = policy_of(family)
    prompt, reply = tokens(11, seed=1), tokens(4, seed=2)
    first = say(policy, prompt, prompt, prompt)
    later = [prompt + said + reply for said in first]
    second = say(policy, *later)
    # A recovery leaves the trajectory in its middle; another one begins somewhere else altogether.
    recovery = later[0] + second[0][:2] + tokens(3, seed=5)
    third = say(policy, recovery, recovery, tokens(8, seed=6), prompt + tokens(1, seed=7))
    expected = [
        naive_greedy(policy.model, ids, eos=NEVER, max_tokens=6)
        for ids in (recovery, recovery, tokens(8, seed=6), prompt + tokens(1, seed=7))
    ]
    assert third == expected
    assert second == [naive_greedy(policy.model, ids, eos=NEVER, max_tokens=6) for ids in later]


def test_only_what_is_new_is_read() -> None:
    policy = policy_of()
    prompt, reply = tokens(11, seed=1), tokens(4, seed=2)
    (said,) = say(policy, prompt)
    assert policy.take_count().prefilled == 11
    later = prompt + said + reply
    say(policy, later)
    # Of the 6 sampled tokens the last one was never computed: nobody asked what comes after it.
    assert policy.take_count().prefilled == 1 + 4
    # The failed trajectory's own row goes on: 3 new tokens, read once for both recoveries.
    recovery = later + tokens(3, seed=3)
    say(policy, recovery, recovery)
    assert policy.take_count().prefilled == 3


def test_new_weights_are_noticed() -> None:
    policy = policy_of()
    prompt = tokens(11, seed=1)
    say(policy, prompt)
    policy.take_count()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    assert say(policy, prompt) == [naive_greedy(policy.model, prompt, eos=NEVER, max_tokens=6)]
    assert policy.take_count().prefilled == 11


def test_invalidated_is_what_is_computed_again() -> None:
    policy = policy_of()
    say(policy, tokens(11, seed=1))
    policy.invalidate()
    policy.take_count()
    say(policy, tokens(11, seed=1))
    assert policy.take_count().prefilled == 11


def test_without_sharing_every_row_is_read_from_its_first_token() -> None:
    model = tiny_model("llama", vocabulary=VOCABULARY)
    plain = HFPolicy(model, eos_id=NEVER, pad_id=PAD, share=False)
    prompt = tokens(11, seed=1)
    first = say(plain, prompt, prompt)
    assert first == say(HFPolicy(model, eos_id=NEVER, pad_id=PAD), prompt, prompt)
    say(plain, *[prompt + said for said in first])
    count = plain.take_count()
    assert count.prefilled == count.unshared == 2 * 11 + 2 * (11 + 6)


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 10_000), max_rows=st.integers(1, 6))
def test_any_history_of_calls_changes_nothing(seed: int, max_rows: int) -> None:
    """Random dialogues grow, branch, repeat and start anew, in any number of rows; every answer stays the naive one."""
    rng = Random(seed)
    policy = policy_of(max_rows=max_rows)
    known = [tokens(rng.randrange(1, 9), seed=seed)]
    for call in range(3):
        batch = []
        for number in range(rng.randrange(1, 5)):
            before = rng.choice(known)
            cut = rng.randrange(len(before) + 1)
            batch.append(before[:cut] + tokens(rng.randrange(1, 5), seed=rng.randrange(3) + 10 * call + number))
        answers = say(policy, *batch)
        for ids, answer in zip(batch, answers, strict=True):
            assert answer == naive_greedy(policy.model, ids, eos=NEVER, max_tokens=6)
        known += [ids + answer for ids, answer in zip(batch, answers, strict=True)]


# What transformers asks of a cache, and how it is passed.


class Older:
    def forward(self, input_ids: torch.Tensor, past_key_values: object = None) -> None: ...


class Newer:
    def forward(self, input_ids: torch.Tensor, cache: object = None, **others: object) -> None: ...


def test_a_cache_is_passed_by_the_name_that_the_decoder_has_for_it() -> None:
    assert (cache_argument(Older()), cache_argument(Newer())) == ("past_key_values", "cache")
    decoder = tiny_model().get_decoder()
    assert cache_argument(decoder) in inspect.signature(decoder.forward).parameters


def test_a_layer_tells_its_capacity_by_both_names_of_transformers() -> None:
    cache = KVCache(layers=1)
    cache.reserve(2, 300)
    (layer,) = cache.layers
    assert layer.get_max_cache_shape() == layer.get_max_length() == cache.capacity == 384
