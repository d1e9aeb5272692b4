"""The packed forest is exact: what a trajectory gets does not depend on what shares its row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tiny_policies import FAMILIES, naive_logprobs, tiny_model
from torch import Tensor

from fission_grpo.algorithm.losses import DAPO, DR_GRPO, GRPO, Objective, policy_loss, token_weights
from fission_grpo.errors import ConfigError
from fission_grpo.models.recomputation import recompute_layers
from fission_grpo.tree.logprobs import PackedGroup, score, separate, share_prefixes, token_scores
from fission_grpo.tree.prefix_tree import build_forest, joined, pack, split
from fission_grpo.tree.tree_attention import Shape, pieces
from fission_grpo.types import Distribution, TokenRow

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
    assert forest.unshared_tokens == sum(map(len, sequences))


@given(SEQUENCES)
def test_a_token_attends_to_itself_and_its_ancestors(sequences: list[list[int]]) -> None:
    forest = build_forest(sequences)
    expected = np.zeros((len(forest), len(forest)), dtype=bool)
    for node in range(len(forest)):
        ancestor = node
        while ancestor >= 0:
            expected[node, ancestor] = True
            ancestor = int(forest.parent_N[ancestor])
    assert np.array_equal(forest.attends(), expected)


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
        assert sum(sizes[index] for index in batch) <= budget or len(batch) == 1


@given(st.lists(SEQUENCES, min_size=1, max_size=4))
def test_joined_forests_do_not_see_each_other(groups: list[list[list[int]]]) -> None:
    forests = [build_forest(group) for group in groups]
    row = joined(forests)
    blocks = [forest.attends() for forest in forests]
    assert np.array_equal(row.attends(), block_diagonal(blocks))
    spelled = [row.ids_N[path].tolist() for path in row.paths]
    assert spelled == [sequence for group in groups for sequence in group]
    assert all(row.position_N[path].tolist() == list(range(len(path))) for path in row.paths)
    assert all(row.parent_N[path].tolist() == [-1, *path[:-1].tolist()] for path in row.paths)


def block_diagonal(blocks: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    size = sum(map(len, blocks))
    whole = np.zeros((size, size), dtype=bool)
    begin = 0
    for block in blocks:
        whole[begin : begin + len(block), begin : begin + len(block)] = block
        begin += len(block)
    return whole


@example([[0], *([0, branch, *[2] * 3] for branch in range(5))], 10)  # one ends where all others go on
@given(SEQUENCES, st.integers(1, 60))
def test_a_large_forest_is_cut_into_parts_that_fit(sequences: list[list[int]], budget: int) -> None:
    parts = split(build_forest(sequences), token_budget=budget)
    assert sorted(index for part in parts for index in part) == list(range(len(sequences)))
    limit = max(budget, 2 * max(map(len, sequences)))
    sizes = [len(build_forest([sequences[index] for index in part])) for part in parts]
    assert all(size <= limit for size in sizes)
    # Neighbours stay together as long as they fit: no two parts in a row could have been one.
    for first, second in pairwise(parts):
        assert len(build_forest([sequences[index] for index in (*first, *second)])) > limit


@given(SEQUENCES, st.integers(1, 60))
def test_what_fits_behind_its_prefix_stays_whole(sequences: list[list[int]], budget: int) -> None:
    forest = build_forest(sequences)
    limit = max(budget, 2 * max(map(len, sequences)))
    part_of = {index: n for n, part in enumerate(split(forest, token_budget=budget)) for index in part}
    for node in range(len(forest)):
        within = [index for index, path in enumerate(forest.paths) if node in path]
        if len(build_forest([sequences[index] for index in within])) <= limit:
            assert len({part_of[index] for index in within}) == 1


# A fission family: one prompt, explorations that share beginnings (two of them equal), a failed message with its
# feedback as given tokens, and recoveries from it; and a second task.


def family_rows() -> list[TokenRow]:
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
    return [*explored, *recovered, two_turns, *other]


def row(prompt: tuple[int, ...], answer: tuple[int, ...]) -> TokenRow:
    return TokenRow(ids=prompt + answer, trained=(False,) * len(prompt) + (True,) * len(answer))


ROWS = family_rows()
WIDTH = max(sum(row.trained) for row in ROWS)
MASK_BT = torch.arange(WIDTH)[None] < torch.tensor([sum(row.trained) for row in ROWS])[:, None]


def update_of(objective: Objective) -> dict[str, Any]:
    """Old log-probabilities far enough away that some ratios are clipped, and advantages of both signs."""
    generator = torch.Generator().manual_seed(1)
    return {
        "old_logprobs_BT": -4 + torch.randn(MASK_BT.shape, generator=generator, dtype=torch.float64),
        "advantages_BT": torch.randn(len(ROWS), 1, generator=generator, dtype=torch.float64),
        "weights_BT": token_weights(MASK_BT, objective.aggregation, max_tokens=9).double(),
    }


def by_micro_batches(
    model: Any, forests: Sequence[PackedGroup], objective: Objective, *, token_budget: int = 64
) -> tuple[float, Tensor, dict[str, Tensor]]:
    """Loss, log-probabilities [B, T] and gradients as the trainer gets them."""
    precision = torch.promote_types(model.dtype, torch.float32)
    update = {name: value.to(precision) for name, value in update_of(objective).items()}
    model.zero_grad()
    loss = 0.0
    logprobs_BT = torch.zeros(MASK_BT.shape, dtype=precision)
    scores = score(
        model, ROWS, forests, width=WIDTH, distribution=Distribution(temperature=0.7), token_budget=token_budget
    )
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
        advantage = update["advantages_BT"][b]
        clipped = ratio.clamp(1 - objective.clip_low, 1 + objective.clip_high)
        surrogate = torch.minimum(ratio * advantage, clipped * advantage)
        loss = loss - (update["weights_BT"][b, :n] * surrogate).sum()
        logprobs_BT[b, :n] = logprobs.detach()
    loss.backward()
    return loss.item(), logprobs_BT, gradients(model)


def gradients(model: Any) -> dict[str, Tensor]:
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(parameter.grad is not None for parameter in trained.values())
    return {name: parameter.grad.clone() for name, parameter in trained.items()}


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
    shared = by_micro_batches(model, share_prefixes(ROWS), objective, token_budget=64)
    apart = by_micro_batches(model, separate(ROWS), objective, token_budget=64)
    assert_same(shared, apart, 1e-9)
    assert_same(shared, by_hand(model, objective), 1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_prefixes_change_nothing_but_rounding_in_single_precision(family: str) -> None:
    model = tiny_model(family, vocabulary=VOCABULARY)
    shared = by_micro_batches(model, share_prefixes(ROWS), GRPO, token_budget=64)
    assert_same(shared, by_micro_batches(model, separate(ROWS), GRPO, token_budget=64), 1e-5)


@pytest.mark.parametrize("token_budget", [1, 60, 10_000])
def test_the_cut_into_micro_batches_changes_nothing(token_budget: int) -> None:
    model = tiny_model(vocabulary=VOCABULARY, dtype=torch.float64)
    whole = by_micro_batches(model, share_prefixes(ROWS), GRPO, token_budget=10**6)
    assert_same(by_micro_batches(model, share_prefixes(ROWS), GRPO, token_budget=token_budget), whole, 1e-9)


def test_a_shared_prefix_that_is_computed_again_is_counted_again() -> None:
    # A prompt of 10 and six answers of 10: 70 nodes. A part holds twice the longest path, 40: three answers each.
    rows = [row((1,) * 10, (answer,) * 10) for answer in range(2, 8)]
    model = tiny_model(vocabulary=VOCABULARY)
    computed = []
    for token_budget in (100, 1):
        parts = score(
            model, rows, share_prefixes(rows), width=10, distribution=Distribution(), token_budget=token_budget
        )
        computed.append([part.computed for part in parts])
    assert computed == [[70], [40, 40]]


def forgetful(kind: str) -> Any:
    """A policy with dropout, which evaluation mode keeps off; with or without an adapter."""
    model = tiny_model("qwen3", vocabulary=VOCABULARY, dtype=torch.float64)
    for layer in model.get_decoder().layers:
        layer.self_attn.attention_dropout = 0.5
    if kind == "full":
        return model
    shape = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, lora_dropout=0.5)
    return get_peft_model(model, shape).double().eval()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("shared", [True, False], ids=["tree", "rows"])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_recomputed_layers_give_the_same_gradients_bit_for_bit(kind: str, shared: bool) -> None:
    model, calls = forgetful(kind), []
    forests = share_prefixes(ROWS) if shared else separate(ROWS)
    kept = by_micro_batches(model, forests, GRPO)
    model.get_decoder().layers[1].self_attn.register_forward_hook(lambda *_: calls.append(1))
    by_micro_batches(model, forests, GRPO)
    once = len(calls)
    recompute_layers(model)
    again = by_micro_batches(model, forests, GRPO)
    assert len(calls) == once + 2 * once
    assert not any(module.training for module in model.modules())
    assert again[0] == kept[0]
    assert torch.equal(again[1], kept[1])
    assert all(torch.equal(gradient, kept[2][name]) for name, gradient in again[2].items())


def test_recomputed_rows_remember_their_trees_until_the_backward_pass() -> None:
    gradients_of = []
    for recomputed in (False, True):
        model = tiny_model("llama", vocabulary=VOCABULARY, dtype=torch.float64)
        if recomputed:
            recompute_layers(model)
        parts = list(
            score(model, ROWS, share_prefixes(ROWS), width=WIDTH, distribution=Distribution(), token_budget=40)
        )
        assert len(parts) > 1
        # All rows are read before the first of them is computed again.
        sum(part.logprobs_BT.sum() for part in parts).backward()
        gradients_of.append(gradients(model))
    assert all(torch.equal(gradient, gradients_of[0][name]) for name, gradient in gradients_of[1].items())


def test_recomputed_layers_keep_little_for_the_backward_pass() -> None:
    kept = {}
    for recomputed in (False, True):
        model = tiny_model("qwen3", vocabulary=VOCABULARY)
        if recomputed:
            recompute_layers(model)
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t.nbytes) or t, lambda t: t):
            forest = share_prefixes(ROWS)
            list(score(model, ROWS, forest, width=WIDTH, distribution=Distribution(), token_budget=10_000))
        kept[recomputed] = sum(saved)
    assert kept[True] < kept[False] / 4


def test_a_model_without_layers_to_recompute_is_refused() -> None:
    model = tiny_model("llama")
    model.model.layers = torch.nn.ModuleList()
    with pytest.raises(ConfigError, match="llama has no layers that transformers can checkpoint"):
        recompute_layers(model)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_shared_prefixes_change_no_gradient_of_an_adapter() -> None:
    model = get_peft_model(
        tiny_model("qwen3", vocabulary=VOCABULARY, dtype=torch.float64),
        LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False),
    )
    model.double().eval()
    shared = by_micro_batches(model, share_prefixes(ROWS), DAPO, token_budget=64)
    assert len(shared[2]) == 2 * 2 * 3  # two matrices for each of three layers of two blocks
    assert_same(shared, by_micro_batches(model, separate(ROWS), DAPO, token_budget=64), 1e-9)


def test_half_precision_is_as_close_to_the_truth_on_the_tree_as_in_separate_rows() -> None:
    truth = by_micro_batches(double := tiny_model(vocabulary=VOCABULARY, dtype=torch.float64), separate(ROWS), GRPO)
    errors = {}
    for name, forests in (("tree", share_prefixes(ROWS)), ("rows", separate(ROWS))):
        half = by_micro_batches(tiny_model(vocabulary=VOCABULARY, dtype=torch.bfloat16), forests, GRPO)
        errors[name] = sum((half[2][n].double() - gradient).norm().item() for n, gradient in truth[2].items())
        torch.testing.assert_close(half[1], truth[1], rtol=0.05, atol=0.2, check_dtype=False)
    assert len(truth[2]) == len(list(double.parameters()))
    assert errors["tree"] < 1.25 * errors["rows"]


@pytest.mark.parametrize("logits_at_once", [1, 5 * 40, 10**6])
def test_the_head_in_slices_gives_the_same_scores_and_gradients(logits_at_once: int) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 40, bias=False, dtype=torch.float64)
    hidden = torch.randn(17, 6, dtype=torch.float64, requires_grad=True)
    token, weight = torch.randint(40, (17,)), torch.randn(17, dtype=torch.float64)
    distribution = (head(hidden) / 0.7).log_softmax(dim=-1)
    expected = distribution[torch.arange(17), token]
    expected_gradients = torch.autograd.grad(expected @ weight, (hidden, head.weight))
    logprob, entropy = token_scores(head, hidden, token, Distribution(temperature=0.7), logits_at_once=logits_at_once)
    torch.testing.assert_close(logprob, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(entropy, -(distribution.exp() * distribution).sum(-1), rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(logprob @ weight, (hidden, head.weight))
    for one, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_the_head_in_slices_keeps_no_logits_for_the_backward_pass() -> None:
    head, hidden = torch.nn.Linear(6, 1000, bias=False), torch.randn(64, 6, requires_grad=True)
    kept = {}
    for name, at_once in (("slices", 4000), ("whole", 10**6)):
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t.numel()) or t, lambda t: t):
            token_scores(head, hidden, torch.zeros(64, dtype=torch.long), Distribution(), logits_at_once=at_once)
        kept[name] = sum(size for size in saved if size != head.weight.numel())
    assert kept["whole"] >= 64 * 1000
    assert kept["slices"] < 4000


def gradient_of(
    model: Any, rows: Sequence[TokenRow], forests: Sequence[PackedGroup], objective: Objective, *, token_budget: int
) -> dict[str, Tensor]:
    """Of an update whose advantages and old log-probabilities differ from row to row."""
    width = max(sum(row.trained) for row in rows)
    mask_BT = torch.arange(width)[None] < torch.tensor([sum(row.trained) for row in rows])[:, None]
    weights_BT = token_weights(mask_BT, objective.aggregation, max_tokens=width).double()
    advantages_BT = torch.linspace(-1, 2, len(rows), dtype=torch.float64)[:, None]
    old_BT = torch.linspace(-5, -1, len(rows), dtype=torch.float64)[:, None].expand(-1, width)
    model.zero_grad()
    for part in score(
        model, rows, forests, width=width, distribution=Distribution(temperature=0.8), token_budget=token_budget
    ):
        members = list(part.rows)
        policy_loss(
            part.logprobs_BT,
            old_logprobs_BT=old_BT[members],
            advantages_BT=advantages_BT[members],
            weights_BT=weights_BT[members],
            objective=objective,
        ).backward()
    return gradients(model)


def assert_same_gradients(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    for name, gradient in other.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(one[name], gradient, rtol=1e-9, atol=1e-9 * max(scale, 1e-3))


@settings(max_examples=15)
@given(SEQUENCES, st.randoms(use_true_random=False), st.sampled_from([GRPO, DAPO, DR_GRPO]), st.integers(1, 40))
def test_any_forest_has_the_gradients_of_separate_rows(
    sequences: list[list[int]], rng: Random, objective: Objective, token_budget: int
) -> None:
    model = tiny_model("qwen3", vocabulary=3, dtype=torch.float64)
    rows = [TokenRow(ids=(0, *ids), trained=(False, True, *(rng.random() < 0.6 for _ in ids[1:]))) for ids in sequences]
    shared = share_prefixes(rows)
    one = gradient_of(model, rows, shared, objective, token_budget=token_budget)
    assert_same_gradients(one, gradient_of(model, rows, separate(rows), objective, token_budget=10_000))


@pytest.mark.parametrize("family, objective", [*zip(FAMILIES, [GRPO, DAPO, DR_GRPO], strict=True)], ids=FAMILIES)
def test_a_tree_of_many_pieces_has_the_gradients_of_separate_rows(family: str, objective: Objective) -> None:
    rng = Random(4)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(VOCABULARY) for _ in range(count))

    prompt, failed, feedback = tokens(450), tokens(60), tokens(30)
    rows = [row(prompt, answer) for answer in (failed, tokens(20), failed[:10] + tokens(50))]
    rows += [row(prompt + failed + feedback, tokens(40)) for _ in range(3)]
    forests = share_prefixes(rows)
    assert {piece.shape for piece in pieces(forests[0][0], tile=128)} == {Shape.CAUSAL, Shape.ALL, Shape.MASKED}
    model = tiny_model(family, vocabulary=VOCABULARY, dtype=torch.float64)
    one = gradient_of(model, rows, forests, objective, token_budget=4096)
    assert_same_gradients(one, gradient_of(model, rows, separate(rows), objective, token_budget=600))


@settings(max_examples=25)
@given(SEQUENCES, st.randoms(use_true_random=False))
def test_any_forest_scores_like_separate_rows(sequences: list[list[int]], rng: Random) -> None:
    model = tiny_model(vocabulary=3, dtype=torch.float64)
    rows = [TokenRow(ids=tuple(ids), trained=(False, *(rng.random() < 0.6 for _ in ids[1:]))) for ids in sequences]
    forests = share_prefixes(rows)
    with torch.no_grad():
        for part in score(model, rows, forests, width=7, distribution=Distribution(), token_budget=30):
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
                model, rows, share_prefixes(rows), width=WIDTH, distribution=Distribution(), token_budget=1000
            )
        scores[name] = dict(zip(part.rows, part.logprobs_BT, strict=True))
    for index in range(len(ROWS)):
        same = torch.allclose(scores["as it was"][index], scores["changed"][index], rtol=0, atol=1e-12)
        assert same == (index != 2)
