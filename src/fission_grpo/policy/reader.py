"""How a policy reads: tokens go through the model into rows of its memory, and logits for the next token come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fission_grpo.policy.base import Context
from fission_grpo.policy.memory import PrefixMemory
from fission_grpo.tree import additive

READ_AT_ONCE = 8192
"""Most padded tokens of one pass over prompts; bounds its memory. A longer prompt has a pass of its own."""


@dataclass(slots=True)
class GenerationCount:
    """Tokens that went through the model, for the saving to show in every run."""

    prefilled: int = 0
    """Prompt tokens pushed through the model; what a row had already read is not pushed again."""
    raw: int = 0
    """Prompt tokens that separate rows without a memory would have pushed."""
    sampled: int = 0
    passes: int = 0
    """Times that the model was run to sample a token in every running row."""


class Reader:
    """A model and what it has read."""

    def __init__(self, model: Any, *, pad_id: int, share: bool) -> None:
        self.model = model
        self.pad_id = pad_id
        self.share = share
        self.count = GenerationCount()
        self.memory = PrefixMemory(int(model.config.get_text_config().num_hidden_layers))

    def admit(self, contexts: Sequence[Context], *, first: int, room: int) -> tuple[list[int], Tensor]:
        """Read contexts into the rows first .. first+n-1; the rows before them are in use.

        Args:
            room: tokens that each row must be able to grow by.
        Returns:
            Which context each of these rows holds, and logits [n, vocabulary] for the next token, float32.
        """
        memory = self.memory
        memory.reserve(first + len(contexts), max(len(context.ids) for context in contexts) + room)
        self.count.raw += sum(len(context.ids) for context in contexts)
        if self.share:
            self._read_shared_roots(contexts, first)
        else:
            memory.forget()
        kin = self._kin(contexts)
        seats = memory.seat([contexts[family[0]].ids for family in kin], first=first)
        by_row = [family for _, family in sorted(zip(seats, kin, strict=True))]
        logits = self._read([contexts[family[0]].ids for family in by_row], first)
        # The first context of a family has a row; those that repeat it get copies of it behind all others.
        likes = [*range(len(by_row)), *(place for place, family in enumerate(by_row) for _ in family[1:])]
        memory.fork({first + row: first + like for row, like in enumerate(likes) if row != like})
        holds = [family[0] for family in by_row] + [index for family in by_row for index in family[1:]]
        return holds, logits[likes]

    def next_logits(self, tokens: Sequence[int], *, first: int = 0) -> Tensor:
        """Push one token into each of the rows first .. first+n-1.

        Returns:
            Logits [n, vocabulary] for the next token, float32.
        """
        rows = range(first, first + len(tokens))
        logits: Tensor = self._push(self.model, rows, [[token] for token in tokens]).logits
        return logits[:, -1].float()

    def _kin(self, contexts: Sequence[Context]) -> list[list[int]]:
        """Indices of equal contexts together, or each alone."""
        if not self.share:
            return [[index] for index in range(len(contexts))]
        families: dict[tuple[int, ...], list[int]] = {}
        for index, context in enumerate(contexts):
            families.setdefault(context.ids, []).append(index)
        return list(families.values())

    def _read_shared_roots(self, contexts: Sequence[Context], first: int) -> None:
        """Read once what several distinct contexts begin with, before any of them is seated."""
        families: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
        for context in contexts:
            families.setdefault(context.ids[: context.root], set()).add(context.ids)
        roots = [root for root, family in families.items() if len(family) > 1 and self.memory.held(root) < len(root)]
        if roots:
            seats = self.memory.seat(roots, first=first)
            self._read([root for _, root in sorted(zip(seats, roots, strict=True))], first)

    def _read(self, sequences: Sequence[Sequence[int]], first: int) -> Tensor:
        """Read what the rows from `first` on lack of these sequences, at least the last token of each.

        Returns:
            Logits [n, vocabulary] for the next token, float32.
        """
        lengths = self.memory.lengths[first : first + len(sequences)].tolist()
        missing = [list(s[length:]) for s, length in zip(sequences, lengths, strict=True)]
        self.count.prefilled += sum(map(len, missing))
        bodies = {first + place: new[:-1] for place, new in enumerate(missing) if len(new) > 1}
        for rows in _passes(bodies):
            # The decoder alone: logits are wanted of the last token only, which the whole model reads.
            self._push(self.model.get_decoder(), rows, [bodies[row] for row in rows])
        return self.next_logits([new[-1] for new in missing], first=first)

    def _push(self, module: Any, rows: Sequence[int], new: Sequence[Sequence[int]]) -> Any:
        """Run new tokens of some rows, padded on the right: what is written behind a row's end is written over later,
        and no token before it looks there."""
        memory, device = self.memory, self.model.device
        longest = max(map(len, new))
        start_n = torch.from_numpy(memory.lengths[rows])
        width = int((start_n + torch.tensor([len(ids) for ids in new])).max())
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
        )
        memory.extend(rows, new)
        return output


def _passes(bodies: Mapping[int, Sequence[int]]) -> list[list[int]]:
    """Rows to be read together: of similar length, so that little is padded, and never too many."""
    passes: list[list[int]] = []
    for row in sorted(bodies, key=lambda row: -len(bodies[row])):
        # The first row of a pass is its longest.
        if passes and len(bodies[passes[-1][0]]) * (len(passes[-1]) + 1) <= READ_AT_ONCE:
            passes[-1].append(row)
        else:
            passes.append([row])
    return passes
