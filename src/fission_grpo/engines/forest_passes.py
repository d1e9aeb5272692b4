"""Rows of a padded or ragged batch as passes over prefix forests: what the trees inside TRL and inside verl share.

Shapes: N unique scored tokens of a forest, S scored tokens of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fission_grpo.tree.prefix_tree import Forest, IntArray, build_forest, common_prefix, split
from fission_grpo.tree.tree_attention import sharing_obstacle


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRow:
    """Tokens of one row, and which of them are scored."""

    index: int
    """Of the row in its batch."""
    ids: Sequence[int]
    scored: IntArray
    """Places in `ids`, none of them the first."""
    columns: IntArray
    """Where in the row of the answer each score is wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One pass: a forest, what is read of it, and where that goes."""

    forest: Forest
    at_N: IntArray
    """The node at which each scored token's distribution is read: its parent."""
    token_N: IntArray
    unique_S: IntArray
    """Which of the N each scored token of the rows is."""
    row_S: IntArray
    column_S: IntArray
    """Its place among the columns of its row."""

    def taken(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """`at_N` and `token_N` on a device."""
        return torch.from_numpy(self.at_N).to(device), torch.from_numpy(self.token_N).to(device)


def passes_over(rows: Sequence[ScoredRow], *, token_budget: int | None = None) -> list[Reading]:
    """Passes in which every row is read once.

    Args:
        token_budget: most tokens of a pass, see `tree.prefix_tree.split` for what may exceed it; without it there is
            one pass, whatever its size.
    """
    if not rows:
        return []
    whole = build_forest([row.ids for row in rows])
    parts = split(whole, token_budget=len(whole) if token_budget is None else token_budget)
    forests = [whole] if len(parts) == 1 else [build_forest([rows[i].ids for i in part]) for part in parts]
    return [_reading(forest, [rows[i] for i in part]) for forest, part in zip(forests, parts, strict=True)]


def _reading(forest: Forest, rows: Sequence[ScoredRow]) -> Reading:
    node_S = np.concatenate([path[row.scored] for path, row in zip(forest.paths, rows, strict=True)])
    unique, inverse = np.unique(node_S, return_inverse=True)
    return Reading(
        forest=forest,
        at_N=forest.parent_N[unique],
        token_N=forest.ids_N[unique],
        unique_S=inverse.reshape(-1),
        row_S=np.repeat([row.index for row in rows], [len(row.scored) for row in rows]),
        column_S=np.concatenate([row.columns for row in rows]),
    )


def blank() -> Reading:
    """A pass of one token that nothing is taken from: what keeps ranks in step, and a graph connected."""
    none, first = np.empty(0, dtype=np.int64), np.zeros(1, dtype=np.int64)
    return Reading(forest=build_forest([(0,)]), at_N=first, token_N=first, unique_S=none, row_S=none, column_S=none)


def placed(passes: Sequence[Reading], scores: Sequence[Tensor], shape: tuple[int, int]) -> Tensor:
    """Scores of unique tokens, [N] for each pass, where their rows have them: [rows, columns], 0 elsewhere."""
    whole = scores[0].new_zeros(shape)
    for reading, score_N in zip(passes, scores, strict=True):
        row, column, unique = (
            torch.from_numpy(index).to(score_N.device) for index in (reading.row_S, reading.column_S, reading.unique_S)
        )
        whole = whole.index_put((row, column), score_N[unique])
    return whole


def take_nodes(at_N: Tensor, _decoder: Any, _given: Any, output: Any) -> Any:
    """A hook between the decoder and the head: its nodes become those that are read, as often as they are."""
    output.last_hidden_state = output.last_hidden_state[:, at_N]
    return output


def model_obstacle(causal: Any) -> str | None:
    """Why prefixes cannot be shared exactly under a causal LM of transformers; None where they can."""
    config = causal.config.get_text_config()
    if getattr(config, "output_router_logits", False):
        return router_obstacle(config)
    if config is not causal.config:
        return f"{causal.config.model_type} reads more than text"
    if getattr(config, "attention_dropout", 0):
        return f"attention_dropout is {config.attention_dropout}"
    if any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in causal.modules()):
        return "dropout is on"
    return sharing_obstacle(causal)


def router_obstacle(config: Any) -> str:
    """What an auxiliary loss of experts stands for."""
    return f"the auxiliary loss of {config.model_type} weighs each token of each row"


def dealt(sequences: Sequence[Sequence[int]], parts: int) -> list[list[int]]:
    """Spread rows over parts so that the part with the most unique tokens has few, and rows that share stay together.

    In lexicographic order whatever two rows share, they share with every row between them; so each part is a run of
    that order, and no cut into runs has a smaller largest part.

    Args:
        sequences: tokens of each row; one without any costs nothing.
    Returns:
        Indices into `sequences`, every index exactly once. No part is empty if there are rows enough.
    """
    order, length, fresh = _in_order(sequences)
    least, most = int(length.max(initial=0)), int(fresh.sum())
    while least < most:
        capacity = (least + most) // 2
        least, most = (least, capacity) if len(_runs(length, fresh, capacity)) <= parts else (capacity + 1, most)
    runs = _runs(length, fresh, most)
    while len(runs) < min(parts, len(order)):
        longest = max(range(len(runs)), key=lambda run: len(runs[run]))
        begin, end = runs[longest].start, runs[longest].stop
        runs[longest : longest + 1] = [range(begin, (begin + end) // 2), range((begin + end) // 2, end)]
    return [[order[place] for place in run] for run in runs] + [[] for _ in range(parts - len(runs))]


def unique_tokens(sequences: Sequence[Sequence[int]]) -> int:
    """Nodes that the forest of `sequences` has."""
    return int(_in_order(sequences)[2].sum())


def parts_within(sequences: Sequence[Sequence[int]], token_budget: int) -> int:
    """The fewest parts that `dealt` can cut rows into so that none has more unique tokens than the budget.

    A row longer than the budget is a part of its own.
    """
    _, length, fresh = _in_order(sequences)
    return len(_runs(length, fresh, token_budget))


def _in_order(sequences: Sequence[Sequence[int]]) -> tuple[list[int], IntArray, IntArray]:
    """Indices in lexicographic order; of each row there, its tokens, and those that the row before does not have."""
    arrays = [np.asarray(sequence, dtype=">u4") for sequence in sequences]  # whose bytes are ordered as their numbers
    order = sorted(range(len(arrays)), key=lambda index: arrays[index].tobytes())
    length = np.array([len(arrays[index]) for index in order], dtype=np.int64)
    fresh = length.copy()
    for place in range(1, len(order)):
        fresh[place] -= common_prefix(arrays[order[place - 1]], arrays[order[place]])
    return order, length, fresh


def _runs(length: IntArray, fresh: IntArray, capacity: int) -> list[range]:
    """Runs filled one after the other up to a capacity; the first row of each pays for its whole length."""
    runs: list[range] = []
    begin, size = 0, 0
    for place in range(len(length)):
        if place > begin and size + fresh[place] > capacity:
            runs.append(range(begin, place))
            begin, size = place, 0
        size += int(fresh[place] if place > begin else length[place])
    return [*runs, range(begin, len(length))] if len(length) else []
