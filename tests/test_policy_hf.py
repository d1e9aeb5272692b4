"""Sampling from a causal language model: the same tokens as the plain way, only cheaper."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_policies import FAMILIES, chat, naive_logprobs, tasks, tiny_model

from fission_grpo.errors import PolicyError
from fission_grpo.policy.base import Context, Sampling
from fission_grpo.policy.draw import draw
from fission_grpo.policy.hf import HFPolicy
from fission_grpo.policy.reader import GenerationCount
from fission_grpo.policy.scripted import ScriptedPolicy
from fission_grpo.types import FinishReason

VOCABULARY = 64
PAD, NEVER = 0, -1
GREEDY = Sampling(max_tokens=12, temperature=0.0)


def tokens(count: int, *, seed: int) -> tuple[int, ...]:
    rng = Random(seed)
    return tuple(rng.randrange(1, VOCABULARY) for _ in range(count))


A, B, C = tokens(9, seed=1), tokens(4, seed=2), tokens(13, seed=3)
CONTEXTS = [
    Context(ids=A, root=len(A)),
    Context(ids=A + tokens(5, seed=4), root=len(A)),
    Context(ids=A, root=len(A)),
    Context(ids=B + tokens(2, seed=5), root=len(B)),
    Context(ids=C, root=len(C)),
    Context(ids=C + tokens(7, seed=6), root=len(C)),
    Context(ids=B, root=0),
]


def naive_greedy(model: Any, context: Context, *, eos: int, max_tokens: int = 12) -> tuple[int, ...]:
    """The whole sequence through the model for every token, no cache, no batch."""
    ids = list(context.ids)
    for _ in range(max_tokens):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == eos:
            break
    return tuple(ids[len(context.ids) :])


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
        ids = torch.tensor([context.ids])
        generated = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=eos,
            pad_token_id=PAD,
        )
        assert completion.ids == tuple(generated[0, len(context.ids) :].tolist())


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_are_those_of_a_fresh_forward(family: str) -> None:
    model = tiny_model(family, vocabulary=VOCABULARY)
    sampling = Sampling(max_tokens=8, temperature=0.7, top_k=5)
    completions = HFPolicy(model, eos_id=common_token(model), pad_id=PAD).generate(CONTEXTS, sampling=sampling, seed=3)
    for context, completion in zip(CONTEXTS, completions, strict=True):
        with torch.no_grad():
            fresh = naive_logprobs(model, context.ids + completion.ids, temperature=0.7)[len(context.ids) - 1 :]
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
    policy.forget()  # what is remembered changes the last digits of a log-probability
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


def test_shared_roots_are_prefilled_once() -> None:
    policy = HFPolicy(tiny_model(vocabulary=VOCABULARY), eos_id=NEVER, pad_id=PAD)
    policy.generate(CONTEXTS, sampling=GREEDY, seed=0)
    # The roots of several distinct contexts, A 9 and C 13, come first. Then the tails 5 and 7, the last token of A and
    # of C again (its logits are needed), and B twice, 4 and 4 + 2, because nobody said that these two are akin.
    # Separate rows: A three times, B twice, C twice, and the tails 5, 2, 7. Reading gives the first of 12 tokens.
    expected = GenerationCount(
        prefilled=9 + 13 + 5 + 7 + 1 + 1 + 4 + 4 + 2, raw=3 * 9 + 2 * 4 + 2 * 13 + 5 + 2 + 7, sampled=7 * 12, passes=11
    )
    assert policy.take_count() == expected
    assert policy.take_count() == GenerationCount()


def test_all_roots_may_be_empty() -> None:
    model = tiny_model(vocabulary=VOCABULARY)
    contexts = [Context(ids=ids, root=0) for ids in (A, B)]
    completions = HFPolicy(model, eos_id=NEVER, pad_id=PAD).generate(contexts, sampling=GREEDY, seed=0)
    expected = [naive_greedy(model, context, eos=NEVER) for context in contexts]
    assert [completion.ids for completion in completions] == expected


def test_no_contexts_no_completions() -> None:
    policy = HFPolicy(tiny_model(vocabulary=VOCABULARY), eos_id=3, pad_id=PAD)
    assert policy.generate([], sampling=GREEDY, seed=0) == []


def test_what_the_model_cannot_read_is_a_fault_of_ours() -> None:
    policy = HFPolicy(tiny_model(vocabulary=VOCABULARY), eos_id=3, pad_id=PAD)
    with pytest.raises(PolicyError, match="sampling: IndexError"):
        policy.generate([Context(ids=(1, VOCABULARY), root=2)], sampling=GREEDY, seed=0)


def test_the_window_is_the_model_s() -> None:
    assert HFPolicy(tiny_model(), eos_id=3, pad_id=PAD).context_window == 4096


# draw(): the distribution itself.

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0])
DRAWS = 20_000


def shares(sampling: Sampling) -> torch.Tensor:
    heights = torch.rand(DRAWS, generator=torch.Generator().manual_seed(0))
    drawn, _ = draw(LOGITS.expand(DRAWS, -1), sampling, heights)
    return torch.bincount(drawn, minlength=len(LOGITS)) / DRAWS


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_by_the_tempered_softmax(temperature: float) -> None:
    expected = (LOGITS / temperature).softmax(dim=0)
    # Five standard errors of a share: 5 x sqrt(1/4 / 20 000) = 0.018.
    assert (shares(Sampling(max_tokens=1, temperature=temperature)) - expected).abs().max() < 0.018


def test_top_k_draws_from_the_best_k_in_their_proportions() -> None:
    found = shares(Sampling(max_tokens=1, top_k=2))
    assert not found[2:].any()
    expected = LOGITS[:2].softmax(dim=0)
    assert (found[:2] - expected).abs().max() < 0.018


@pytest.mark.parametrize("height, token", [(0.0, 1), (0.24, 1), (0.26, 3), (0.999999, 3)])
def test_what_has_no_probability_is_never_drawn(height: float, token: int) -> None:
    """Shares 0, 1/4, 0, 3/4, 0: the cumulative distribution stands still at the first, the third and the last token."""
    logits = torch.tensor([[0, 0.25, 0, 0.75, 0]]).log()
    drawn, _ = draw(logits, Sampling(max_tokens=1), torch.tensor([height]))
    assert drawn.tolist() == [token]


def test_greedy_takes_the_best() -> None:
    assert shares(Sampling(max_tokens=1, temperature=0.0)).tolist() == [1, 0, 0, 0, 0]


@given(
    st.lists(st.floats(-5, 5), min_size=2, max_size=9),
    st.floats(0.1, 3) | st.just(0.0),
    st.integers(0, 12),
    st.floats(0, 1, exclude_max=True),
)
def test_the_logprob_is_that_of_the_whole_vocabulary(
    values: list[float], heat: float, top_k: int, height: float
) -> None:
    """As training recomputes it: tempered, and blind to top-k; greedy draws keep the plain softmax."""
    logits = torch.tensor([values])
    sampling = Sampling(max_tokens=1, temperature=heat, top_k=top_k)
    token, logprob = draw(logits, sampling, torch.tensor([height]))
    distribution = (logits / (heat or 1.0)).log_softmax(dim=-1)[0]
    assert logprob.tolist() == pytest.approx(distribution[token].tolist())
    better = (distribution.exp() > distribution.exp()[token]).sum()
    assert top_k == 0 or heat == 0 or better < top_k


# The fake that ships.


def test_a_scripted_policy_answers_what_it_reads() -> None:
    task = tasks()[0]
    ids = chat().prompt(task.messages, task.tools)
    policy = ScriptedPolicy(chat().renderer.tokenizer, lambda text: text[:12], eos_id=chat().eos_id, context_window=77)
    (whole,) = policy.generate([Context(ids=ids, root=0)], sampling=Sampling(max_tokens=50), seed=0)
    assert chat().decode(whole.ids) == "<|im_start|>"
    assert (whole.ids[-1], whole.finish) == (chat().eos_id, FinishReason.STOP)
    (cut,) = policy.generate([Context(ids=ids, root=0)], sampling=Sampling(max_tokens=1), seed=0)
    assert (cut.ids, cut.logprobs, cut.finish) == (whole.ids[:1], (0.0,), FinishReason.LENGTH)
    assert policy.context_window == 77
