"""A key/value cache in which every row grows at its own pace.

transformers' own caches give all rows one length, pad the shorter ones, and forget everything when a call ends. Here a
row is one token sequence, filled from the left without holes, so that it can be cut back, copied, moved and continued
whenever its model has not changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

_GROWTH = 128
"""The slab grows in steps of this many positions: growing copies everything."""


class SlabLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer, [rows, heads, capacity, head_dim]."""

    is_sliding = False

    def __init__(self, slab: Slab) -> None:
        super().__init__()
        self.slab = slab

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = self._blank(key_states)
        self.values = self._blank(value_states)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write new states [n, heads, q, head_dim] where the slab says, and show the rows that they went to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, at, width = self.slab.rows_n, self.slab.positions_nq, self.slab.width
        self.keys[rows[:, None], :, at] = key_states.transpose(1, 2)
        self.values[rows[:, None], :, at] = value_states.transpose(1, 2)
        return self.keys[self.slab.shown, :, :width], self.values[self.slab.shown, :, :width]

    def grow(self) -> None:
        if not self.is_initialized:
            return
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = self._blank(old)
            new[: old.shape[0], :, : old.shape[2]] = old
            setattr(self, name, new)

    def _blank(self, like: Tensor) -> Tensor:
        # Not `empty`: what is masked still takes part in a product with 0, and 0 times a stray NaN is NaN.
        return like.new_zeros(self.slab.rows, like.shape[1], self.slab.capacity, like.shape[3])

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.slab.width, 0

    def get_seq_length(self) -> int:
        return self.slab.width

    def get_max_length(self) -> int:
        return self.slab.capacity


class Slab(Cache):  # type: ignore[misc]
    """One slab layer for each layer of a model. Knows nothing of tokens: `PrefixMemory` does."""

    def __init__(self, layers: int) -> None:
        self.rows = 0
        self.capacity = 0
        self.aim([], torch.empty(0, 0, dtype=torch.long), width=0)
        super().__init__(layers=[SlabLayer(self) for _ in range(layers)])

    def reserve(self, rows: int, capacity: int) -> None:
        """Have at least this many rows and positions; what is there stays."""
        if rows <= self.rows and capacity <= self.capacity:
            return
        self.rows = max(self.rows, rows)
        self.capacity = max(self.capacity, -(-capacity // _GROWTH) * _GROWTH)
        for layer in self.layers:
            layer.grow()

    def aim(self, rows: Sequence[int], positions_nq: Tensor, width: int) -> None:
        """Say where the next forward pass writes.

        Args:
            rows: n different rows; those that follow each other are shown to the model as they lie, others as copies.
            positions_nq: the positions of their q new tokens.
            width: leading positions that the pass may look at.
        """
        self.rows_n = torch.tensor(rows, dtype=torch.long, device=positions_nq.device)
        first = rows[0] if rows else 0
        neighbours = list(rows) == list(range(first, first + len(rows)))
        self.shown = slice(first, first + len(rows)) if neighbours else self.rows_n
        self.positions_nq = positions_nq
        self.width = width

    def copy(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Copy the first `length` positions of some rows over other rows; no row is both."""
        self._move(sources, targets, length)

    def swap(self, left: Sequence[int], right: Sequence[int], length: int) -> None:
        """Exchange the first `length` positions of rows, pair by pair; all rows differ."""
        self._move([*right, *left], [*left, *right], length)

    def _move(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        for layer in self.layers:
            for tensor in (layer.keys, layer.values) if layer.is_initialized else ():
                begin = tensor[:, :, :length]
                here, there = (torch.tensor(rows, device=tensor.device) for rows in (targets, sources))
                # Half the time of `begin[here] = begin[there]`.
                begin.index_copy_(0, here, begin.index_select(0, there))
