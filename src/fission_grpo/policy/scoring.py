"""Log-probabilities of sampled tokens under a model, each unique token pushed through it once.

Shapes: B trajectories, T sampled tokens of the longest trajectory, L nodes of a packed row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fission_grpo.tree import Forest, build_forest, pack, packed_rows

Family: TypeAlias = tuple[Forest, tuple[int, ...]]
"""A forest, and for each of its paths the index of the row that it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """A trajectory as the model sees it."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]
    """True on the tokens whose log-probability is wanted; never on the first token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of some rows of a batch."""

    rows: tuple[int, ...]
    """Which rows these are: index b of the tensors below belongs to `rows[b]`."""
    logprobs_BT: Tensor
    """Log-probability of the t-th trained token, in nats; 0 beyond the end. Carries the gradient when grad is on."""
    entropy_BT: Tensor
    """Entropy of the distribution that token was drawn from, in nats; constant; 0 beyond the end."""


def share_prefixes(rows: Sequence[TokenRow], families: Sequence[int]) -> list[Family]:
    """One forest for each family.

    Args:
        families: a number for each row; rows of one family share a prompt.
    Returns:
        Forests, each with the indices of the rows that are its paths, in order.
    """
    members: dict[int, list[int]] = {}
    for index, family in enumerate(families):
        members.setdefault(family, []).append(index)
    return [(build_forest([rows[i].ids for i in indices]), tuple(indices)) for indices in members.values()]


def separate(rows: Sequence[TokenRow]) -> list[Family]:
    """No sharing: every row a forest of its own. What `share_prefixes` must equal."""
    return [(build_forest([row.ids]), (index,)) for index, row in enumerate(rows)]


def score(
    model: Any,
    rows: Sequence[TokenRow],
    forests: Sequence[Family],
    *,
    width: int,
    temperature: float,
    token_budget: int,
    pad_id: int,
) -> Iterator[Scores]:
    """Score the trained tokens of `rows`, micro-batch by micro-batch.

    A token's distribution is read at its parent in the tree, and only those positions reach the LM head.

    Args:
        model: a transformers causal LM (or a peft model around one) with full attention.
        width: T of the tensors returned, at least the most trained tokens of a row.
        temperature: the logits are divided by it, as they were when the tokens were drawn.
        token_budget: most padded tokens of one micro-batch.
    """
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    for batch in pack([len(forest) for forest, _ in forests], token_budget=token_budget):
        packed = packed_rows([forests[i][0] for i in batch], pad_id=pad_id, dtype=model.dtype, device=model.device)
        hidden_RLD = decoder(
            input_ids=packed.ids_RL,
            attention_mask=packed.mask_R1LL,
            position_ids=packed.position_RL,
            use_cache=False,
        ).last_hidden_state
        places = _places(rows, [forests[i] for i in batch])
        # A node trained in several trajectories is scored once and gathered into each of them.
        unique, inverse = np.unique(places.node, axis=0, return_inverse=True)
        row, parent, token = (torch.from_numpy(column).to(model.device) for column in unique.T)
        logits = head(hidden_RLD[row, parent])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
        distribution = torch.log_softmax(logits, dim=-1)
        logprob = distribution.gather(1, token[:, None])[:, 0]
        with torch.no_grad():
            entropy = -(distribution.exp() * distribution).sum(dim=-1)
        index = torch.from_numpy(inverse.reshape(-1)).to(model.device)
        at = (torch.from_numpy(places.branch).to(model.device), torch.from_numpy(places.order).to(model.device))
        blank = logprob.new_zeros(len(places.rows), width)
        yield Scores(
            rows=places.rows,
            logprobs_BT=blank.index_put(at, logprob[index]),
            entropy_BT=blank.index_put(at, entropy[index]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Places:
    rows: tuple[int, ...]
    node: np.ndarray[Any, np.dtype[np.int64]]
    """[tokens, 3]: packed row, parent position in it, token id."""
    branch: np.ndarray[Any, np.dtype[np.int64]]
    order: np.ndarray[Any, np.dtype[np.int64]]


def _places(rows: Sequence[TokenRow], forests: Sequence[Family]) -> _Places:
    """Where in the packed rows each trained token of each trajectory is predicted."""
    members: list[int] = []
    node, branch, order = [], [], []
    for packed_row, (forest, indices) in enumerate(forests):
        for path, index in zip(forest.paths, indices, strict=True):
            trained = path[np.asarray(rows[index].trained, dtype=bool)]
            parents = forest.parent_N[trained]
            node.append(np.stack([np.full_like(trained, packed_row), parents, forest.ids_N[trained]], axis=1))
            branch.append(np.full_like(trained, len(members)))
            order.append(np.arange(len(trained)))
            members.append(index)
    return _Places(
        rows=tuple(members), node=np.concatenate(node), branch=np.concatenate(branch), order=np.concatenate(order)
    )
