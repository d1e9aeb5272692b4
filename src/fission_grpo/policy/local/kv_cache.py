"""A key/value cache in which every slot grows at its own pace.

transformers' own caches give all rows of a batch one length, pad the shorter ones, and lose everything when a call
ends. Here a slot holds one token sequence, filled from the left without holes, so that it can be cut back, copied,
moved and continued as long as the model has not changed.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

_GROWTH = 128
"""The cache grows by this many positions at least: growing copies everything."""
GROWING = 8
"""And by one of so many parts of itself, so that a long answer copies its keys eight times at most."""


class KVCacheLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer, [slots, heads, capacity, head_dim]."""

    is_sliding = False

    def __init__(self, cache: KVCache) -> None:
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = self._blank(key_states)
        self.values = self._blank(value_states)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write new states [n, heads, q, head_dim] where the cache says, and show the slots that they went to."""
        if not torch.is_autocast_enabled(key_states.device.type):  # which casts them itself as it attends
            key_states = key_states.to(value_states.dtype)  # rotated in float32, they may be wider
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        slots, at, width = self.cache.slots_n, self.cache.positions_nq, self.cache.width
        self.keys[slots[:, None], :, at] = key_states.transpose(1, 2)
        self.values[slots[:, None], :, at] = value_states.transpose(1, 2)
        return self.keys[self.cache.shown, :, :width], self.values[self.cache.shown, :, :width]

    def grow(self) -> None:
        """Take the size of the cache; what is there stays."""
        if not self.is_initialized:
            return
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = self._blank(old)
            new[: old.shape[0], :, : old.shape[2]] = old
            setattr(self, name, new)

    def _blank(self, like: Tensor) -> Tensor:
        # Not `empty`: what is masked still takes part in a product with 0, and 0 times a stray NaN is NaN.
        return like.new_zeros(self.cache.slots, like.shape[1], self.cache.capacity, like.shape[3])

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.width, 0

    def get_seq_length(self) -> int:
        return self.cache.width

    def get_max_length(self) -> int:
        return self.cache.capacity

    def get_max_cache_shape(self) -> int:
        """Same as `get_max_length`, which transformers 5.9 and 5.10 call by this name and declare abstract."""
        return self.cache.capacity


class KVCache(Cache):  # type: ignore[misc]
    """Keys and values of all layers of a model. Knows nothing of tokens: `PrefixCache` does."""

    def __init__(self, layers: int) -> None:
        self.slots = 0
        self.capacity = 0
        self.aim([], torch.empty(0, 0, dtype=torch.long), width=0)
        super().__init__(layers=[KVCacheLayer(self) for _ in range(layers)])

    def reserve(self, slots: int, capacity: int) -> None:
        """Have at least this many slots and positions; what is there stays."""
        if slots <= self.slots and capacity <= self.capacity:
            return
        self.slots = max(self.slots, slots)
        if capacity > self.capacity:
            self.capacity = grown(self.capacity, capacity)
        for layer in self.layers:
            layer.grow()

    def aim(self, slots: Sequence[int], positions_nq: Tensor, width: int) -> None:
        """Say where the next forward pass writes.

        Args:
            slots: n different slots; those that follow each other are shown to the model as they lie, others as copies.
            positions_nq: the positions of their q new tokens.
            width: leading positions that the pass may look at.
        """
        self.slots_n = torch.tensor(slots, dtype=torch.long, device=positions_nq.device)
        first = slots[0] if slots else 0
        neighbours = list(slots) == list(range(first, first + len(slots)))
        self.shown = slice(first, first + len(slots)) if neighbours else self.slots_n
        self.positions_nq = positions_nq
        self.width = width

    def copy(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Copy the first `length` positions of some slots over other slots; no slot is both."""
        self._move(sources, targets, length)

    def swap(self, left: Sequence[int], right: Sequence[int], length: int) -> None:
        """Exchange the first `length` positions of slots, pair by pair; all slots differ."""
        self._move([*right, *left], [*left, *right], length)

    def _move(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        for layer in self.layers:
            for tensor in (layer.keys, layer.values) if layer.is_initialized else ():
                begin = tensor[:, :, :length]
                here, there = (torch.tensor(slots, device=tensor.device) for slots in (targets, sources))
                # Half the time of `begin[here] = begin[there]`.
                begin.index_copy_(0, here, begin.index_select(0, there))


def grown(capacity: int, wanted: int) -> int:
    """Positions of a cache that has to grow: what is wanted, and some more, so that it need not grow again at once."""
    return -(-max(wanted, capacity + capacity // GROWING) // _GROWTH) * _GROWTH


def cache_argument(decoder: Any) -> str:
    """What a decoder calls the argument that takes its key/value cache.

    transformers has renamed it: up to 5.10 at least `past_key_values` is the only name; 5.24 says `cache` and warns of
    the old name, which goes in 5.40. The signature says which of the two a model knows, also one of somebody else.
    """
    return "cache" if "cache" in inspect.signature(decoder.forward).parameters else "past_key_values"
