"""A set of token sequences as one prefix forest, so that every unique token is paid for once.

Ours, not the paper's. Fission makes trees by nature: one prompt branches into G trajectories, a failed one continues
with its feedback and branches into G' recoveries. Sorting the sequences lexicographically lays their prefix tree out in
depth-first order, where "j is an ancestor of i" is an interval test: `j <= i < subtree_end[j]`. That is the whole
attention structure, and several forests one after the other are again a forest. Because a node's keys, values and
position depend on its ancestors only, the log-probabilities of a packed row equal those of separate rows exactly.

Shapes: N nodes of a forest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forest:
    """Unique (prefix, token) pairs in depth-first order."""

    ids_N: IntArray
    """Token of each node."""
    position_N: IntArray
    """Depth of each node: 0 for a first token."""
    parent_N: IntArray
    """Index of the node before it, -1 for a first token."""
    subtree_end_N: IntArray
    """One past the last descendant: the subtree of j is `j .. subtree_end_N[j] - 1`."""
    paths: tuple[IntArray, ...]
    """For each sequence, in the order given, the node of each of its tokens."""

    def __len__(self) -> int:
        return len(self.ids_N)

    @property
    def unshared_tokens(self) -> int:
        """Tokens that separate rows would hold."""
        return sum(len(path) for path in self.paths)

    def attends(self, begin: int = 0, end: int | None = None) -> NDArray[np.bool_]:
        """True at [i, j] where token begin + i sees token begin + j: it is the same one or an ancestor.

        Args:
            begin, end: the nodes to look at, all of them if not given; square in their number.
        """
        index = np.arange(begin, len(self) if end is None else end)
        return (index[None, :] <= index[:, None]) & (index[:, None] < self.subtree_end_N[None, index])


def build_forest(sequences: Sequence[Sequence[int]]) -> Forest:
    """Share every common prefix of `sequences`. Equal sequences share one path.

    Raises:
        ValueError: a sequence is empty (its index is named).
    """
    for index, sequence in enumerate(sequences):
        if not sequence:
            raise ValueError(f"sequence {index} is empty")
    ids: list[int] = []
    parent: list[int] = []
    subtree_end: list[int] = []
    paths: list[IntArray] = [np.empty(0, dtype=np.int64)] * len(sequences)
    open_path: list[int] = []
    previous: Sequence[int] = ()
    for index in sorted(range(len(sequences)), key=lambda i: tuple(sequences[i])):
        sequence = sequences[index]
        shared = common_prefix(previous, sequence)
        for node in open_path[shared:]:
            subtree_end[node] = len(ids)
        del open_path[shared:]
        for token in sequence[shared:]:
            parent.append(open_path[-1] if open_path else -1)
            open_path.append(len(ids))
            ids.append(token)
            subtree_end.append(-1)
        paths[index] = np.array(open_path, dtype=np.int64)
        previous = sequence
    for node in open_path:
        subtree_end[node] = len(ids)
    position = np.empty(len(ids), dtype=np.int64)
    for path in paths:
        position[path] = np.arange(len(path))
    return Forest(
        ids_N=np.array(ids, dtype=np.int64),
        position_N=position,
        parent_N=np.array(parent, dtype=np.int64),
        subtree_end_N=np.array(subtree_end, dtype=np.int64),
        paths=tuple(paths),
    )


def common_prefix(a: Sequence[int] | IntArray, b: Sequence[int] | IntArray) -> int:
    """How many leading tokens two sequences share."""
    length = min(len(a), len(b))
    differs = np.asarray(a[:length]) != np.asarray(b[:length])
    return int(differs.argmax()) if differs.any() else length


def joined(forests: Sequence[Forest]) -> Forest:
    """Several forests side by side: one forest, whose paths are theirs in order."""
    offsets = np.cumsum([0, *(len(forest) for forest in forests)])[:-1]
    shifted = list(zip(forests, offsets, strict=True))
    return Forest(
        ids_N=np.concatenate([forest.ids_N for forest in forests]),
        position_N=np.concatenate([forest.position_N for forest in forests]),
        parent_N=np.concatenate([np.where(f.parent_N < 0, -1, f.parent_N + offset) for f, offset in shifted]),
        subtree_end_N=np.concatenate([forest.subtree_end_N + offset for forest, offset in shifted]),
        paths=tuple(path + offset for forest, offset in shifted for path in forest.paths),
    )


def padding(count: int) -> Forest:
    """Tokens that see nobody and are seen by nobody, on no path: to fill a row with."""
    return Forest(
        ids_N=np.zeros(count, dtype=np.int64),
        position_N=np.zeros(count, dtype=np.int64),
        parent_N=np.full(count, -1, dtype=np.int64),
        subtree_end_N=np.arange(1, count + 1),
        paths=(),
    )


def pack(sizes: Sequence[int], *, token_budget: int) -> list[list[int]]:
    """Split forests into rows of at most `token_budget` nodes, each forest where it fits first.

    Args:
        sizes: nodes of each forest; one that exceeds the budget alone gets a row of its own.
    Returns:
        Indices into `sizes`, every index exactly once.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        row = next((r for r, free in enumerate(room) if sizes[index] <= free), None)
        if row is None:
            rows.append([index])
            room.append(token_budget - sizes[index])
        else:
            rows[row].append(index)
            room[row] -= sizes[index]
    return rows


def split(forest: Forest, *, token_budget: int) -> list[tuple[int, ...]]:
    """Cut a forest that is larger than a row into smaller ones that compute their shared prefix again.

    A subtree that fits behind its prefix stays whole, and neighbours stay together as long as they fit. A part may take
    twice the longest path where that exceeds the budget: with less, the shared prefix would be computed again for every
    few tokens of a branch. Losses and gradients add up over the parts.

    Returns:
        Indices into `forest.paths`, part by part, every index exactly once; one part if the forest is small enough.
    """
    limit = max(token_budget, 2 * max(len(path) for path in forest.paths))
    if len(forest) <= limit:
        return [tuple(range(len(forest.paths)))]
    parts: list[list[int]] = []
    size, previous = limit, np.empty(0, dtype=np.int64)
    for top, indices in _subtrees(forest, limit).items():
        path = forest.paths[indices[-1]]
        subtree = int(forest.subtree_end_N[top]) - top
        prefix = int(forest.position_N[top])
        # In depth-first order whatever two paths share, they share with every path between them.
        grown = size + subtree + prefix - common_prefix(previous, path)
        if grown > limit:
            parts.append([])
            grown = subtree + prefix
        parts[-1] += indices
        size, previous = grown, path
    return [tuple(part) for part in parts]


def _subtrees(forest: Forest, limit: int) -> dict[int, list[int]]:
    """The largest subtrees that take up to `limit` tokens with their prefix: first node to paths, in depth-first order.

    A path that ends where others go on belongs to the first of those.
    """
    found: dict[int, list[int]] = {}
    top = -1
    for index in sorted(range(len(forest.paths)), key=lambda i: (int(forest.paths[i][-1]), i), reverse=True):
        path = forest.paths[index]
        fits = forest.position_N[path] + forest.subtree_end_N[path] - path <= limit
        if fits.any():
            top = int(path[fits.argmax()])
        found.setdefault(top, []).append(index)
    return {top: indices[::-1] for top, indices in reversed(found.items())}


def additive(attends: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean [..., queries, keys] mask as the additive 4-D mask that transformers passes to attention as it is."""
    mask = torch.zeros(attends.shape, dtype=dtype, device=attends.device)
    return mask.masked_fill_(~attends, torch.finfo(dtype).min)
