"""A key/value cache whose rows can be multiplied and thinned out.

transformers' own caches grow by concatenation, which copies every key once per sampled token. This one is written in
place, so a decoding step costs what its new tokens cost. Rows: one for each sequence being decoded.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class SlabLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer, [rows, heads, capacity, head_dim], filled from the left."""

    is_sliding = False

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, heads, _, width = key_states.shape
        self.keys = key_states.new_empty(rows, heads, self.capacity, width)
        self.values = value_states.new_empty(rows, heads, self.capacity, value_states.shape[-1])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[-2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.capacity

    def take(self, rows: Tensor, capacity: int) -> SlabLayer:
        """A new layer that holds these rows of this one, with room for `capacity` positions."""
        taken = SlabLayer(capacity)
        taken.lazy_initialization(
            self.keys[:1].expand(len(rows), -1, -1, -1), self.values[:1].expand(len(rows), -1, -1, -1)
        )
        taken.keys[:, :, : self.length] = self.keys[:, :, : self.length].index_select(0, rows)
        taken.values[:, :, : self.length] = self.values[:, :, : self.length].index_select(0, rows)
        taken.length = self.length
        return taken


class SlabCache(Cache):  # type: ignore[misc]
    """One slab per layer."""

    def __init__(self, layers: list[SlabLayer]) -> None:
        super().__init__(layers=layers)

    @classmethod
    def empty(cls, layers: int, capacity: int) -> SlabCache:
        return cls([SlabLayer(capacity) for _ in range(layers)])

    def take(self, rows: Tensor, capacity: int) -> SlabCache:
        """Multiply, reorder or drop rows: `rows[i]` is the row of this cache that becomes row i of the new one."""
        return SlabCache([layer.take(rows, capacity) for layer in self.layers])
