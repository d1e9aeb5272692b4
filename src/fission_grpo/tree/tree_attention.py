"""How the tokens of a packed forest attend: each to itself and its ancestors, and nothing is computed in between.

A dense mask of L x L numbers for a forest of L nodes costs memory that grows with the square, and its kernel reads the
prompt against every branch although only the reverse is asked for. Depth-first order does better. The descendants of a
run of tokens without a branch lie side by side right behind it, so a tree is made of rectangles without any mask:

    the run against itself, causally          ▙
    everything below it against all of it      █
    and so on for every tree below it; small neighbours share one small masked square

Softmax over several key ranges is exact: each piece yields its output and the logarithm of its normaliser, from which
both the sum and, in the backward pass, every piece's own gradient follow (as in ring attention, arXiv:2310.01889).

On CUDA the same structure is a block mask for FlexAttention; on any other device a dense mask.

Shapes: H query heads, K key/value heads, L nodes, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from fission_grpo.tree.prefix_tree import Forest, IntArray, additive, joined, padding

Bools: TypeAlias = NDArray[np.bool_]
TreeAttention: TypeAlias = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""(query_1HLD, key_1KLD, value_1KLD, scale) -> output_1HLD."""

_TILE = 128
"""Subtrees up to this many nodes are one masked square: fewer kernel calls. Larger squares waste more than they save:
with 512, 50 rows of 60 tokens took 2.5 times as long."""
_BLOCK = 128
"""Queries and keys of one block of FlexAttention: its default, and the unit of its kernels."""
_NAME = "fission_tree"
_UNSHARED = ("sliding_window", "softcap", "s_aux", "position_bias")
"""What other attention functions honour, and a tree kernel here does not."""
_FEW = 32
"""Queries of a row, at most, whose mask is repeated for every group of heads; with more, the arithmetic outweighs what
that saves."""


class Shape(Enum):
    """Which keys of a piece its queries see."""

    CAUSAL = auto()
    ALL = auto()
    MASKED = auto()


@dataclass(frozen=True, slots=True)
class Piece:
    """Queries `begin .. end - 1` against keys `key_begin .. key_end - 1`."""

    begin: int
    end: int
    key_begin: int
    key_end: int
    shape: Shape


def pieces(forest: Forest, *, tile: int) -> list[Piece]:
    """Rectangles that cover every (token, ancestor) pair once, and no pair twice.

    The first piece of each query holds the query itself.

    Args:
        tile: most nodes of a masked square.
    """
    end_N = forest.subtree_end_N
    found: list[Piece] = []
    spans = [(0, len(forest))]
    while spans:
        begin, end = spans.pop()
        for first, last in _gather(end_N, begin, end, tile):
            run = _run_end(forest, first, last)
            if run == last:
                found.append(Piece(first, last, first, last, Shape.CAUSAL))
            elif last - first <= tile:
                found.append(Piece(first, last, first, last, Shape.MASKED))
            else:
                found.append(Piece(first, run, first, run, Shape.CAUSAL))
                found.append(Piece(run, last, first, run, Shape.ALL))
                spans.append((run, last))
    return sorted(found, key=lambda piece: piece.shape is Shape.ALL)


def _gather(end_N: Any, begin: int, end: int, tile: int) -> Iterator[tuple[int, int]]:
    """The sibling subtrees of a span; neighbours that fit into one tile together."""
    first = begin
    while first < end:
        last = int(end_N[first])
        while last < end and int(end_N[last]) - first <= tile:
            last = int(end_N[last])
        yield first, last
        first = last


def _run_end(forest: Forest, first: int, last: int) -> int:
    """Where the unbranched run that starts at `first` ends."""
    nodes = np.arange(first + 1, last)
    single = forest.parent_N[nodes] == nodes - 1
    single &= forest.subtree_end_N[nodes] == forest.subtree_end_N[first]
    return last if single.all() else first + 1 + int(single.argmin())


class PiecewiseAttention:
    """A forest's attention piece by piece: the path of a CPU, in any floating type."""

    def __init__(self, forest: Forest, *, dtype: torch.dtype, device: torch.device, tile: int = _TILE) -> None:
        self.pieces = [
            (piece, _square(forest, piece, dtype, device) if piece.shape is Shape.MASKED else None)
            for piece in pieces(forest, tile=tile)
        ]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        output: Tensor = _Piecewise.apply(query, key, value, self.pieces, scale)  # type: ignore[no-untyped-call]
        return output


def _square(forest: Forest, piece: Piece, dtype: torch.dtype, device: torch.device) -> Tensor:
    return additive(torch.from_numpy(forest.attends(piece.begin, piece.end)).to(device)[None, None], dtype)


class _Piecewise(torch.autograd.Function):
    """Softmax attention whose keys come in pieces."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, parts: list[tuple[Piece, Tensor | None]], scale: float
    ) -> Tensor:
        wide = torch.promote_types(query.dtype, torch.float32)
        output = query.new_empty(query.shape, dtype=wide)
        logsum = query.new_empty(query.shape[:3], dtype=wide)
        for piece, mask in parts:
            at, keys = slice(piece.begin, piece.end), slice(piece.key_begin, piece.key_end)
            part, part_logsum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                query[:, :, at],
                key[:, :, keys],
                value[:, :, keys],
                0.0,
                piece.shape is Shape.CAUSAL,
                attn_mask=mask,
                scale=scale,
            )
            if piece.shape is not Shape.ALL:
                output[:, :, at], logsum[:, :, at] = part, part_logsum
                continue
            total = torch.logaddexp(logsum[:, :, at], part_logsum)
            output[:, :, at] *= (logsum[:, :, at] - total).exp()[..., None]
            output[:, :, at] += part * (part_logsum - total).exp()[..., None]
            logsum[:, :, at] = total
        output = output.to(query.dtype)
        ctx.save_for_backward(query, key, value, output, logsum)
        ctx.parts, ctx.scale = parts, scale
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (grad_output,) = gradients
        query, key, value, output, logsum = ctx.saved_tensors
        grads = [torch.zeros_like(tensor, dtype=logsum.dtype) for tensor in (query, key, value)]
        for piece, mask in ctx.parts:
            at, keys = slice(piece.begin, piece.end), slice(piece.key_begin, piece.key_end)
            # Probabilities are rebuilt with the normaliser over all pieces, so the parts simply add up.
            parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad_output[:, :, at],
                query[:, :, at],
                key[:, :, keys],
                value[:, :, keys],
                output[:, :, at],
                logsum[:, :, at],
                0.0,
                piece.shape is Shape.CAUSAL,
                attn_mask=mask,
                scale=ctx.scale,
            )
            for whole, part, where in zip(grads, parts, (at, keys, keys), strict=True):
                whole[:, :, where] += part
        return *(g.to(t.dtype) for g, t in zip(grads, (query, key, value), strict=True)), None, None


class BlockAttention:
    """A forest's attention through FlexAttention, which skips the blocks that nobody sees: the path of CUDA.

    A row of `whole_blocks` is compiled once for all lengths.
    """

    def __init__(self, forest: Forest, *, dtype: torch.dtype, device: torch.device) -> None:
        self.mask = block_mask(forest, device)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        uncompiled: Any = flex_attention
        kernel = compiled_flex() if query.is_cuda else uncompiled
        output: Tensor = kernel(query, key, value, block_mask=self.mask, scale=scale, enable_gqa=True)
        return output


def block_mask(forest: Forest, device: torch.device) -> BlockMask:
    """Which blocks of queries and keys meet, and what is seen inside of them.

    Read off the tree, block by block: `create_block_mask` would look at every pair of tokens, and uncompiled keep them
    all in memory (3.6 GB at 60 000 tokens).
    """
    length = len(forest)
    end_N = torch.from_numpy(forest.subtree_end_N).to(device, torch.int32)

    def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < end_N[key])

    partial, full = _meeting_blocks(forest.subtree_end_N)
    return BlockMask.from_kv_blocks(
        *_listed(partial, device),
        *_listed(full, device),
        BLOCK_SIZE=_BLOCK,
        mask_mod=sees,
        seq_lengths=(length, length),
    )


def _meeting_blocks(end_N: IntArray) -> tuple[Bools, Bools]:
    """[query blocks, key blocks]: where some pair of tokens sees each other, and where every pair does."""
    blocks = -(-len(end_N) // _BLOCK)
    alone = np.arange(len(end_N), blocks * _BLOCK) + 1  # a ragged end sees itself
    end_BK = np.concatenate([end_N, alone]).reshape(blocks, _BLOCK)
    block = np.arange(blocks)
    first_query, last_query = block[:, None] * _BLOCK, block[:, None] * _BLOCK + _BLOCK - 1
    some = (block[None] <= block[:, None]) & (end_BK.max(axis=1)[None] > first_query)
    every = (block[None] < block[:, None]) & (end_BK.min(axis=1)[None] > last_query)
    return some & ~every, every


def _listed(meets: Bools, device: torch.device) -> tuple[Tensor, Tensor]:
    """How many key blocks each query block meets, [1, 1, blocks], and which, named first, [1, 1, blocks, blocks]."""
    order = np.argsort(~meets, axis=1, kind="stable")
    count, which = (torch.from_numpy(x.astype(np.int32)).to(device)[None, None] for x in (meets.sum(axis=1), order))
    return count, which


def whole_blocks(forest: Forest) -> Forest:
    """A forest filled up with padding to whole blocks, at least two.

    With a ragged end FlexAttention checks bounds everywhere; one block alone is another kernel and another compilation.
    """
    length = max(-(-len(forest) // _BLOCK), 2) * _BLOCK
    return joined([forest, padding(length - len(forest))])


@cache
def compiled_flex(backend: str = "inductor") -> Callable[..., Tensor]:
    """FlexAttention compiled once for rows of any length; a second time if the first row has as many blocks as there
    are heads, since torch takes equal sizes for one and the same.

    With static shapes each length would be compiled anew, and after eight of them (or wherever the graph breaks) torch
    would go on without compilation, with all L x L scores in memory: a whole graph is demanded instead.
    """
    return torch.compile(flex_attention, dynamic=True, fullgraph=True, backend=backend)


class DenseAttention:
    """A forest's attention as one L x L mask: any device, and what the others must equal."""

    def __init__(self, forest: Forest, *, dtype: torch.dtype, device: torch.device) -> None:
        self.mask = additive(torch.from_numpy(forest.attends()).to(device)[None, None], dtype)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        return scaled_dot_product_attention(query, key, value, attn_mask=self.mask, scale=scale)


_BY_DEVICE: Mapping[str, Callable[..., TreeAttention]] = MappingProxyType(
    {"cpu": PiecewiseAttention, "cuda": BlockAttention}
)


def tree_attention(forest: Forest, *, dtype: torch.dtype, device: torch.device) -> TreeAttention:
    """The fastest exact attention for a forest on a device."""
    return _BY_DEVICE.get(device.type, DenseAttention)(forest, dtype=dtype, device=device)


class ForestPass:
    """A forest on its way through a decoder: it reaches every attention layer, and counts who used it.

    No dataclass: what spreads a model over devices copies those field by field, and the count would be the copy's.
    """

    __slots__ = ("_device", "_dtype", "attention", "row", "used")

    def __init__(self, forest: Forest, *, dtype: torch.dtype, device: torch.device) -> None:
        self.row = whole_blocks(forest) if device.type == "cuda" else forest
        self.attention = tree_attention(self.row, dtype=dtype, device=device)
        self.used = 0
        self._dtype, self._device = dtype, device

    def arguments(self) -> dict[str, Any]:
        """What a decoder that calls our attention is called with; its hidden states are those of the row's nodes."""
        return {
            "input_ids": torch.from_numpy(self.row.ids_N).to(self._device)[None],
            "position_ids": torch.from_numpy(self.row.position_N).to(self._device)[None],
            # Four dimensions are taken as they are: nobody guesses a mask from the positions.
            "attention_mask": torch.zeros(1, 1, 1, 1, dtype=self._dtype, device=self._device),
            "use_cache": False,
            "forest": self,
        }

    def check(self, decoder: Any) -> None:
        """After the pass.

        Raises:
            ValueError: some layer did not attend through the function it was given.
        """
        expected = decoder.config.num_hidden_layers
        if self.used != expected:
            raise ValueError(f"{self.used} of {expected} layers of {type(decoder).__name__} attended along the tree")


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    forest: ForestPass | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """What transformers calls in each layer: tree attention where a forest was passed, its own SDPA elsewhere."""
    extras = [name for name in _UNSHARED if others.get(name) is not None]
    if others.get("dropout"):
        extras.append("dropout")
    if forest is not None and extras:
        raise ValueError(f"{type(module).__name__} attends with {', '.join(extras)}, which trees cannot share")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    autocast = torch.is_autocast_enabled(query.device.type)
    if not autocast:  # rotated in float32, queries and keys may be wider
        query, key = query.to(value.dtype), key.to(value.dtype)
    if forest is not None:
        forest.used += 1
        if autocast:  # as it does for SDPA
            narrow = torch.get_autocast_dtype(query.device.type)
            query, key, value = query.to(narrow), key.to(narrow), value.to(narrow)
        return forest.attention(query, key, value, scale).transpose(1, 2), None
    folds = key.shape[1] < query.shape[1] and query.shape[2] <= _FEW and not extras
    if folds and attention_mask is not None and attention_mask.shape[1] == 1:
        return _attend_folded(query, key, value, attention_mask, scale).transpose(1, 2), None
    plain: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **others
    )
    return plain


def _attend_folded(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """The heads that share their keys and values as more queries of one head: nothing of the cache is copied for them.

    transformers does so for a single query, and repeats keys and values for more.

    Args:
        query: [rows, heads, q, head_dim]; key and value have fewer heads.
        mask: [rows, 1, q, keys].
    """
    groups = query.shape[1] // key.shape[1]
    folded = query.reshape(len(query), key.shape[1], -1, query.shape[-1])
    mask = mask.repeat(1, 1, groups, 1)
    return scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=scale).reshape(query.shape)


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)


def install_attention(decoder: Any) -> None:
    """Let a decoder call our attention function for good: what is no forest it reads as before."""
    decoder.config._attn_implementation = _NAME


def read_forest(decoder: Any, forest: Forest, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Run a decoder over a forest as one row.

    Args:
        decoder: the part of a causal LM below its head; `sharing_obstacle` has nothing against it.
        dtype: that the attention computes in.
    Returns:
        Last hidden states, [L, width].
    Raises:
        ValueError: some layer did not attend through the function it was given.
    """
    install_attention(decoder)
    reading = ForestPass(forest, dtype=dtype, device=device)
    hidden: Tensor = decoder(**reading.arguments()).last_hidden_state
    reading.check(decoder)
    return hidden[0, : len(forest)]


def sharing_obstacle(model: Any) -> str | None:
    """Why prefixes cannot be shared exactly under a model; None where they can.

    A layer that looks at neighbours by their place in the row (a sliding window) or that folds everything read into a
    state (linear attention) would mix the branches.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if kinds:
        return f"{config.model_type} has layers of type {', '.join(sorted(kinds))}"
    if not getattr(config, "layer_types", None) and getattr(config, "sliding_window", None):
        return f"{config.model_type} attends through a sliding window of {config.sliding_window} tokens"
    if getattr(config, "attn_logit_softcapping", None):
        return f"{config.model_type} caps its attention scores"
    if not getattr(model, "_supports_sdpa", True):
        return f"{config.model_type} does not attend through transformers' attention functions"
    return None
