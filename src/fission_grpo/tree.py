"""A set of token sequences as one prefix forest, so that every unique token is paid for once.

Ours, not the paper's. Fission makes trees by nature: one prompt branches into G trajectories, a failed one continues
with its feedback and branches into G' recoveries. Sorting the sequences lexicographically lays their prefix tree out in
depth-first order, where "j is an ancestor of i" is an interval test: `j <= i < subtree_end[j]`. That is the whole
attention structure. Because a node's keys, values and position depend on its ancestors only, the log-probabilities of a
packed row equal those of separate rows exactly.

Shapes: N nodes of a forest, R packed rows, L nodes of the longest row, B branches (trajectories).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forest:
    """Unique (prefix, token) pairs in depth-first order."""

    ids_N: Ints
    """Token of each node."""
    position_N: Ints
    """Depth of each node: 0 for a first token."""
    parent_N: Ints
    """Index of the node before it, -1 for a first token."""
    subtree_end_N: Ints
    """One past the last descendant: the subtree of j is `j .. subtree_end_N[j] - 1`."""
    paths: tuple[Ints, ...]
    """For each sequence, in the order given, the node of each of its tokens."""

    def __len__(self) -> int:
        return len(self.ids_N)

    @property
    def raw_tokens(self) -> int:
        """Tokens that separate rows would hold."""
        return sum(len(path) for path in self.paths)

    def attends_NN(self) -> NDArray[np.bool_]:
        """True at [i, j] where token i sees token j: j is i itself or an ancestor of i."""
        index = np.arange(len(self))
        return (index[None, :] <= index[:, None]) & (index[:, None] < self.subtree_end_N[None, :])


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
    paths: list[Ints] = [np.empty(0, dtype=np.int64)] * len(sequences)
    open_path: list[int] = []
    previous: Sequence[int] = ()
    for index in sorted(range(len(sequences)), key=lambda i: tuple(sequences[i])):
        sequence = sequences[index]
        shared = _common_prefix(previous, sequence)
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


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    length = min(len(a), len(b))
    for i in range(length):
        if a[i] != b[i]:
            return i
    return length


def pack(sizes: Sequence[int], *, token_budget: int) -> list[list[int]]:
    """Split forests into micro-batches whose padded area stays under a budget.

    Forests of similar size meet, so that little is padded; one that exceeds the budget alone gets a batch of its own.

    Args:
        sizes: nodes of each forest.
        token_budget: most padded tokens (rows x longest row) of a micro-batch.
    Returns:
        Indices into `sizes`, every index exactly once.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        # Sorted by falling size: the first row of a batch is its longest.
        if batches and sizes[batches[-1][0]] * (len(batches[-1]) + 1) <= token_budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRows:
    """Forests as one padded batch, ready for a causal language model that takes a 4-D attention mask."""

    ids_RL: Tensor
    position_RL: Tensor
    mask_R1LL: Tensor
    """Additive: 0 where a token attends, the dtype's minimum elsewhere. Padding attends to itself, never to others."""


def packed_rows(forests: Sequence[Forest], *, pad_id: int, dtype: torch.dtype, device: torch.device) -> PackedRows:
    """Pad forests to the longest and build their attention mask."""
    longest = max(len(forest) for forest in forests)
    ids = np.full((len(forests), longest), pad_id, dtype=np.int64)
    position = np.zeros((len(forests), longest), dtype=np.int64)
    attends = np.broadcast_to(np.eye(longest, dtype=np.bool_), (len(forests), longest, longest)).copy()
    for row, forest in enumerate(forests):
        n = len(forest)
        ids[row, :n] = forest.ids_N
        position[row, :n] = forest.position_N
        attends[row, :n, :n] = forest.attends_NN()
    return PackedRows(
        ids_RL=torch.from_numpy(ids).to(device),
        position_RL=torch.from_numpy(position).to(device),
        mask_R1LL=additive(torch.from_numpy(attends).to(device)[:, None], dtype),
    )


def additive(attends: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean [..., queries, keys] mask as the additive 4-D mask that transformers passes to attention as it is."""
    mask = torch.zeros(attends.shape, dtype=dtype, device=attends.device)
    return mask.masked_fill_(~attends, torch.finfo(dtype).min)
