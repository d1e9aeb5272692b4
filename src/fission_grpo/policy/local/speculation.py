"""Prompt lookup (n-gram speculation): draft tokens from what the policy has read and said before.

Tool calls repeat themselves: a function's name is followed by its parameters, a brace by a brace. Draft tokens go
through the model together with the token before them, and a sequence that draws the same tokens has saved as many
passes. A draft is never believed: the draw decides (`ContinuousBatching`), so a wrong one costs time and nothing else.
That is why a hash table that forgets is enough. After prompt lookup decoding and n-gram speculation in inference
engines; ours is one table for everything that was said, not only for the prompt at hand.

Shapes: R rows, O orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

ORDERS = (6, 4, 2)
"""A draft token is looked up by this many tokens before it: by the longest run that has been seen."""
REACH = max(ORDERS)
_SLOTS_LOG2 = 17
"""Each order remembers what followed this many different runs of tokens: the last steps of a run."""
_NOBODY = -1
"""Stands before the first token."""


class PromptLookup:
    """For each run of 6, 4 and 2 tokens, the one that followed it last."""

    def __init__(self) -> None:
        slots = 1 << _SLOTS_LOG2
        self.following = np.full((len(ORDERS), slots), _NOBODY, dtype=np.int32)
        self.labels = np.zeros((len(ORDERS), slots), dtype=np.uint32)
        """More of the hash than the slot says: a slot that holds something else is not mistaken."""

    def state_dict(self) -> dict[str, Any]:
        """What was seen, as tensors: it decides which tokens go through the model side by side, and so the last digits
        of a logit."""
        arrays = {"following": self.following, "labels": self.labels.view(np.int32)}
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state_dict` stood.

        Raises:
            AttributeError, KeyError, ValueError: the state is of another kind or shape.
        """
        following, labels = (state[name].numpy().copy() for name in ("following", "labels"))
        for table in (following, labels):
            if (table.shape, table.dtype) != (self.following.shape, self.following.dtype):
                raise ValueError(f"a table {table.shape} of {table.dtype}, expected {self.following.shape} of int32")
        self.following, self.labels = following, labels.view(np.uint32)

    def learn(self, ids: Sequence[int], begin: int = 0) -> None:
        """Remember the tokens from `begin` on, each behind those before it."""
        if begin >= len(ids):
            return
        near = np.asarray(ids[max(0, begin - REACH) :], dtype=np.int64)
        padded = np.concatenate([np.full(REACH, _NOBODY), near])
        new = len(ids) - begin
        windows = np.lib.stride_tricks.sliding_window_view(padded[:-1], REACH)[-new:]
        slots, labels = _places(windows)
        for order in range(len(ORDERS)):
            self.following[order, slots[:, order]] = near[-new:]
            self.labels[order, slots[:, order]] = labels[:, order]

    def draft(self, tails: Sequence[Sequence[int]], most: int) -> list[list[int]]:
        """At most this many draft tokens for each row.

        Args:
            tails: the last tokens of each row, `REACH` of them where there are so many.
        """
        last = np.full((len(tails), REACH + most), _NOBODY, dtype=np.int64)
        for row, tail in enumerate(tails):
            some = tail[-REACH:]
            last[row, REACH - len(some) : REACH] = some
        for place in range(most):
            last[:, REACH + place] = self._next(last[:, place : place + REACH])
        drafted = last[:, REACH:]
        counts = np.logical_and.accumulate(drafted != _NOBODY, axis=1).sum(axis=1)
        return [row[:count].tolist() for row, count in zip(drafted, counts, strict=True)]

    def _next(self, windows: NDArray[np.int64]) -> NDArray[np.int32]:
        """What followed each window [R, REACH]: by the longest order that knows it."""
        slots, labels = _places(windows)
        orders = np.arange(len(ORDERS))
        known = (self.labels[orders, slots] == labels) & (self.following[orders, slots] != _NOBODY)
        best = known.argmax(axis=1)
        rows = np.arange(len(windows))
        return np.where(known[rows, best], self.following[best, slots[rows, best]], _NOBODY)


def _multipliers() -> NDArray[np.uint64]:
    """One odd number for each token of a window that an order looks at, 0 for the others: [REACH, O]."""
    odd = np.random.default_rng(0).integers(1 << 62, size=REACH, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    seen = np.arange(REACH)[:, None] >= REACH - np.array(ORDERS)[None, :]
    return np.where(seen, odd[:, None], np.uint64(0))


_MULTIPLIERS = _multipliers()


def _places(windows: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """Slot and label of each window [R, REACH] in each order, [R, O]."""
    # Arithmetic modulo 2^64; the mixing step spreads the low bits, which alone would be sums of low bits.
    mixed = (windows + 2).astype(np.uint64) @ _MULTIPLIERS
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return mixed >> np.uint64(64 - _SLOTS_LOG2), (mixed & np.uint64(0xFFFFFFFF)).astype(np.uint32)
