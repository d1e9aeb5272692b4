"""Tokens are drawn from one distribution, and their log-probabilities are those of that distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fission_grpo.policy.base import Sampling
from fission_grpo.policy.local.sampling import draw, invert
from fission_grpo.types import Distribution

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0])
DRAWS = 20_000
BELOW_ONE = 0.9999999999999999
"""1 - 2^-53, the largest number that a generator returns; in single precision it is 1."""
VALUES = st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=9)
UNIFORMS = st.floats(0, 1, exclude_max=True) | st.just(BELOW_ONE)


def shares(distribution: Distribution) -> torch.Tensor:
    uniforms = torch.rand(DRAWS, generator=torch.Generator().manual_seed(0))
    drawn, _ = draw(LOGITS, distribution, uniforms)
    return torch.bincount(drawn, minlength=len(LOGITS)) / DRAWS


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_by_the_tempered_softmax(temperature: float) -> None:
    expected = (LOGITS / temperature).softmax(dim=0)
    # Five standard errors of a share: 5 x sqrt(1/4 / 20 000) = 0.018.
    assert (shares(Distribution(temperature=temperature)) - expected).abs().max() < 0.018


def test_top_k_draws_from_the_best_k_in_their_proportions() -> None:
    found = shares(Distribution(top_k=2))
    assert not found[2:].any()
    expected = LOGITS[:2].softmax(dim=0)
    assert (found[:2] - expected).abs().max() < 0.018


def test_greedy_takes_the_best() -> None:
    assert shares(Distribution(temperature=0.0)).tolist() == [1, 0, 0, 0, 0]


def test_a_sampling_is_the_distribution_that_it_samples_from() -> None:
    uniforms = torch.linspace(0, 1, 9, dtype=torch.float64)[:-1]
    one = draw(LOGITS, Sampling(max_tokens=1, temperature=0.7, top_k=3), uniforms)
    other = draw(LOGITS, Distribution(temperature=0.7, top_k=3), uniforms)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@example([0.0, 1.2e-38], 1.0, 1, BELOW_ONE)
@given(VALUES, st.floats(0.1, 3) | st.just(0.0), st.integers(0, 12), UNIFORMS)
def test_the_logprob_is_that_of_what_was_drawn_from(values: list[float], heat: float, top_k: int, u: float) -> None:
    """Tempered, cut and renormalised; greedy draws keep the plain softmax."""
    logits = torch.tensor(values, dtype=torch.float64)
    token, logprob = draw(logits, Distribution(temperature=heat, top_k=top_k), torch.tensor([u]))
    kept = logits / heat if heat else logits
    if top_k and heat:
        shares = kept.log_softmax(dim=-1).exp()  # logits too near each other to differ in probability are tied
        kth = shares.sort(descending=True).values[min(top_k, len(values)) - 1]
        kept = torch.where(shares >= kth, kept, -math.inf)
    assert logprob.tolist() == pytest.approx(kept.log_softmax(dim=-1)[token].tolist(), abs=1e-9)


# No random number, in whatever precision, draws what has no probability.


@pytest.mark.parametrize("u, token", [(0.0, 1), (0.24, 1), (0.26, 3), (0.999999, 3), (BELOW_ONE, 3)])
def test_what_has_no_probability_is_never_drawn(u: float, token: int) -> None:
    """Shares 0, 1/4, 0, 3/4, 0: the cumulative distribution stands still at the first, the third and the last token."""
    logits = torch.tensor([0, 0.25, 0, 0.75, 0]).log()
    drawn, _ = draw(logits, Distribution(), torch.tensor([u]))
    assert drawn.tolist() == [token]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_number_that_is_rounded_up_to_one_stays_within_the_top_k(dtype: torch.dtype) -> None:
    drawn, logprob = draw(torch.tensor([1.0, 0.0]), Distribution(top_k=1), torch.tensor([BELOW_ONE], dtype=dtype))
    assert (drawn.tolist(), logprob.tolist()) == ([0], [0.0])


@example([1.0, 0.0], 1.0, 1, BELOW_ONE)
@example([-1.2e-38, 0.0], 1.0, 1, 0.0)
@given(VALUES, st.floats(0.1, 3), st.integers(1, 12), UNIFORMS)
def test_no_draw_leaves_the_top_k(values: list[float], heat: float, top_k: int, u: float) -> None:
    logits = torch.tensor(values)
    token, logprob = draw(logits, Distribution(temperature=heat, top_k=top_k), torch.tensor([u]))
    shares = (logits / heat).log_softmax(dim=-1).exp()  # two logits may differ and their probabilities be the same
    assert (shares > shares[token]).sum() < top_k
    assert logprob.isfinite().all()


@pytest.mark.parametrize("precision", [torch.float32, torch.float64], ids=str)
@given(
    st.lists(st.sampled_from([0.0, 1e-30, 1e-9, 0.1, 0.3, 1.0]), min_size=1, max_size=300).filter(any),
    st.lists(UNIFORMS | st.just(1.0) | st.just(5e-324), min_size=1, max_size=5),
)
def test_only_what_is_possible_is_drawn(precision: torch.dtype, chances: list[float], uniforms: list[float]) -> None:
    """Also behind sums that take up no more: 1e-30 beside 1 is possible, and adds nothing."""
    probabilities = torch.tensor([chances])
    for dtype in (torch.float32, torch.float64):
        tokens = invert(probabilities, torch.tensor([uniforms], dtype=dtype), precision=precision)
        assert (probabilities.gather(-1, tokens) > 0).all()


def test_draws_that_were_possible_are_those_of_the_cumulative_distribution() -> None:
    """The token at which the sum of the shares so far exceeds the random number."""
    generator = np.random.default_rng(0)
    for _ in range(50):
        probabilities = generator.random(40).astype(np.float32) * (generator.random(40) < 0.5)
        uniforms = generator.random(20)
        cumulative = probabilities.astype(np.float64).cumsum()
        expected = [int((cumulative > u * cumulative[-1]).argmax()) for u in uniforms]
        drawn = invert(torch.from_numpy(probabilities), torch.from_numpy(uniforms), precision=torch.float64)
        assert drawn.tolist() == expected
