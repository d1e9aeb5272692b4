"""How a policy reads: tokens go through the model into rows of its memory, and logits for the next token come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fission_grpo.policy.base import Context
from fission_grpo.policy.local.cost_model import Roofline
from fission_grpo.policy.local.prefix_cache import PrefixMemory
from fission_grpo.policy.local.speculation import Guesses
from fission_grpo.policy.stretches import stretches
from fission_grpo.tree.prefix_tree import Ints, additive, common_prefix
from fission_grpo.tree.tree_attention import install_attention, refusal

READ_AT_ONCE = 8192
"""Most padded tokens of one pass over prompts; bounds its memory. A longer prompt has a pass of its own."""
WORTH_WAITING = 32
"""A context waits until another one has been read if it can take over this many tokens from it."""


@dataclass(slots=True)
class GenerationCount:
    """Tokens that went through the model, for the saving to show in every run."""

    prefilled: int = 0
    """Context tokens pushed through the model; what a row had already read is not pushed again."""
    raw: int = 0
    """Context tokens that separate rows without a memory would have pushed."""
    decoded: int = 0
    """Tokens pushed to sample what follows them: those that siblings have in common once, and guesses."""
    sampled: int = 0
    """Tokens of all completions: what separate rows would have pushed, but for the last of each."""
    guessed: int = 0
    confirmed: int = 0
    """Guesses that spared some completion a pass."""
    passes: int = 0
    """Times that the model was run to sample in every running row."""


class Reader:
    """A model and what it has read."""

    def __init__(self, model: Any, *, pad_id: int, share: bool) -> None:
        self._ours = refusal(model) is None
        """Whether our attention function is what its layers call."""
        if self._ours:
            install_attention(model.get_decoder())
        self.model = model
        self.pad_id = pad_id
        self.share = share
        self.count = GenerationCount()
        self.memory = PrefixMemory(int(model.config.get_text_config().num_hidden_layers))
        self.guesses = Guesses()
        self.roofline = Roofline(model)

    def admit(self, contexts: Sequence[Context], *, first: int) -> list[int]:
        """Read all but the last token of each context into the rows first .. first+n-1.

        When sharing, a context that begins like another one waits until that one has been read.

        Args:
            contexts: distinct if they are shared; the memory has room for them.
            first: rows before it are in use; without sharing there are none.
        Returns:
            Which context each of these rows holds.
        """
        if not self.share:
            self.memory.forget()
        holds: list[int] = []
        waiting = sorted(range(len(contexts)), key=contexts.__getitem__)
        while waiting:
            now = self._pioneers(contexts, waiting) if self.share else waiting
            holds += self._read(contexts, now, first + len(holds))
            waiting = [index for index in waiting if index not in set(now)]
        return holds

    def next_logits(self, new: Sequence[Sequence[int]]) -> Tensor:
        """Push new tokens into the rows 0 .. n-1, q at most.

        Returns:
            Logits [n, q, vocabulary] for what follows each of them, float32; anything where a row has fewer.
        """
        logits: Tensor = self._push(self.model, range(len(new)), new).logits
        return logits.float()

    def _pioneers(self, contexts: Sequence[Context], waiting: Sequence[int]) -> list[int]:
        """Those of some contexts, in lexicographic order, that could take over little from another one of them."""
        chosen: list[int] = []
        for index in waiting:
            context = contexts[index]
            # In this order nobody chosen so far shares more with it than the last one.
            shared = common_prefix(contexts[chosen[-1]], context) if chosen else 0
            # Most contexts share little, and need not be looked up.
            if shared < WORTH_WAITING or shared - self.memory.held(context) < WORTH_WAITING:
                chosen.append(index)
        return chosen

    def _read(self, contexts: Sequence[Context], some: Sequence[int], first: int) -> list[int]:
        """Seat some contexts from row `first` on, and read what they lack but for the last token.

        Returns:
            Which context each row holds.
        """
        seats = self.memory.seat([contexts[index] for index in some], first=first)
        holds = [index for _, index in sorted(zip(seats, some, strict=True))]
        bodies: dict[int, Context] = {}
        for row, context in enumerate((contexts[index] for index in holds), first):
            length = int(self.memory.lengths[row])
            self.count.prefilled += len(context) - length
            if length < len(context) - 1:
                bodies[row] = context[length:-1]
            if self.share:
                self.guesses.learn(context, length)
        # Padding may cost as much as a pass of its own does.
        for rows in _passes(bodies, padding=int(self.roofline.spare(rows=1, width=0))):
            # The decoder alone: nobody asks for logits here.
            self._push(self.model.get_decoder(), rows, [bodies[row] for row in rows])
        return holds

    def _push(self, module: Any, rows: Sequence[int], new: Sequence[Sequence[int]]) -> Any:
        """Run new tokens of some rows, padded on the right: what is written behind a row's end is written over later,
        and no token before it looks there."""
        memory, device = self.memory, self.model.device
        longest = max(map(len, new))
        held_n = memory.lengths[rows]
        start_n, width_n = torch.from_numpy(held_n), held_n + np.array([len(ids) for ids in new], dtype=np.int64)
        width = int(width_n.max())
        ids_nq = torch.tensor([[*ids, *[self.pad_id] * (longest - len(ids))] for ids in new])
        position_nq = (start_n[:, None] + torch.arange(longest)).clamp(max=memory.slab.capacity - 1).to(device)
        memory.slab.aim(rows, position_nq, width)
        attends_nqk = torch.arange(width, device=device) <= position_nq[:, :, None]
        output = module(
            input_ids=ids_nq.to(device),
            attention_mask=additive(attends_nqk[:, None], self.model.dtype),
            position_ids=position_nq,
            past_key_values=memory.slab,
            use_cache=True,
            **self._stretches(width_n),
        )
        memory.extend(rows, new)
        return output

    def _stretches(self, width_n: Ints) -> dict[str, Any]:
        """What a pass tells our attention about rows of different lengths; nothing where they are read as one."""
        found = stretches(width_n, call=self.roofline.call_of_attention()) if self._ours and self.share else []
        return {"stretches": found} if len(found) > 1 else {}


def _passes(bodies: Mapping[int, Sequence[int]], *, padding: int) -> list[list[int]]:
    """Rows to be read together: of similar length, so that few tokens are padded, and never too many."""
    passes: list[list[int]] = []
    longest = padded = 0
    for row in sorted(bodies, key=lambda row: -len(bodies[row])):
        padded += longest - len(bodies[row])
        if passes and padded <= padding and longest * (len(passes[-1]) + 1) <= READ_AT_ONCE:
            passes[-1].append(row)
        else:
            passes.append([row])
            longest, padded = len(bodies[row]), 0
    return passes
