"""Which tokens the slots of the key/value cache hold, so that a sequence finds what was computed of its prefix.

A group shares its prompt, a later turn continues its earlier ones, and a recovery continues the trajectory that failed.
All three are the same question, asked by token ids: which slot begins like this one?
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fission_grpo.policy.local.kv_cache import KVCache

Tokens = NDArray[np.int64]


class PrefixCache:
    """Slots of a key/value cache and the tokens that each of them holds."""

    def __init__(self, layers: int) -> None:
        self.kv = KVCache(layers)
        self._tokens = np.zeros((0, 0), dtype=np.int64)
        self.lengths = np.zeros(0, dtype=np.int64)
        """Leading tokens of each slot whose keys and values are there."""

    def invalidate(self) -> None:
        """Keep the room and lose what is in it: the weights have changed."""
        self.lengths[:] = 0

    def cached(self, sequence: Sequence[int]) -> int:
        """The most leading tokens of a sequence that any slot holds."""
        return self._longest(np.asarray(sequence, dtype=np.int64))[1]

    def reserve(self, slots: int, capacity: int) -> None:
        """Have room for this many slots of this many tokens; what is there stays."""
        self.kv.reserve(slots, capacity)
        if self._tokens.shape != (self.kv.slots, self.kv.capacity):
            tokens = np.zeros((self.kv.slots, self.kv.capacity), dtype=np.int64)
            tokens[: self._tokens.shape[0], : self._tokens.shape[1]] = self._tokens
            lengths = np.zeros(self.kv.slots, dtype=np.int64)
            lengths[: len(self.lengths)] = self.lengths
            self._tokens, self.lengths = tokens, lengths

    def assign_slots(self, sequences: Sequence[Sequence[int]], *, first: int = 0) -> list[int]:
        """Give every sequence a slot that already begins like it.

        The slots are first .. first+n-1, so that they lie side by side. Afterwards `lengths[slot]` tokens of a sequence
        are there, and the rest, at least its last token, is still to be computed. A slot that two sequences want goes
        to the one that keeps more of it; the other gets a copy. Of slots that nobody wants, empty ones are taken first,
        then the last ones.

        Args:
            sequences: distinct and not empty; there is room for them, and for one token more.
            first: slots before it are in use: they are copied from and stay as they are.
        Returns:
            The slot of each sequence.
        """
        found = [self._longest(np.asarray(sequence[:-1], dtype=np.int64)) for sequence in sequences]
        return self._side_by_side(self._take(found, first), first)

    def branch(self, branches: Sequence[tuple[int, int]], *, staying: int) -> list[int]:
        """Let slots be continued in several ways, each from a place of its own.

        Args:
            branches: the slot that each one continues, and how many of its tokens it keeps.
            staying: the first ones lie side by side afterwards, from slot 0 on; the others anywhere, to be found again.
        Returns:
            The slot of each branch that stays.
        """
        return self._side_by_side(self._take(branches, 0)[:staying], 0)

    def extend(self, slots: Sequence[int], ids: Sequence[Sequence[int]]) -> None:
        """Note that keys and values of these tokens were added to slots."""
        for slot, new in zip(slots, ids, strict=True):
            begin = self.lengths[slot]
            self._tokens[slot, begin : begin + len(new)] = new
            self.lengths[slot] = begin + len(new)

    def swap(self, left: Sequence[int], right: Sequence[int]) -> None:
        """Exchange slots pair by pair."""
        if not left:
            return
        here, there = [*left, *right], [*right, *left]
        self.kv.swap(left, right, int(self.lengths[here].max()))
        self._tokens[here] = self._tokens[there]
        self.lengths[here] = self.lengths[there]

    def _take(self, found: Sequence[tuple[int, int]], first: int) -> list[int]:
        """A slot for each of some prefixes, given as the slot that holds it and its length: that slot or a copy.

        Slots before `first` are not given away; of the others those that hold nothing come first, then the last ones.
        """
        spare = sorted(range(first, len(self.lengths)), key=lambda slot: (self.lengths[slot] > 0, -slot))
        slots = _claim(found, spare)
        self._copy([(source, slot, kept) for (source, kept), slot in zip(found, slots, strict=True) if source != slot])
        for (_, kept), slot in zip(found, slots, strict=True):
            self.lengths[slot] = kept
        return slots

    def _longest(self, sequence: Tokens) -> tuple[int, int]:
        """The slot that shares the longest prefix with a sequence, and how many tokens that is."""
        if not len(self.lengths) or not len(sequence):
            return 0, 0
        width = min(len(sequence), self._tokens.shape[1])
        differs = self._tokens[:, :width] != sequence[:width]
        shared = np.where(differs.any(axis=1), differs.argmax(axis=1), width)
        shared = np.minimum(shared, self.lengths)
        slot = int(shared.argmax())
        return slot, int(shared[slot])

    def _copy(self, copies: Sequence[tuple[int, int, int]]) -> None:
        copies = [(source, target, kept) for source, target, kept in copies if kept]
        if not copies:
            return
        sources, targets, kept = ([*column] for column in zip(*copies, strict=True))
        self.kv.copy(sources, targets, max(kept))
        self._tokens[targets] = self._tokens[sources]
        self.lengths[targets] = kept

    def _side_by_side(self, slots: list[int], first: int) -> list[int]:
        """Move the content of slots so that they begin at `first`; returns where each of them is then."""
        used, end = set(slots), first + len(slots)
        far = [slot for slot in slots if slot >= end]
        free = [slot for slot in range(first, end) if slot not in used]
        self.swap(far, free)
        moved = dict(zip(far, free, strict=True))
        return [moved.get(slot, slot) for slot in slots]


def _claim(found: Sequence[tuple[int, int]], spare: Sequence[int]) -> list[int]:
    """A slot for each sequence: the one it was found in, or, where that is not to be had, a spare one.

    Args:
        found: slot and shared tokens of each sequence.
        spare: the slots that may be given away, best first.
    """
    mine: dict[int, int] = {}
    free = dict.fromkeys(spare)
    for index in sorted(range(len(found)), key=lambda i: -found[i][1]):
        slot, kept = found[index]
        if kept and slot in free:
            mine[index] = slot
            del free[slot]
    without = [index for index in range(len(found)) if index not in mine]
    mine.update(zip(without, free, strict=False))
    return [mine[index] for index in range(len(found))]


def weights_version(model: Any) -> tuple[int, ...]:
    """Changes whenever a parameter is written in place or replaced."""
    return tuple(x for parameter in model.parameters() for x in (id(parameter), parameter._version))
