"""Tree attention computes what one dense mask would, and models that cannot take part are refused."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_policies import tiny_model
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn.attention.flex_attention import create_block_mask
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from fission_grpo.errors import ConfigError
from fission_grpo.tree import tree_attention
from fission_grpo.tree.logprobs import score, separate, share_prefixes
from fission_grpo.tree.prefix_tree import Forest, build_forest, joined
from fission_grpo.tree.tree_attention import (
    BlockAttention,
    DenseAttention,
    PiecewiseAttention,
    Shape,
    block_mask,
    compiled_flex,
    pieces,
    read_forest,
    sharing_obstacle,
    whole_blocks,
)
from fission_grpo.types import Distribution, TokenRow

CPU = torch.device("cpu")
SEQUENCES = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=9), min_size=1, max_size=8)
TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def long_family() -> Forest:
    """A prompt, branches longer than a tile and shorter ones, and a second level; two such trees in one row."""
    rng = Random(5)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(50) for _ in range(count)]

    prompt, failed = tokens(70), tokens(40)
    sequences = [prompt + tokens(n) for n in (3, 9, 60)] + [prompt + failed + tokens(n) for n in (5, 30)]
    return joined([build_forest(sequences), build_forest([tokens(12), tokens(90)])])


def states(forest: Forest, dtype: torch.dtype, head_dim: int = 8) -> list[Tensor]:
    """Queries of 4 heads, keys and values of 2."""
    generator = torch.Generator().manual_seed(2)
    return [
        torch.randn(1, heads, len(forest), head_dim, generator=generator, dtype=torch.float64)
        .to(dtype)
        .requires_grad_()
        for heads in (4, 2, 2)
    ]


@given(SEQUENCES, SEQUENCES, st.sampled_from([1, 2, 5, 100]))
def test_every_pair_of_a_token_and_its_ancestor_is_in_one_piece(
    one: list[list[int]], other: list[list[int]], tile: int
) -> None:
    forest = joined([build_forest(one), build_forest(other)])
    times = torch.zeros(len(forest), len(forest), dtype=torch.int)
    for piece in pieces(forest, tile=tile):
        block = torch.ones(piece.end - piece.begin, piece.key_end - piece.key_begin, dtype=torch.int)
        if piece.shape is Shape.CAUSAL:
            block = block.tril()
        elif piece.shape is Shape.MASKED:
            assert piece.end - piece.begin <= tile
            block = torch.from_numpy(forest.attends(piece.begin, piece.end)).int()
        times[piece.begin : piece.end, piece.key_begin : piece.key_end] += block
    assert torch.equal(times, torch.from_numpy(forest.attends()).int())


def test_pieces_of_a_prompt_and_its_answers() -> None:
    # 600 prompt tokens, then 8 answers of 64: the answers share one masked square of 512.
    forest = build_forest([[1] * 600 + [2 + answer] * 64 for answer in range(8)])
    assert [(p.begin, p.end, p.key_begin, p.key_end, p.shape) for p in pieces(forest, tile=512)] == [
        (0, 600, 0, 600, Shape.CAUSAL),
        (600, 1112, 600, 1112, Shape.MASKED),
        (600, 1112, 0, 600, Shape.ALL),
    ]


@pytest.mark.parametrize("tile", [1, 16, 512])
@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 3e-2)], ids=str
)
def test_piecewise_attention_and_its_gradients_are_those_of_a_dense_mask(
    tile: int, dtype: torch.dtype, tolerance: float
) -> None:
    forest = long_family()
    inputs = states(forest, dtype)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    output = PiecewiseAttention(forest, dtype=dtype, device=CPU, tile=tile)(*inputs, 0.35)
    expected = DenseAttention(forest, dtype=torch.float64, device=CPU)(*exact, 0.35)
    torch.testing.assert_close(output.double(), expected, rtol=tolerance, atol=tolerance)
    towards = torch.randn(output.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    output.backward(towards.to(dtype))
    expected.backward(towards)
    for one, other in zip(inputs, exact, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        scale = other.grad.abs().max().item()
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=tolerance, atol=tolerance * scale)


@settings(max_examples=20)
@given(SEQUENCES)
def test_the_block_mask_of_flex_attention_is_the_forest(sequences: list[list[int]]) -> None:
    forest = build_forest(sequences)
    sees = block_mask(forest, CPU).mask_mod
    zero, index = torch.tensor(0), torch.arange(len(forest))
    seen = sees(zero, zero, index[:, None], index[None, :])
    assert torch.equal(seen, torch.from_numpy(forest.attends()))


def test_blocks_that_nobody_sees_are_skipped() -> None:
    # Two branches of 256 behind 128: of 5 x 5 blocks, each of the later four sees the shared prefix and its own branch.
    forest = build_forest([[1] * 128 + [2] * 256, [1] * 128 + [3] * 256])
    blocks = block_mask(forest, CPU).to_dense()[0, 0]
    assert blocks.tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 0, 0, 1, 0],
        [1, 0, 0, 1, 1],
    ]


def bushy(seed: int) -> Forest:
    """A long shared prefix, and branches that begin and end anywhere within a block."""
    rng = Random(seed)
    sequences = [[rng.randrange(50) for _ in range(rng.randrange(300, 500))]]
    for _ in range(7):
        stem = rng.choice(sequences)
        kept = stem[: rng.randrange(250, len(stem) + 1)]
        sequences.append(kept + [rng.randrange(50) for _ in range(rng.randrange(1, 200))])
    return joined([build_forest(sequences), build_forest([[1] * 40, [2] * 30])])


@pytest.mark.parametrize("seed", range(8))
def test_blocks_are_those_found_by_looking_at_every_pair(seed: int) -> None:
    forest = whole_blocks(bushy(seed))
    ours = block_mask(forest, CPU)
    looked_up = create_block_mask(ours.mask_mod, None, None, len(forest), len(forest), device="cpu")
    for one, other in zip(ours.as_tuple(), looked_up.as_tuple(), strict=True):
        if isinstance(one, Tensor):
            assert torch.equal(one, other)
        elif not callable(one):
            assert one == other
    assert int(ours.full_kv_num_blocks.sum()) > 0


@pytest.mark.parametrize("tokens, filled", [(1, 256), (256, 256), (257, 384)])
def test_a_row_is_filled_to_whole_blocks(tokens: int, filled: int) -> None:
    row = whole_blocks(build_forest([[1] * tokens]))
    assert len(row) == filled
    attends = row.attends()
    assert not attends[:tokens, tokens:].any()
    assert np.array_equal(attends[tokens:], np.eye(filled, dtype=bool)[tokens:])


def test_a_filled_row_is_read_as_before() -> None:
    decoder = tiny_model("qwen3", dtype=torch.float64).get_decoder()
    forest = long_family()
    whole = read_forest(decoder, whole_blocks(forest), dtype=torch.float64, device=CPU)[: len(forest)]
    torch.testing.assert_close(
        whole, read_forest(decoder, forest, dtype=torch.float64, device=CPU), rtol=1e-12, atol=1e-12
    )


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_computes_what_a_dense_mask_does() -> None:
    forest = long_family()
    inputs = [tensor.detach() for tensor in states(forest, torch.float32)]
    output = BlockAttention(forest, dtype=torch.float32, device=CPU)(*inputs, 0.35)
    expected = DenseAttention(forest, dtype=torch.float32, device=CPU)(*inputs, 0.35)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


def test_rows_of_any_length_are_one_compilation() -> None:
    # Traced as for CUDA, run without its kernels.
    kernel = compiled_flex("eager")
    counters.clear()
    for seed in range(4):
        forest = whole_blocks(bushy(seed))
        inputs = [tensor.detach() for tensor in states(forest, torch.float32)]
        output = kernel(*inputs, block_mask=block_mask(forest, CPU), scale=0.35, enable_gqa=True)
        expected = DenseAttention(forest, dtype=torch.float32, device=CPU)(*inputs, 0.35)
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    assert len({len(whole_blocks(bushy(seed))) for seed in range(4)}) > 2
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-3), (torch.bfloat16, 3e-2)], ids=str)
def test_compiled_attention_and_its_gradients_are_those_of_a_dense_mask(
    dtype: torch.dtype, tolerance: float, head_dim: int
) -> None:
    cuda = torch.device("cuda")
    for seed in range(3):
        forest = whole_blocks(bushy(seed))
        inputs = [tensor.detach().to(cuda).requires_grad_() for tensor in states(forest, dtype, head_dim)]
        exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
        output = BlockAttention(forest, dtype=dtype, device=cuda)(*inputs, 0.35)
        expected = DenseAttention(forest, dtype=torch.float64, device=cuda)(*exact, 0.35)
        torch.testing.assert_close(output.double(), expected, rtol=tolerance, atol=tolerance)
        towards = torch.randn(output.shape, device=cuda, dtype=torch.float64)
        output.backward(towards.to(dtype))
        expected.backward(towards)
        for one, other in zip(inputs, exact, strict=True):
            scale = other.grad.abs().max().item()
            torch.testing.assert_close(one.grad.double(), other.grad, rtol=tolerance, atol=tolerance * scale)


def test_a_model_reads_other_text_as_before() -> None:
    model = tiny_model("qwen3")
    ids = torch.arange(12)[None]
    before = model(ids).logits
    read_forest(model.get_decoder(), build_forest([[1, 2, 3]]), dtype=model.dtype, device=CPU)
    assert torch.equal(model(ids).logits, before)


def test_under_autocast_a_forest_is_attended_in_the_narrow_type_as_other_text_is() -> None:
    """Rotated in float32, queries and keys are wider than the values; 8 bits of bfloat16 leave about a percent."""
    model = tiny_model("qwen3")
    ids = list(range(12))
    read: list[torch.dtype] = []
    attention = model.model.layers[0].self_attn.o_proj
    attention.register_forward_pre_hook(lambda _, given: read.append(given[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        expected = model.model(torch.tensor([ids])).last_hidden_state[0]
        found = read_forest(model.model, build_forest([ids, ids[:5]]), dtype=model.dtype, device=CPU)
    assert read == [torch.bfloat16, torch.bfloat16]
    assert (found - expected).norm() / expected.norm() < 2e-2


# Models that cannot share, and models whose head is not the last word.


def sliding_qwen() -> Any:
    config = Qwen2Config(**TINY, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    return Qwen2ForCausalLM(config).double().eval()


@pytest.mark.parametrize(
    "config, reason",
    [
        (sliding_qwen().config, "layers of type sliding_attention"),
        (MistralConfig(**TINY, sliding_window=4), "sliding window of 4 tokens"),
        (Gemma2Config(**TINY), "layers of type sliding_attention"),
        (Gemma2Config(**TINY, layer_types=["full_attention"] * 2), "caps its attention scores"),
    ],
    ids=["qwen2", "mistral", "gemma2", "gemma2 full"],
)
def test_what_cannot_be_shared_exactly_is_named(config: Any, reason: str) -> None:
    classes = {"qwen2": Qwen2ForCausalLM, "mistral": MistralForCausalLM, "gemma2": Gemma2ForCausalLM}
    assert reason in (sharing_obstacle(classes[config.model_type](config)) or "")


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_full_attention_is_not_refused(family: str) -> None:
    assert sharing_obstacle(tiny_model(family)) is None


def test_a_model_with_a_sliding_window_reads_separate_rows_and_refuses_shared_ones() -> None:
    model = sliding_qwen()
    rows = [TokenRow(ids=(*range(8), last), trained=(False,) * 6 + (True,) * 3) for last in (20, 21)]
    settings = {"width": 3, "distribution": Distribution(), "token_budget": 100}
    with pytest.raises(ValueError, match="layers of type sliding_attention; score separate rows"):
        next(score(model, rows, share_prefixes(rows), **settings))
    (part,) = score(model, rows, separate(rows), **settings)
    for index, logprobs in zip(part.rows, part.logprobs_BT, strict=True):
        ids = torch.tensor(rows[index].ids)
        expected = model(ids[None]).logits[0, 5:8].log_softmax(dim=-1).gather(1, ids[6:, None])[:, 0]
        torch.testing.assert_close(logprobs.double(), expected, rtol=1e-6, atol=1e-6)


class Llama(LlamaForCausalLM):
    """Does something around its head that no setting names."""

    def __init__(self, *, before: float = 1.0, after: Callable[[Tensor], Tensor] = lambda logits: logits) -> None:
        super().__init__(LlamaConfig(**TINY))
        self.before, self.after = before, after

    def forward(self, input_ids: Tensor, **settings: Any) -> Any:
        read = self.model(input_ids, **settings)
        logits = self.after(self.lm_head(read.last_hidden_state * self.before))
        return CausalLMOutputWithPast(logits=logits)


def scored(model: Any) -> None:
    rows = [TokenRow(ids=(1, 2, 3), trained=(False, True, True))]
    next(score(model, rows, separate(rows), width=2, distribution=Distribution(), token_budget=10))


WITHOUT_HEAD_DIM = {name: value for name, value in TINY.items() if name != "head_dim"}


@pytest.mark.parametrize(
    "model",
    [
        Gemma2ForCausalLM(Gemma2Config(**TINY)),
        CohereForCausalLM(CohereConfig(**WITHOUT_HEAD_DIM, logit_scale=0.0625)),
        GraniteForCausalLM(GraniteConfig(**WITHOUT_HEAD_DIM, logits_scaling=8.0)),
        Llama(after=lambda logits: 1e4 * torch.tanh(logits / 1e4)),
        Llama(after=lambda logits: logits.mul_(0.999)),
        Llama(before=0.5),
    ],
    ids=["gemma2", "cohere", "granite", "weak cap", "scaled in place", "scaled before"],
)
def test_logits_that_are_changed_around_the_head_are_refused(model: Any) -> None:
    with pytest.raises(ConfigError, match="caps or scales its logits"):
        scored(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_model_whose_passes_round_differently_is_accepted(dtype: torch.dtype) -> None:
    # Kernels of a GPU may: no two passes of this one are the same.
    model = Llama().to(dtype)
    model.model.norm.register_forward_hook(lambda _, __, hidden: hidden + 0.1 * torch.randn_like(hidden))
    scored(model)


def test_a_decoder_whose_layers_do_not_listen_is_refused() -> None:
    decoder = tiny_model("llama").get_decoder()
    decoder.config.num_hidden_layers = 3
    decoder.layers.append(torch.nn.Identity())
    decoder.layers[2].forward = lambda hidden, **_: hidden
    with pytest.raises(ValueError, match="2 of 3 layers of LlamaModel attended along the tree"):
        read_forest(decoder, build_forest([[1, 2], [1, 3]]), dtype=torch.float32, device=CPU)


def test_other_devices_take_a_dense_mask() -> None:
    forest = build_forest([[1, 2], [1, 3]])
    made = tree_attention.tree_attention(forest, dtype=torch.float32, device=torch.device("meta"))
    assert isinstance(made, DenseAttention)
