"""What a model has already read: a row of keys and values for each token sequence, found again by its prefix.

A group shares its prompt, a later turn continues its earlier ones, and a recovery continues the trajectory that failed.
All three are the same question, asked by token ids: which row begins like this one?
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fission_grpo.policy.local.kv_cache import Slab

Tokens = NDArray[np.int64]


class PrefixMemory:
    """Rows of a slab and the tokens that each of them holds."""

    def __init__(self, layers: int) -> None:
        self.slab = Slab(layers)
        self._tokens = np.zeros((0, 0), dtype=np.int64)
        self.lengths = np.zeros(0, dtype=np.int64)
        """Leading tokens of each row whose keys and values are in the slab."""

    def forget(self) -> None:
        """Keep the room and lose what is in it: the weights have changed."""
        self.lengths[:] = 0

    def held(self, sequence: Sequence[int]) -> int:
        """The most leading tokens of a sequence that any row holds."""
        return self._longest(np.asarray(sequence, dtype=np.int64))[1]

    def reserve(self, rows: int, capacity: int) -> None:
        """Have room for this many rows of this many tokens; what is there stays."""
        self.slab.reserve(rows, capacity)
        if self._tokens.shape != (self.slab.rows, self.slab.capacity):
            tokens = np.zeros((self.slab.rows, self.slab.capacity), dtype=np.int64)
            tokens[: self._tokens.shape[0], : self._tokens.shape[1]] = self._tokens
            lengths = np.zeros(self.slab.rows, dtype=np.int64)
            lengths[: len(self.lengths)] = self.lengths
            self._tokens, self.lengths = tokens, lengths

    def seat(self, sequences: Sequence[Sequence[int]], *, first: int = 0) -> list[int]:
        """Give every sequence a row that already begins like it.

        The rows are first .. first+n-1, so that they lie side by side, the longer ones in front where nothing has to be
        moved for it. Afterwards `lengths[row]` tokens of a sequence are there, and the rest, at least its last token,
        is still to be read. A row that two sequences want goes to the one that keeps more of it; the other gets a copy.
        Of rows that nobody wants, empty ones are taken first, then the last ones.

        Args:
            sequences: distinct and not empty; there is room for them, and for one token more.
            first: rows before it are in use: they are copied from and stay as they are.
        Returns:
            The row of each sequence.
        """
        found = [self._longest(np.asarray(sequence[:-1], dtype=np.int64)) for sequence in sequences]
        lengths = [len(sequence) for sequence in sequences]
        return self._side_by_side(self._take(found, lengths, first), lengths, first)

    def branch(self, branches: Sequence[tuple[int, int]], *, staying: int) -> list[int]:
        """Let rows be continued in several ways, each from a place of its own.

        Args:
            branches: the row that each one continues, and how many of its tokens it keeps.
            staying: the first ones lie side by side afterwards, from row 0 on; the others somewhere, to be found again.
        Returns:
            The row of each branch that stays.
        """
        lengths = [kept for _, kept in branches]
        return self._side_by_side(self._take(branches, lengths, 0)[:staying], lengths[:staying], 0)

    def extend(self, rows: Sequence[int], ids: Sequence[Sequence[int]]) -> None:
        """Note that rows have read these tokens."""
        for row, new in zip(rows, ids, strict=True):
            begin = self.lengths[row]
            self._tokens[row, begin : begin + len(new)] = new
            self.lengths[row] = begin + len(new)

    def swap(self, left: Sequence[int], right: Sequence[int]) -> None:
        """Exchange rows pair by pair."""
        if not left:
            return
        here, there = [*left, *right], [*right, *left]
        self.slab.swap(left, right, int(self.lengths[here].max()))
        self._tokens[here] = self._tokens[there]
        self.lengths[here] = self.lengths[there]

    def _take(self, found: Sequence[tuple[int, int]], lengths: Sequence[int], first: int) -> list[int]:
        """A row for each of some beginnings, given as the row that holds it and its length: that row or a copy.

        Rows before `first` are not given away; of the others those that hold nothing come first, then the last ones.
        """
        spare = sorted(range(first, len(self.lengths)), key=lambda row: (self.lengths[row] > 0, -row))
        rows = _claim(found, lengths, spare)
        self._copy([(source, row, kept) for (source, kept), row in zip(found, rows, strict=True) if source != row])
        for (_, kept), row in zip(found, rows, strict=True):
            self.lengths[row] = kept
        return rows

    def _longest(self, sequence: Tokens) -> tuple[int, int]:
        """The row that shares the longest prefix with a sequence, and how many tokens that is."""
        if not len(self.lengths) or not len(sequence):
            return 0, 0
        width = min(len(sequence), self._tokens.shape[1])
        differs = self._tokens[:, :width] != sequence[:width]
        shared = np.where(differs.any(axis=1), differs.argmax(axis=1), width)
        shared = np.minimum(shared, self.lengths)
        row = int(shared.argmax())
        return row, int(shared[row])

    def _copy(self, copies: Sequence[tuple[int, int, int]]) -> None:
        copies = [(source, target, kept) for source, target, kept in copies if kept]
        if not copies:
            return
        sources, targets, kept = ([*column] for column in zip(*copies, strict=True))
        self.slab.copy(sources, targets, max(kept))
        self._tokens[targets] = self._tokens[sources]
        self.lengths[targets] = kept

    def _side_by_side(self, rows: list[int], lengths: Sequence[int], first: int) -> list[int]:
        """Move rows so that they begin at `first`; returns where each of them is then.

        Of those that must move the longest goes to the first free place: neighbours should be about as long.
        """
        used, end = set(rows), first + len(rows)
        longest_first = sorted(zip(lengths, rows, strict=True), reverse=True)
        far = [row for _, row in longest_first if row >= end]
        free = [row for row in range(first, end) if row not in used]
        self.swap(far, free)
        moved = dict(zip(far, free, strict=True))
        return [moved.get(row, row) for row in rows]


def _claim(found: Sequence[tuple[int, int]], lengths: Sequence[int], spare: Sequence[int]) -> list[int]:
    """A row for each sequence: the one it was found in, or, where that is not to be had, a spare one.

    Args:
        found: row and shared tokens of each sequence.
        lengths: of the whole sequences; the shortest takes the first spare row.
        spare: the rows that may be given away, best first.
    """
    mine: dict[int, int] = {}
    free = dict.fromkeys(spare)
    for index in sorted(range(len(found)), key=lambda i: -found[i][1]):
        row, kept = found[index]
        if kept and row in free:
            mine[index] = row
            del free[row]
    without = sorted((index for index in range(len(found)) if index not in mine), key=lengths.__getitem__)
    mine.update(zip(without, free, strict=False))
    return [mine[index] for index in range(len(found))]


def weights_version(model: Any) -> tuple[int, ...]:
    """Changes whenever a parameter is written in place or replaced."""
    return tuple(x for parameter in model.parameters() for x in (id(parameter), parameter._version))
