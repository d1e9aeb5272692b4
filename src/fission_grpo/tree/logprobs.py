"""Log-probabilities of sampled tokens under a model, each unique token computed once.

Shapes: B trajectories, T sampled tokens of the longest trajectory, L nodes of a packed row, N tokens trained in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fission_grpo.errors import ConfigError
from fission_grpo.tree.distribution import log_probabilities, outside, tempered
from fission_grpo.tree.prefix_tree import Forest, IntArray, build_forest, joined, pack, split
from fission_grpo.tree.tree_attention import read_forest, sharing_obstacle
from fission_grpo.types import Distribution, TokenRow

PackedGroup: TypeAlias = tuple[Forest, tuple[int, ...]]
"""Rows packed together: a forest, and for each of its paths the index of the row that it is."""

LOGITS_AT_ONCE = 1 << 25
"""Entries of [tokens, vocabulary] that exist at a time: 128 MiB in float32, however large the vocabulary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of some rows of a batch."""

    rows: tuple[int, ...]
    """Which rows these are: index b of the tensors below belongs to `rows[b]`."""
    logprobs_BT: Tensor
    """Log-probability of the t-th trained token, in nats, under the `Distribution` that `score` was given; 0 beyond the
    end. Carries the gradient when grad is on."""
    entropy_BT: Tensor
    """Entropy of the distribution that token was drawn from, in nats; constant; 0 beyond the end."""
    computed: int
    """Tokens of the packed row that they were read from."""


def share_prefixes(rows: Sequence[TokenRow]) -> list[PackedGroup]:
    """All rows in one forest: a group shares its prompt, a fission family its failed trajectory, and tasks that have
    nothing else in common the description of their tools."""
    return [(build_forest([row.ids for row in rows]), tuple(range(len(rows))))] if rows else []


def separate(rows: Sequence[TokenRow]) -> list[PackedGroup]:
    """No sharing: every row a forest of its own. What `share_prefixes` must equal."""
    return [(build_forest([row.ids]), (index,)) for index, row in enumerate(rows)]


def packed_groups(model: Any, rows: Sequence[TokenRow], *, tree: bool) -> list[PackedGroup]:
    """One forest where that is wanted and exact under the model, and otherwise each row alone."""
    return share_prefixes(rows) if tree and sharing_obstacle(model) is None else separate(rows)


def score(
    model: Any,
    rows: Sequence[TokenRow],
    groups: Sequence[PackedGroup],
    *,
    width: int,
    distribution: Distribution,
    token_budget: int,
) -> Iterator[Scores]:
    """Score the trained tokens of `rows`, micro-batch by micro-batch.

    A micro-batch is one packed row. A token's distribution is read at its parent in the tree, and only those positions
    reach the LM head. A sampled token that several trajectories share is scored once and appears in each of them, so
    every one weighs it with its own advantage, normaliser and old log-probability, and the gradient of its
    log-probability is the sum of their weights: what separate rows add up to.

    Log-probabilities and entropies are those of the tempered, cut and renormalised distribution, and so are their
    gradients: the same that `Completion.logprobs` promises. A scored token always counts among those that top-k leaves,
    also where rounding at the k-th probability, weights that have moved or another model (the reference) rank it lower:
    its probability is that among them and itself, never 0.

    Args:
        model: a transformers causal LM (or a peft model around one). One with a `sharing_obstacle` reads each of its
            rows alone, with its own attention.
        width: T of the tensors returned, at least the most trained tokens of a row.
        distribution: what the tokens were drawn from; the sampler's own value.
        token_budget: most tokens of one micro-batch. A larger group is cut into subtrees that compute their shared
            prefix again, but into none smaller than twice its longest path.
    Raises:
        ConfigError: the model does something to its hidden states or logits around the LM head.
        ValueError: prefixes are shared, and the model cannot share them.
    """
    _check_head(model)
    read = _forward_of(model, groups)
    parts = [part for group in groups for part in _within(group, rows, token_budget)]
    for batch in pack([len(forest) for forest, _ in parts], token_budget=token_budget):
        forest = joined([parts[i][0] for i in batch])
        members = tuple(index for i in batch for index in parts[i][1])
        hidden_LD = read(forest)
        places = _places(rows, forest, members)
        # A node trained in several trajectories is scored once and gathered into each of them.
        unique, inverse = np.unique(places.node, return_inverse=True)
        logprob_N, entropy_N = token_scores(
            model.get_output_embeddings(),
            hidden_LD[_on(hidden_LD, forest.parent_N[unique])],
            _on(hidden_LD, forest.ids_N[unique]),
            distribution,
        )
        index = _on(hidden_LD, inverse)
        at = (_on(hidden_LD, places.branch), _on(hidden_LD, places.order))
        blank = logprob_N.new_zeros(len(members), width)
        yield Scores(
            rows=members,
            logprobs_BT=blank.index_put(at, logprob_N[index]),
            entropy_BT=blank.index_put(at, entropy_N[index]),
            computed=len(forest),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """How the rows of an update are read by a model, be it the policy or the frozen start."""

    distribution: Distribution
    """What the tokens were drawn from; the sampler's own value."""
    token_budget: int
    """Most tokens of one micro-batch: see `score`."""
    tree: bool
    """Pay for shared prefixes once."""

    def pack(self, model: Any, rows: Sequence[TokenRow], some: Sequence[int]) -> list[PackedGroup]:
        """Some of the rows as one tree, or each alone; every tree with the indices of its rows."""
        packed = packed_groups(model, [rows[index] for index in some], tree=self.tree)
        return [(forest, tuple(some[member] for member in members)) for forest, members in packed]

    def scores(
        self, model: Any, rows: Sequence[TokenRow], packed: Sequence[PackedGroup], *, width: int
    ) -> Iterator[Scores]:
        """Log-probabilities and entropies of the trained tokens, micro-batch by micro-batch: see `score`."""
        return score(model, rows, packed, width=width, distribution=self.distribution, token_budget=self.token_budget)


def _within(group: PackedGroup, rows: Sequence[TokenRow], token_budget: int) -> list[PackedGroup]:
    """A group as one part, or, where it is too large for a row, as several."""
    forest, members = group
    parts = split(forest, token_budget=token_budget)
    if len(parts) == 1:
        return [group]
    indices = [tuple(members[path] for path in part) for part in parts]
    return [(build_forest([rows[i].ids for i in part]), part) for part in indices]


def _forward_of(model: Any, groups: Sequence[PackedGroup]) -> Any:
    """How a forest goes through the decoder: `forest -> hidden states [L, D]`."""
    decoder = model.get_decoder()
    reason = sharing_obstacle(model)
    if reason is None:
        return lambda forest: read_forest(decoder, forest, dtype=model.dtype, device=model.device)
    shared = next((forest for forest, _ in groups if len(forest) < forest.unshared_tokens), None)
    if shared is not None:
        raise ValueError(f"prefixes cannot be shared exactly: {reason}; score separate rows instead")
    return lambda forest: _read_alone(decoder, forest, model.device)


def _read_alone(decoder: Any, forest: Forest, device: torch.device) -> Tensor:
    """Each path in a pass of its own, as the model reads any text."""
    passes = [
        decoder(input_ids=torch.from_numpy(forest.ids_N[path]).to(device)[None], use_cache=False).last_hidden_state[0]
        for path in forest.paths
    ]
    return torch.cat(passes)


_CHECKED: WeakSet[Any] = WeakSet()


def _check_head(model: Any) -> None:
    """Once for each model: its LM head reads what the decoder wrote, and its logits are what the head said."""
    if model in _CHECKED:
        return
    config = model.config.get_text_config()
    named = [name for name in ("final_logit_softcapping", "logits_scaling", "logit_scale") if hasattr(config, name)]
    if not _head_is_last(model) or any(getattr(config, name) not in (None, 1, 1.0) for name in named):
        raise ConfigError(
            f"{config.model_type} caps or scales its logits around the LM head "
            f"({', '.join(named) or 'in its forward'}), and log-probabilities are read at the head: "
            "choose a model that does not"
        )
    _CHECKED.add(model)


def _head_is_last(model: Any) -> bool:
    """Looks inside one pass: two passes may round differently, and no tolerance would tell that from a weak cap."""
    seen: list[Tensor] = []
    ids = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    with (
        torch.no_grad(),
        model.get_decoder().register_forward_hook(lambda _, __, output: seen.append(output[0].clone())),
        model.get_output_embeddings().register_forward_hook(
            lambda _, given, output: seen.extend((given[0].clone(), output.clone()))
        ),
    ):
        logits = model(input_ids=ids, use_cache=False).logits
    if len(seen) != 3:
        return False
    written, read, said = seen
    return torch.equal(written, read) and torch.equal(said.to(logits.dtype), logits)


def token_scores(
    head: Any, hidden_ND: Tensor, token_N: Tensor, distribution: Distribution, *, logits_at_once: int = LOGITS_AT_ONCE
) -> tuple[Tensor, Tensor]:
    """Log-probability of each token and entropy of what it was drawn from, a slice of the tokens at a time.

    With more than one slice, the backward pass computes each slice's logits again instead of keeping all of them.

    Args:
        head: the LM head, a linear layer [D, vocabulary].
        logits_at_once: most entries of [tokens, vocabulary] that exist at a time.
    """
    step = max(logits_at_once // head.weight.shape[0], 1)
    if len(token_N) <= step:
        return _scores_of(head, hidden_ND, token_N, distribution)
    slices = [
        checkpoint(_scores_of, head, hidden, token, distribution, use_reentrant=False)
        for hidden, token in zip(torch.split(hidden_ND, step), torch.split(token_N, step), strict=True)
    ]
    logprobs, entropies = zip(*slices, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


def _scores_of(head: Any, hidden_ND: Tensor, token_N: Tensor, distribution: Distribution) -> tuple[Tensor, Tensor]:
    logits = head(hidden_ND)
    scaled = tempered(logits.to(torch.promote_types(logits.dtype, torch.float32)), distribution)
    cut = outside(scaled, distribution)
    if cut is not None:
        cut = cut.scatter(1, token_N[:, None], value=False)
    logprobs = log_probabilities(scaled, cut)
    logprob = logprobs.gather(1, token_N[:, None])[:, 0]
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
    return logprob, entropy


@dataclass(frozen=True, slots=True, kw_only=True)
class _Places:
    """Every trained token of every trajectory: its node, its trajectory, and how many came before it."""

    node: IntArray
    branch: IntArray
    order: IntArray


def _places(rows: Sequence[TokenRow], forest: Forest, members: Sequence[int]) -> _Places:
    node, branch, order = [], [], []
    for place, (path, index) in enumerate(zip(forest.paths, members, strict=True)):
        trained = path[np.asarray(rows[index].trained, dtype=bool)]
        node.append(trained)
        branch.append(np.full_like(trained, place))
        order.append(np.arange(len(trained)))
    return _Places(node=np.concatenate(node), branch=np.concatenate(branch), order=np.concatenate(order))


def _on(like: Tensor, indices: IntArray) -> Tensor:
    return torch.from_numpy(indices.reshape(-1)).to(like.device)
