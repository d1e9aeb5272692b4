"""Contexts go through the model into the slots of its cache, and logits for the next token come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fission_grpo.policy.base import Context
from fission_grpo.policy.local.cost_model import CostModel
from fission_grpo.policy.local.kv_cache import cache_argument
from fission_grpo.policy.local.prefix_cache import PrefixCache
from fission_grpo.policy.local.speculation import PromptLookup
from fission_grpo.tree.prefix_tree import additive, common_prefix
from fission_grpo.tree.tree_attention import install_attention, sharing_obstacle

PREFILL_AT_ONCE = 8192
"""Most padded tokens of one pass over contexts; bounds its memory. A longer context has a pass of its own."""
WORTH_WAITING = 32
"""A context waits until another one is prefilled if it can take over this many tokens from it."""


@dataclass(slots=True)
class GenerationCount:
    """Tokens that went through the model, for the saving to show in every run."""

    prefilled: int = 0
    """Context tokens computed; what a slot had already is not computed again."""
    unshared: int = 0
    """Context tokens that separate rows without a cache between calls would have computed."""
    decoded: int = 0
    """Tokens computed to sample what follows them: those that siblings have in common once, and draft tokens."""
    sampled: int = 0
    """Tokens of all completions: what separate rows would have computed, but for the last of each."""
    drafted: int = 0
    """Draft tokens of prompt lookup."""
    accepted: int = 0
    """Draft tokens that spared some completion a pass."""
    passes: int = 0
    """Times that the model was run to sample in every running row."""

    def metrics(self) -> dict[str, float]:
        """By the names that they have in `metrics.jsonl`."""
        return {
            "prefilled": self.prefilled,
            "raw": self.unshared,
            "decoded": self.decoded,
            "sampled": self.sampled,
            "guessed": self.drafted,
            "confirmed": self.accepted,
            "passes": self.passes,
        }


class ForwardRunner:
    """A model and the cache of what it has computed."""

    def __init__(self, model: Any, *, pad_id: int, share: bool) -> None:
        if sharing_obstacle(model) is None:
            install_attention(model.get_decoder())
        self.model = model
        self.pad_id = pad_id
        self.share = share
        self.count = GenerationCount()
        self.cache = PrefixCache(int(model.config.get_text_config().num_hidden_layers))
        self.lookup = PromptLookup()
        self.cost_model = CostModel(model)
        self._cache_argument = cache_argument(model.get_decoder())

    def prefill(self, contexts: Sequence[Context], *, first: int) -> list[int]:
        """Compute all but the last token of each context, in the slots first .. first+n-1.

        When sharing, a context that begins like another one waits until that one is there.

        Args:
            contexts: distinct if they are shared; the cache has room for them.
            first: slots before it are in use; without sharing there are none.
        Returns:
            Which context each of these slots holds.
        """
        if not self.share:
            self.cache.invalidate()
        holds: list[int] = []
        waiting = sorted(range(len(contexts)), key=contexts.__getitem__)
        while waiting:
            now = self._prefix_leaders(contexts, waiting) if self.share else waiting
            holds += self._prefill_together(contexts, now, first + len(holds))
            waiting = [index for index in waiting if index not in set(now)]
        return holds

    def next_logits(self, new: Sequence[Sequence[int]]) -> Tensor:
        """Compute new tokens in the slots 0 .. n-1, q at most.

        Returns:
            Logits [n, q, vocabulary] for what follows each of them, float32; anything where a slot has fewer.
        """
        logits: Tensor = self._compute(self.model, range(len(new)), new).logits
        return logits.float()

    def _prefix_leaders(self, contexts: Sequence[Context], waiting: Sequence[int]) -> list[int]:
        """Those of some contexts, in lexicographic order, that could take over little from another one of them."""
        leaders: list[int] = []
        for index in waiting:
            context = contexts[index]
            # In this order no leader so far shares more with it than the last one.
            shared = common_prefix(contexts[leaders[-1]], context) if leaders else 0
            # Most contexts share little, and need not be looked up.
            if shared < WORTH_WAITING or shared - self.cache.cached(context) < WORTH_WAITING:
                leaders.append(index)
        return leaders

    def _prefill_together(self, contexts: Sequence[Context], some: Sequence[int], first: int) -> list[int]:
        """Give some contexts the slots from `first` on, and compute what these lack but for the last token.

        Returns:
            Which context each slot holds.
        """
        slots = self.cache.assign_slots([contexts[index] for index in some], first=first)
        holds = [index for _, index in sorted(zip(slots, some, strict=True))]
        lacking: dict[int, Context] = {}
        for slot, context in enumerate((contexts[index] for index in holds), first):
            length = int(self.cache.lengths[slot])
            self.count.prefilled += len(context) - length
            if length < len(context) - 1:
                lacking[slot] = context[length:-1]
            if self.share:
                self.lookup.learn(context, length)
        # Padding may cost as much as a pass of its own does.
        for together in _passes(lacking, padding=int(self.cost_model.spare(rows=1, width=0))):
            # The decoder alone: nobody asks for logits here.
            self._compute(self.model.get_decoder(), together, [lacking[slot] for slot in together])
        return holds

    def _compute(self, module: Any, slots: Sequence[int], new: Sequence[Sequence[int]]) -> Any:
        """Run new tokens of some slots, padded on the right: what is written behind a slot's end is written over later,
        and no token before it looks there."""
        cache, device = self.cache, self.model.device
        longest = max(map(len, new))
        start_n = torch.from_numpy(cache.lengths[slots])
        width = max(int(cache.lengths[slot]) + len(ids) for slot, ids in zip(slots, new, strict=True))
        # One position more than any token needs, where padding that does not fit is written.
        cache.reserve(cache.kv.slots, width + 1)
        ids_nq = torch.tensor([[*ids, *[self.pad_id] * (longest - len(ids))] for ids in new])
        position_nq = (start_n[:, None] + torch.arange(longest)).clamp(max=cache.kv.capacity - 1).to(device)
        cache.kv.aim(slots, position_nq, width)
        attends_nqk = torch.arange(width, device=device) <= position_nq[:, :, None]
        output = module(
            input_ids=ids_nq.to(device),
            attention_mask=additive(attends_nqk[:, None], self.model.dtype),
            position_ids=position_nq,
            use_cache=True,
            **{self._cache_argument: cache.kv},
        )
        cache.extend(slots, new)
        return output


def _passes(lacking: Mapping[int, Sequence[int]], *, padding: int) -> list[list[int]]:
    """Slots to be computed together: of similar length, so that few tokens are padded, and never too many."""
    passes: list[list[int]] = []
    longest = padded = 0
    for slot in sorted(lacking, key=lambda slot: -len(lacking[slot])):
        padded += longest - len(lacking[slot])
        if passes and padded <= padding and longest * (len(passes[-1]) + 1) <= PREFILL_AT_ONCE:
            passes[-1].append(slot)
        else:
            passes.append([slot])
            longest, padded = len(lacking[slot]), 0
    return passes
