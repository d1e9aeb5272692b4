"""The packed forest is exact: what a trajectory gets does not depend on what shares its row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_policies import FAMILIES, naive_logprobs, tiny_model
from torch import Tensor

from fission_grpo.losses import DAPO, DR_GRPO, GRPO, Objective, policy_loss, token_weights
from fission_grpo.policy.scoring import Family, TokenRow, score, separate, share_prefixes
from fission_grpo.tree import build_forest, pack, packed_rows

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=1, max_size=8)
VOCABULARY = 64


@given(SEQUENCES)
def test_every_path_spells_its_sequence(sequences: list[list[int]]) -> None:
    forest = build_forest(sequences)
    for path, sequence in zip(forest.paths, sequences, strict=True):
        assert forest.ids_N[path].tolist() == sequence
        assert forest.position_N[path].tolist() == list(range(len(sequence)))
        assert forest.parent_N[path].tolist() == [-1, *path[:-1].tolist()]


@given(SEQUENCES)
def test_every_prefix_is_paid_for_once(sequences: list[list[int]]) -> None:
    prefixes = {tuple(sequence[: n + 1]) for sequence in sequences for n in range(len(sequence))}
    forest = build_forest(sequences)
    assert len(forest) == len(prefixes)
    assert forest.raw_tokens == sum(map(len, sequences))


@given(SEQUENCES)
def test_a_token_attends_to_itself_and_its_ancestors(sequences: list[list[int]]) -> None:
    forest = build_forest(sequences)
    expected = np.zeros((len(forest), len(forest)), dtype=bool)
    for node in range(len(forest)):
        ancestor = node
        while ancestor >= 0:
            expected[node, ancestor] = True
            ancestor = int(forest.parent_N[ancestor])
    assert np.array_equal(forest.attends_NN(), expected)


def test_a_family_drawn_by_hand() -> None:
    # 7 ─ 8 ─ 9 ─ 5        node   0 1 2 3 4 5
    #      \   \ 6         token  7 8 4 9 5 6
    #       4              end    6 6 3 6 5 6
    forest = build_forest([[7, 8, 9, 5], [7, 8, 4], [7, 8, 9, 6], [7, 8]])
    assert forest.ids_N.tolist() == [7, 8, 4, 9, 5, 6]
    assert forest.parent_N.tolist() == [-1, 0, 1, 1, 3, 3]
    assert forest.subtree_end_N.tolist() == [6, 6, 3, 6, 5, 6]
    assert [path.tolist() for path in forest.paths] == [[0, 1, 3, 4], [0, 1, 2], [0, 1, 3, 5], [0, 1]]


def test_an_empty_sequence_is_refused_by_its_index() -> None:
    with pytest.raises(ValueError, match="sequence 1 is empty"):
        build_forest([[1], []])


@given(st.lists(st.integers(1, 40), max_size=20), st.integers(1, 100))
def test_packing_covers_each_forest_once_and_keeps_the_budget(sizes: list[int], budget: int) -> None:
    batches = pack(sizes, token_budget=budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(sizes)))
    for batch in batches:
        area = len(batch) * max(sizes[index] for index in batch)
        assert area <= budget or len(batch) == 1


def test_padding_sees_itself_and_is_seen_by_nobody() -> None:
    long, short = build_forest([[1, 2, 3]]), build_forest([[1]])
    packed = packed_rows([long, short], pad_id=9, dtype=torch.float32, device=torch.device("cpu"))
    assert packed.ids_RL.tolist() == [[1, 2, 3], [1, 9, 9]]
    assert (packed.mask_R1LL[1, 0] == 0).tolist() == torch.eye(3).bool().tolist()


# A fission family: one prompt, explorations that share beginnings (two of them equal), a failed message with its
# feedback as given tokens, and recoveries from it; and a second task.


def family_rows() -> tuple[list[TokenRow], list[int]]:
    rng = Random(3)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(VOCABULARY) for _ in range(count))

    prompt, failed, feedback = tokens(12), tokens(4), tokens(5)
    start = failed[:2]
    explored = [row(prompt, answer) for answer in (failed, (*start, *tokens(3)), tokens(5), failed)]
    context = prompt + failed + feedback
    opening = tokens(2)
    recovered = [row(context, answer) for answer in (opening + tokens(3), opening + tokens(1), tokens(2))]
    # two turns of one trajectory, a tool reply between them
    two_turns = TokenRow(
        ids=prompt + start + feedback + opening,
        trained=(False,) * 12 + (True,) * 2 + (False,) * 5 + (True,) * 2,
    )
    other = [row(tokens(6), tokens(4)) for _ in range(2)]
    rows = [*explored, *recovered, two_turns, *other]
    return rows, [0] * 8 + [1] * 2


def row(prompt: tuple[int, ...], answer: tuple[int, ...]) -> TokenRow:
    return TokenRow(ids=prompt + answer, trained=(False,) * len(prompt) + (True,) * len(answer))


ROWS, FAMILY_OF = family_rows()
WIDTH = max(sum(row.trained) for row in ROWS)
MASK_BT = torch.arange(WIDTH)[None] < torch.tensor([sum(row.trained) for row in ROWS])[:, None]


def update_of(objective: Objective) -> dict[str, Any]:
    """Old log-probabilities far enough away that some ratios are clipped, and advantages of both signs."""
    generator = torch.Generator().manual_seed(1)
    return {
        "old_logprobs_BT": -4 + torch.randn(MASK_BT.shape, generator=generator, dtype=torch.float64),
        "advantages_B": torch.randn(len(ROWS), generator=generator, dtype=torch.float64),
        "weights_BT": token_weights(MASK_BT, objective.aggregation, max_tokens=9).double(),
    }


def by_micro_batches(
    model: Any, forests: Sequence[Family], objective: Objective, *, token_budget: int
) -> tuple[float, Tensor, dict[str, Tensor]]:
    """Loss, log-probabilities [B, T] and gradients as the trainer gets them."""
    update = {name: value.to(model.dtype) for name, value in update_of(objective).items()}
    model.zero_grad()
    loss = 0.0
    logprobs_BT = torch.zeros(MASK_BT.shape, dtype=model.dtype)
    scores = score(model, ROWS, forests, width=WIDTH, temperature=0.7, token_budget=token_budget, pad_id=0)
    for part in scores:
        rows = list(part.rows)
        part_loss = policy_loss(
            part.logprobs_BT, objective=objective, **{name: value[rows] for name, value in update.items()}
        )
        part_loss.backward()
        loss += part_loss.item()
        logprobs_BT[rows] = part.logprobs_BT.detach()
    return loss, logprobs_BT, gradients(model)


def by_hand(model: Any, objective: Objective) -> tuple[float, Tensor, dict[str, Tensor]]:
    """The same without any packing: one forward for each trajectory, the formula written out."""
    update = update_of(objective)
    model.zero_grad()
    loss = torch.zeros((), dtype=torch.float64)
    logprobs_BT = torch.zeros(MASK_BT.shape, dtype=torch.float64)
    for b, one in enumerate(ROWS):
        logprobs = naive_logprobs(model, one.ids, temperature=0.7)[list(one.trained[1:])].double()
        n = len(logprobs)
        ratio = torch.exp(logprobs - update["old_logprobs_BT"][b, :n])
        advantage = update["advantages_B"][b]
        clipped = ratio.clamp(1 - objective.clip_low, 1 + objective.clip_high)
        surrogate = torch.minimum(ratio * advantage, clipped * advantage)
        loss = loss - (update["weights_BT"][b, :n] * surrogate).sum()
        logprobs_BT[b, :n] = logprobs.detach()
    loss.backward()
    return loss.item(), logprobs_BT, gradients(model)


def gradients(model: Any) -> dict[str, Tensor]:
    assert all(parameter.grad is not None for parameter in model.parameters())
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same(
    one: tuple[float, Tensor, dict[str, Tensor]], other: tuple[float, Tensor, dict[str, Tensor]], tolerance: float
) -> None:
    """Loss, log-probabilities, and every gradient relative to the largest entry of its parameter."""
    assert one[0] == pytest.approx(other[0], rel=tolerance, abs=tolerance)
    torch.testing.assert_close(one[1].double(), other[1].double(), rtol=tolerance, atol=tolerance)
    for name, gradient in other[2].items():
        scale = gradient.abs().max().item()
        assert scale > 0, name
        torch.testing.assert_close(
            one[2][name].double(),
            gradient.double(),
            rtol=tolerance,
            atol=tolerance * scale,
            msg=lambda m, n=name: n + m,
        )


@pytest.mark.parametrize("objective", [GRPO, DAPO, DR_GRPO], ids=["grpo", "dapo", "dr_grpo"])
@pytest.mark.parametrize("family", FAMILIES)
def test_shared_prefixes_change_nothing_in_double_precision(family: str, objective: Objective) -> None:
    model = tiny_model(family, vocabulary=VOCABULARY, dtype=torch.float64)
    shared = by_micro_batches(model, share_prefixes(ROWS, FAMILY_OF), objective, token_budget=64)
    apart = by_micro_batches(model, separate(ROWS), objective, token_budget=64)
    assert_same(shared, apart, 1e-9)
    assert_same(shared, by_hand(model, objective), 1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_prefixes_change_nothing_but_rounding_in_single_precision(family: str) -> None:
    model = tiny_model(family, vocabulary=VOCABULARY)
    shared = by_micro_batches(model, share_prefixes(ROWS, FAMILY_OF), GRPO, token_budget=64)
    assert_same(shared, by_micro_batches(model, separate(ROWS), GRPO, token_budget=64), 1e-5)


@pytest.mark.parametrize("token_budget", [1, 60, 10_000])
def test_the_cut_into_micro_batches_changes_nothing(token_budget: int) -> None:
    model = tiny_model(vocabulary=VOCABULARY, dtype=torch.float64)
    whole = by_micro_batches(model, share_prefixes(ROWS, FAMILY_OF), GRPO, token_budget=10**6)
    assert_same(by_micro_batches(model, share_prefixes(ROWS, FAMILY_OF), GRPO, token_budget=token_budget), whole, 1e-9)


@settings(max_examples=25)
@given(SEQUENCES, st.randoms(use_true_random=False))
def test_any_forest_scores_like_separate_rows(sequences: list[list[int]], rng: Random) -> None:
    model = tiny_model(vocabulary=3, dtype=torch.float64)
    rows = [TokenRow(ids=tuple(ids), trained=(False, *(rng.random() < 0.6 for _ in ids[1:]))) for ids in sequences]
    forests = share_prefixes(rows, [rng.randrange(2) for _ in rows])
    with torch.no_grad():
        for part in score(model, rows, forests, width=7, temperature=1.0, token_budget=30, pad_id=0):
            for index, logprobs, entropy in zip(part.rows, part.logprobs_BT, part.entropy_BT, strict=True):
                distribution = model(torch.tensor([rows[index].ids])).logits[0].log_softmax(dim=-1)
                parents = [place - 1 for place, trained in enumerate(rows[index].trained) if trained]
                chosen = [rows[index].ids[parent + 1] for parent in parents]
                expected = distribution[parents, chosen]
                n = len(parents)
                torch.testing.assert_close(logprobs[:n], expected, rtol=1e-9, atol=1e-9)
                expected_entropy = -(distribution.exp() * distribution).sum(dim=-1)[parents]
                torch.testing.assert_close(entropy[:n], expected_entropy, rtol=1e-9, atol=1e-9)
                assert not logprobs[n:].any()
                assert not entropy[n:].any()


def test_a_row_does_not_feel_its_neighbours() -> None:
    """Changing one trajectory of a packed row changes no log-probability of another."""
    model = tiny_model(vocabulary=VOCABULARY, dtype=torch.float64)
    changed = [*ROWS]
    changed[2] = replace(ROWS[2], ids=(*ROWS[2].ids[:-3], 1, 2, 3))
    scores = {}
    for name, rows in (("as it was", ROWS), ("changed", changed)):
        with torch.no_grad():
            (part,) = score(
                model, rows, share_prefixes(rows, [0] * len(rows)), width=WIDTH, temperature=1, token_budget=1, pad_id=0
            )
        scores[name] = dict(zip(part.rows, part.logprobs_BT, strict=True))
    for index in range(len(ROWS)):
        same = torch.allclose(scores["as it was"][index], scores["changed"][index], rtol=0, atol=1e-12)
        assert same == (index != 2)
