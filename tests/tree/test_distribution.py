"""Sampler and scorer mean the same distribution: tempered, cut to the top k, renormalised."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
import torch
from tiny_policies import tiny_model
from torch import Tensor

from fission_grpo.policy.base import Sampling
from fission_grpo.policy.local.hf_policy import HFPolicy
from fission_grpo.policy.local.sampling import draw
from fission_grpo.tree.distribution import outside, tempered
from fission_grpo.tree.logprobs import PackedGroup, Scorer, score, separate, share_prefixes, token_scores
from fission_grpo.tree.reference import Reference
from fission_grpo.types import Distribution, TokenRow

VOCABULARY = 200
PAPER = Sampling(max_tokens=12, temperature=0.95, top_k=50)


def cut_softmax(logits: Tensor, distribution: Distribution, token: int) -> Tensor:
    """Written out for one position: log-probabilities, -inf outside the top k and the token itself."""
    scaled = logits / distribution.temperature
    kth = scaled.sort(descending=True).values[distribution.top_k - 1] if distribution.top_k else -math.inf
    stays = (scaled >= kth) | (torch.arange(len(logits)) == token)
    return torch.where(stays, scaled, -math.inf).log_softmax(dim=-1)


def sampled(model: Any, sampling: Sampling) -> tuple[list[TokenRow], list[tuple[float, ...]]]:
    """A group of 8 behind one prompt, as rows to score, and what the sampler said of its tokens."""
    prompt = tuple(Random(0).randrange(VOCABULARY) for _ in range(9))
    said = HFPolicy(model, eos_id=-1, pad_id=0).generate([prompt] * 8, sampling=sampling, seed=1)
    rows = [
        TokenRow(ids=prompt + completion.ids, trained=(False,) * 9 + (True,) * len(completion.ids))
        for completion in said
    ]
    return rows, [completion.logprobs for completion in said]


def scored(model: Any, rows: list[TokenRow], groups: list[PackedGroup], distribution: Distribution) -> Tensor:
    width = max(sum(row.trained) for row in rows)
    logprobs_BT = torch.zeros(len(rows), width, dtype=torch.promote_types(model.dtype, torch.float32))
    for part in score(model, rows, groups, width=width, distribution=distribution, token_budget=64):
        logprobs_BT = logprobs_BT.index_put((torch.tensor(part.rows),), part.logprobs_BT)
    return logprobs_BT


@pytest.mark.parametrize("top_k", [0, 1, 5, 50, VOCABULARY])
@pytest.mark.parametrize("shared", [True, False], ids=["tree", "rows"])
def test_the_scorer_says_what_the_sampler_said(top_k: int, shared: bool) -> None:
    model = tiny_model("qwen3", vocabulary=VOCABULARY)
    sampling = Sampling(max_tokens=12, temperature=0.95, top_k=top_k)
    rows, said = sampled(model, sampling)
    with torch.no_grad():
        found = scored(model, rows, share_prefixes(rows) if shared else separate(rows), sampling)
    torch.testing.assert_close(found, torch.tensor(said), rtol=0, atol=2e-5)


def test_top_k_is_part_of_the_distribution() -> None:
    """At the paper's temperature and top-k the whole vocabulary is another distribution: that is what is mended."""
    model = tiny_model("qwen3", vocabulary=VOCABULARY)
    rows, said = sampled(model, PAPER)
    with torch.no_grad():
        whole = scored(model, rows, separate(rows), Distribution(temperature=PAPER.temperature))
    assert (torch.tensor(said) - whole).min() > -2e-5
    assert (torch.tensor(said) - whole).max() > 0.01


def test_tree_and_separate_rows_have_the_same_scores_and_gradients_under_top_k() -> None:
    model = tiny_model("qwen3", vocabulary=VOCABULARY, dtype=torch.float64)
    rows, _ = sampled(model, PAPER)
    weights = torch.randn(8, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = []
    for groups in (share_prefixes(rows), separate(rows)):
        model.zero_grad()
        logprobs = scored(model, rows, groups, PAPER)
        (logprobs * weights).sum().backward()
        found.append((logprobs.detach(), [parameter.grad.clone() for parameter in model.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("logits_at_once", [1, 10**6], ids=["slices", "whole"])
@pytest.mark.parametrize("distribution", [Distribution(temperature=0.7, top_k=3), Distribution(top_k=1)], ids=str)
def test_gradient_and_entropy_are_those_of_the_cut_softmax(distribution: Distribution, logits_at_once: int) -> None:
    """Tokens within the top k and far outside of it."""
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 20, bias=False, dtype=torch.float64)
    hidden = torch.randn(17, 6, dtype=torch.float64, requires_grad=True)
    token, weight = torch.randint(20, (17,)), torch.randn(17, dtype=torch.float64)
    by_hand = torch.stack(
        [cut_softmax(logits, distribution, int(t)) for logits, t in zip(head(hidden), token, strict=True)]
    )
    expected = by_hand[torch.arange(17), token]
    logprob, entropy = token_scores(head, hidden, token, distribution, logits_at_once=logits_at_once)
    torch.testing.assert_close(logprob, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(entropy, torch.special.entr(by_hand.exp()).sum(-1), rtol=1e-12, atol=1e-12)
    ours = torch.autograd.grad(logprob @ weight, (hidden, head.weight))
    theirs = torch.autograd.grad(expected @ weight, (hidden, head.weight))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_token_that_the_weights_have_left_behind_still_has_a_probability() -> None:
    """Sampled among the best two, and now the worst of four: it shares with the two that are the best now.

    Logits 3, 2, 1, 0: the last token beside the first two has 1 / (e^3 + e^2 + 1).
    """
    head = torch.nn.Linear(1, 4, bias=False, dtype=torch.float64)
    head.weight = torch.nn.Parameter(torch.tensor([[3.0], [2.0], [1.0], [0.0]], dtype=torch.float64))
    hidden = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    logprob, entropy = token_scores(head, hidden, torch.tensor([3]), Distribution(top_k=2))
    assert logprob.item() == pytest.approx(-math.log(math.e**3 + math.e**2 + 1))
    assert entropy.isfinite().all()
    (gradient,) = torch.autograd.grad(logprob.sum(), head.weight)
    assert gradient.isfinite().all()
    assert gradient[2].item() == 0  # cut off: it takes no part


def test_ties_at_the_kth_probability_all_stay_on_both_sides() -> None:
    logits = torch.tensor([2.0, 1.0, 1.0, 1.0, 0.0])
    distribution = Distribution(top_k=2)
    drawn, said = draw(logits, distribution, torch.linspace(0, 0.999, 200))
    assert set(drawn.tolist()) == {0, 1, 2, 3}
    head = torch.nn.Linear(1, 5, bias=False)
    head.weight = torch.nn.Parameter(logits[:, None])
    ours, _ = token_scores(head, torch.ones(200, 1), drawn, distribution)
    torch.testing.assert_close(ours, said, rtol=0, atol=1e-6)


def test_the_reference_is_cut_like_the_policy() -> None:
    """Tokens of the policy that the reference ranks below its top k have a finite log-probability there, too."""
    policy = tiny_model("llama", vocabulary=VOCABULARY, seed=1)
    reference = Reference(tiny_model("llama", vocabulary=VOCABULARY, seed=2))
    sampling = Sampling(max_tokens=12, temperature=0.95, top_k=3)
    rows, _ = sampled(policy, sampling)
    found = reference.logprobs(rows, Scorer(distribution=sampling, token_budget=64, tree=True), width=12)
    assert found.isfinite().all()
    with reference.model() as model, torch.no_grad():
        for row, logprobs in zip(rows, found, strict=True):
            logits = model(torch.tensor([row.ids])).logits[0, 8:-1]
            expected = [float(cut_softmax(at, sampling, t)[t]) for at, t in zip(logits, row.ids[9:], strict=True)]
            assert logprobs.tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "distribution", [Distribution(), Distribution(temperature=0.0, top_k=2), Distribution(top_k=5)], ids=str
)
def test_where_nothing_is_cut_it_is_the_plain_softmax_bit_for_bit(distribution: Distribution) -> None:
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0])
    _, said = draw(logits, distribution, torch.linspace(0, 0.9, 5))
    assert outside(tempered(logits, distribution), distribution) is None
    assert set(said.tolist()) <= set(torch.log_softmax(logits, dim=-1).tolist())
