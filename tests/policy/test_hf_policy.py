"""Sampling from a causal language model: the same tokens as the plain way, only cheaper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_greedy import NEVER, PAD, VOCABULARY, naive_greedy, tokens
from tiny_policies import FAMILIES, chat, naive_logprobs, tasks, tiny_model

from fission_grpo.errors import PolicyError
from fission_grpo.policy.base import Sampling
from fission_grpo.policy.local.forward import WORTH_WAITING, GenerationCount
from fission_grpo.policy.local.hf_policy import HFPolicy
from fission_grpo.policy.local.speculation import PromptLookup
from fission_grpo.policy.scripted import ScriptedPolicy
from fission_grpo.tree.prefix_tree import build_forest
from fission_grpo.types import FinishReason

GREEDY = Sampling(max_tokens=12, temperature=0.0)


A, B, C = tokens(9, seed=1), tokens(4, seed=2), tokens(13, seed=3)
CONTEXTS = [
    A,
    A + tokens(5, seed=4),
    A,
    B + tokens(2, seed=5),
    C,
    C + tokens(7, seed=6),
    B,
]


def common_token(model: Any) -> int:
    """The token that most greedy continuations of CONTEXTS reach early, but not all: a telling end token."""
    places: dict[int, list[int]] = {}
    for said in (naive_greedy(model, context, eos=NEVER) for context in CONTEXTS):
        for token in set(said):
            places.setdefault(token, []).append(said.index(token))
    some = {token: found for token, found in places.items() if len(found) < len(CONTEXTS) - 1}
    return max(some, key=lambda token: (len(some[token]), -sum(some[token])))


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_a_naive_loop(family: str) -> None:
    model = tiny_model(family, vocabulary=VOCABULARY)
    eos = common_token(model)
    completions = HFPolicy(model, eos_id=eos, pad_id=PAD).generate(CONTEXTS, sampling=GREEDY, seed=0)
    for context, completion in zip(CONTEXTS, completions, strict=True):
        assert completion.ids == naive_greedy(model, context, eos=eos)
        assert completion.finish is (FinishReason.STOP if completion.ids[-1] == eos else FinishReason.LENGTH)
    assert {completion.finish for completion in completions} == set(FinishReason)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_transformers(family: str) -> None:
    model = tiny_model(family, vocabulary=VOCABULARY)
    eos = common_token(model)
    completions = HFPolicy(model, eos_id=eos, pad_id=PAD).generate(CONTEXTS, sampling=GREEDY, seed=0)
    for context, completion in zip(CONTEXTS, completions, strict=True):
        ids = torch.tensor([context])
        generated = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=eos,
            pad_token_id=PAD,
        )
        assert completion.ids == tuple(generated[0, len(context) :].tolist())


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_are_those_of_a_fresh_forward(family: str) -> None:
    model = tiny_model(family, vocabulary=VOCABULARY)
    sampling = Sampling(max_tokens=8, temperature=0.7)
    completions = HFPolicy(model, eos_id=common_token(model), pad_id=PAD).generate(CONTEXTS, sampling=sampling, seed=3)
    for context, completion in zip(CONTEXTS, completions, strict=True):
        with torch.no_grad():
            fresh = naive_logprobs(model, context + completion.ids, temperature=0.7)[len(context) - 1 :]
        assert list(completion.logprobs) == pytest.approx(fresh.tolist(), abs=1e-5)


def test_a_row_says_the_same_alone_in_a_batch_and_in_any_order() -> None:
    """Finished rows are dropped while others go on; whoever stays must not notice."""
    model = tiny_model(vocabulary=VOCABULARY)
    policy = HFPolicy(model, eos_id=common_token(model), pad_id=PAD)
    rows: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _, args, given: rows.append(len(given["input_ids"])), with_kwargs=True
    )
    together = policy.generate(CONTEXTS, sampling=GREEDY, seed=0)
    hook.remove()
    assert rows[-1] < max(rows) < len(CONTEXTS)  # one context is there twice
    alone = [policy.generate([context], sampling=GREEDY, seed=0)[0] for context in CONTEXTS]
    assert [completion.ids for completion in together] == [completion.ids for completion in alone]
    backwards = policy.generate(CONTEXTS[::-1], sampling=GREEDY, seed=0)[::-1]
    assert [completion.ids for completion in backwards] == [completion.ids for completion in alone]
    few = HFPolicy(model, eos_id=policy.eos_id, pad_id=PAD, max_rows=2).generate(CONTEXTS, sampling=GREEDY, seed=0)
    assert [completion.ids for completion in few] == [completion.ids for completion in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def test_the_seed_alone_decides_what_is_drawn() -> None:
    policy = HFPolicy(tiny_model(vocabulary=VOCABULARY), eos_id=3, pad_id=PAD)
    sampling = Sampling(max_tokens=8, temperature=1.0)
    first = policy.generate(CONTEXTS, sampling=sampling, seed=5)
    torch.manual_seed(99)
    again = policy.generate(CONTEXTS, sampling=sampling, seed=5)
    assert [completion.ids for completion in again] == [completion.ids for completion in first]
    # What is cached and what is drafted change the last digits of a log-probability.
    policy.invalidate()
    policy.lookup.load_state_dict(PromptLookup().state_dict())
    assert policy.generate(CONTEXTS, sampling=sampling, seed=5) == first
    assert policy.generate(CONTEXTS, sampling=sampling, seed=6) != first
    siblings = policy.generate([CONTEXTS[0]] * 8, sampling=sampling, seed=5)
    assert len({completion.ids for completion in siblings}) > 1


def test_sampling_leaves_the_world_s_random_numbers_alone() -> None:
    policy = HFPolicy(tiny_model(vocabulary=VOCABULARY), eos_id=3, pad_id=PAD)
    before = torch.get_rng_state()
    policy.generate(CONTEXTS, sampling=Sampling(max_tokens=4), seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_follows_the_end_token() -> None:
    policy = HFPolicy(tiny_model(vocabulary=VOCABULARY), eos_id=3, pad_id=PAD)
    for completion in policy.generate(CONTEXTS * 10, sampling=Sampling(max_tokens=40, temperature=2.0), seed=1):
        assert 3 not in completion.ids[:-1]
        assert len(completion.ids) == len(completion.logprobs) <= 40
        assert (completion.finish is FinishReason.STOP) == (completion.ids[-1] == 3)
        assert completion.finish is FinishReason.STOP or len(completion.ids) == 40


def test_what_contexts_have_in_common_is_prefilled_once() -> None:
    """Nobody says what that is: a tool's description is shared by tasks that know nothing of each other."""
    policy = HFPolicy(tiny_model(vocabulary=VOCABULARY), eos_id=NEVER, pad_id=PAD)
    header = tokens(WORTH_WAITING, seed=7)
    contexts = [header + A, header + A, header + B, header + B + tokens(2, seed=5), C]
    policy.generate(contexts, sampling=Sampling(max_tokens=1, temperature=0.0), seed=0)
    # The header with whichever of A and B comes first, C beside them; then the other two behind the header, each with
    # all of B: what they share beyond the header is not worth a pass. Twice the same context is one row.
    assert policy.take_count() == GenerationCount(
        prefilled=WORTH_WAITING + 9 + 4 + (4 + 2) + 13,
        unshared=4 * WORTH_WAITING + 2 * 9 + 2 * 4 + 2 + 13,
        sampled=5,
        passes=1,
    )
    assert policy.take_count() == GenerationCount()


@given(seed=st.integers(0, 10_000), heat=st.floats(0.02, 1.0))
@settings(deadline=None, max_examples=10)
def test_a_group_is_sampled_on_the_tree_that_it_is(seed: int, heat: float) -> None:
    """Every unique token goes through the model once, but for the ends, behind which nobody looks."""
    policy = HFPolicy(tiny_model(vocabulary=VOCABULARY), eos_id=3, pad_id=PAD)
    sampling = Sampling(max_tokens=12, temperature=heat)
    for prompt in (A, C):  # of the second group something can be drafted
        said = policy.generate([prompt] * 8, sampling=sampling, seed=seed)
        tree = build_forest([prompt + completion.ids[:-1] for completion in said])
        count = policy.take_count()
        assert count.prefilled == len(prompt)
        assert count.prefilled + count.decoded - (count.drafted - count.accepted) == len(tree)
        assert count.sampled == sum(len(completion.ids) for completion in said)


def test_what_was_said_before_takes_few_passes() -> None:
    policy = HFPolicy(tiny_model(vocabulary=VOCABULARY), eos_id=NEVER, pad_id=PAD)
    sampling = Sampling(max_tokens=30, temperature=0.5)
    first = policy.generate([A], sampling=sampling, seed=0)
    assert policy.take_count().passes > 20
    policy.invalidate()
    again = policy.generate([A], sampling=sampling, seed=0)
    assert again[0].ids == first[0].ids
    count = policy.take_count()
    # 30 tokens, 9 a pass: 8 of a draft and the one drawn behind them. Of the last pass 3 are left to say, 2 to draft.
    assert (count.passes, count.drafted, count.accepted) == (4, 3 * 8 + 2, 3 * 8 + 2)


def test_all_roots_may_be_empty() -> None:
    model = tiny_model(vocabulary=VOCABULARY)
    contexts = [A, B]
    completions = HFPolicy(model, eos_id=NEVER, pad_id=PAD).generate(contexts, sampling=GREEDY, seed=0)
    expected = [naive_greedy(model, context, eos=NEVER) for context in contexts]
    assert [completion.ids for completion in completions] == expected


def test_no_contexts_no_completions() -> None:
    policy = HFPolicy(tiny_model(vocabulary=VOCABULARY), eos_id=3, pad_id=PAD)
    assert policy.generate([], sampling=GREEDY, seed=0) == []


def test_what_the_model_cannot_read_is_a_fault_of_ours() -> None:
    policy = HFPolicy(tiny_model(vocabulary=VOCABULARY), eos_id=3, pad_id=PAD)
    with pytest.raises(PolicyError, match="sampling: IndexError"):
        policy.generate([(1, VOCABULARY)], sampling=GREEDY, seed=0)


def test_the_window_is_the_model_s() -> None:
    assert HFPolicy(tiny_model(), eos_id=3, pad_id=PAD).context_window == 4096


# The fake that ships.


def test_a_scripted_policy_answers_what_it_reads() -> None:
    task = tasks()[0]
    ids = chat().prompt(task.messages, task.tools)
    policy = ScriptedPolicy(chat().renderer.tokenizer, lambda text: text[:12], eos_id=chat().eos_id, context_window=77)
    (whole,) = policy.generate([ids], sampling=Sampling(max_tokens=50), seed=0)
    assert chat().decode(whole.ids) == "<|im_start|>"
    assert (whole.ids[-1], whole.finish) == (chat().eos_id, FinishReason.STOP)
    (cut,) = policy.generate([ids], sampling=Sampling(max_tokens=1), seed=0)
    assert (cut.ids, cut.logprobs, cut.finish) == (whole.ids[:1], (0.0,), FinishReason.LENGTH)
    assert policy.context_window == 77
