"""A Hugging Face causal language model as a policy.

The group's prompt is prefilled once: contexts with the same root share its keys and values, and only what follows the
root (earlier turns, a failed call and its feedback) is prefilled per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fission_grpo.errors import PolicyError, boundary
from fission_grpo.policy.base import Context, Sampling
from fission_grpo.policy.cache import SlabCache
from fission_grpo.tree import additive
from fission_grpo.types import Completion, FinishReason


@dataclass(slots=True)
class GenerationCount:
    """Tokens that went through the model, for the saving to show in every run."""

    prefilled: int = 0
    """Prompt tokens pushed through the model; shared roots count once."""
    raw: int = 0
    """Prompt tokens that separate rows would have pushed."""
    sampled: int = 0


class HFPolicy:
    """Batched sampling from a causal language model with full attention."""

    def __init__(self, model: Any, *, eos_id: int, pad_id: int, max_rows: int = 256) -> None:
        """Args:
        model: a transformers causal LM, or a peft model around one; used in eval mode, never changed.
        eos_id: the token that ends an assistant message.
        pad_id: any valid token; masked wherever it stands.
        max_rows: most sequences decoded side by side; bounds the memory of the cache.
        """
        self.model = model
        self.eos_id = eos_id
        self.pad_id = pad_id
        self.max_rows = max_rows
        self.count = GenerationCount()

    @property
    def context_window(self) -> int:
        return context_window(self.model)

    def take_count(self) -> GenerationCount:
        """What was generated since the last call; counting starts afresh."""
        count, self.count = self.count, GenerationCount()
        return count

    def generate(self, contexts: Sequence[Context], *, sampling: Sampling, seed: int) -> list[Completion]:
        generator = torch.Generator(device=self.model.device).manual_seed(seed)
        completions: list[Completion] = []
        self.model.eval()
        with boundary(PolicyError, "sampling"), torch.inference_mode():
            for first in range(0, len(contexts), self.max_rows):
                completions += self._generate_rows(contexts[first : first + self.max_rows], sampling, generator)
        return completions

    def _generate_rows(
        self, contexts: Sequence[Context], sampling: Sampling, generator: torch.Generator
    ) -> list[Completion]:
        prefix = self._prefill(contexts, room=sampling.max_tokens)
        self.count.raw += sum(len(context.ids) for context in contexts)
        return _Decoding(self, prefix, sampling, generator).run()

    def _prefill(self, contexts: Sequence[Context], *, room: int) -> _Prefix:
        """Push every root once, then what follows it in each row."""
        roots = list(dict.fromkeys(context.ids[: context.root] for context in contexts))
        row_of_root = {root: row for row, root in enumerate(roots)}
        tails = [context.ids[context.root :] for context in contexts]
        root_width = max(len(root) for root in roots)
        tail_width = max(len(tail) for tail in tails)
        capacity = root_width + tail_width + room
        layers = int(self.model.config.get_text_config().num_hidden_layers)

        self.count.prefilled += sum(map(len, roots)) + sum(map(len, tails))
        if root_width == 0:
            nothing = _Prefix.nothing(SlabCache.empty(layers, capacity), len(contexts), self.model.device)
            return self._push(self._pad_left(tails, tail_width), nothing)
        rooted = self._push(
            self._pad_left(roots, root_width),
            _Prefix.nothing(SlabCache.empty(layers, root_width), len(roots), self.model.device),
        )
        rows = torch.tensor(
            [row_of_root[context.ids[: context.root]] for context in contexts], device=self.model.device
        )
        prefix = rooted.take(rows, capacity)
        if tail_width == 0:
            return prefix
        return self._push(self._pad_left(tails, tail_width), prefix)

    def _pad_left(self, sequences: Sequence[Sequence[int]], width: int) -> tuple[Tensor, Tensor]:
        ids = [[self.pad_id] * (width - len(s)) + list(s) for s in sequences]
        real = [[False] * (width - len(s)) + [True] * len(s) for s in sequences]
        return torch.tensor(ids, device=self.model.device), torch.tensor(real, device=self.model.device)

    def _push(self, padded: tuple[Tensor, Tensor], prefix: _Prefix) -> _Prefix:
        """Run new tokens [rows, q] (left-padded) after a prefix; rows that are all padding keep their old logits."""
        ids, real = padded
        keys = torch.cat([prefix.real, real], dim=1)
        q, k = ids.shape[1], keys.shape[1]
        causal = torch.ones(q, k, dtype=torch.bool, device=ids.device).tril(diagonal=k - q)
        positions = (prefix.length[:, None] + real.cumsum(dim=1) - 1).clamp(min=0)
        output = self.model(
            input_ids=ids,
            attention_mask=additive((causal & keys[:, None, :])[:, None], self.model.dtype),
            position_ids=positions,
            past_key_values=prefix.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = output.logits[:, -1].float()
        grown = real.any(dim=1)
        if prefix.logits is not None:
            logits = torch.where(grown[:, None], logits, prefix.logits)
        return _Prefix(cache=prefix.cache, real=keys, length=prefix.length + real.sum(dim=1), logits=logits)


@dataclass(slots=True, kw_only=True)
class _Prefix:
    """What the model has read so far: rows x tokens, holes where a row was padded."""

    cache: SlabCache
    real: Tensor
    """[rows, width] True on tokens, False on padding."""
    length: Tensor
    """[rows] tokens read: the position of the next one."""
    logits: Tensor | None
    """[rows, vocabulary] float32, for the next token; None before anything was read."""

    @staticmethod
    def nothing(cache: SlabCache, rows: int, device: torch.device) -> _Prefix:
        return _Prefix(
            cache=cache,
            real=torch.zeros(rows, 0, dtype=torch.bool, device=device),
            length=torch.zeros(rows, dtype=torch.long, device=device),
            logits=None,
        )

    def take(self, rows: Tensor, capacity: int) -> _Prefix:
        return _Prefix(
            cache=self.cache.take(rows, capacity),
            real=self.real[rows],
            length=self.length[rows],
            logits=None if self.logits is None else self.logits[rows],
        )


class _Decoding:
    """Samples every row of a prefix to its end, dropping finished rows when they are the majority."""

    def __init__(self, policy: HFPolicy, prefix: _Prefix, sampling: Sampling, generator: torch.Generator) -> None:
        self.policy = policy
        self.prefix = prefix
        self.sampling = sampling
        self.generator = generator
        rows = len(prefix.length)
        self.ids: list[list[int]] = [[] for _ in range(rows)]
        self.logprobs: list[list[float]] = [[] for _ in range(rows)]
        self.finish = [FinishReason.LENGTH] * rows
        self.row_of = list(range(rows))
        """Which completion each row of the prefix belongs to; thinned out with it."""

    def run(self) -> list[Completion]:
        for step in range(self.sampling.max_tokens):
            tokens = self._sample()
            alive = [
                row for row, completion in enumerate(self.row_of) if self.finish[completion] is FinishReason.LENGTH
            ]
            if not alive or step == self.sampling.max_tokens - 1:
                break
            if len(alive) <= len(self.row_of) // 2:
                keep = torch.tensor(alive, device=tokens.device)
                self.prefix = self.prefix.take(keep, self.prefix.cache.layers[0].capacity)
                self.row_of = [self.row_of[row] for row in alive]
                tokens = tokens[keep]
            self.prefix = self.policy._push(
                (tokens[:, None], torch.ones_like(tokens[:, None], dtype=torch.bool)), self.prefix
            )
        return [
            Completion(ids=tuple(ids), logprobs=tuple(logprobs), finish=finish)
            for ids, logprobs, finish in zip(self.ids, self.logprobs, self.finish, strict=True)
        ]

    def _sample(self) -> Tensor:
        """Draw one token for every row and note it for the rows that still run."""
        assert self.prefix.logits is not None
        tokens, logprobs = draw(self.prefix.logits, self.sampling, self.generator)
        for row, (token, logprob) in enumerate(zip(tokens.tolist(), logprobs.tolist(), strict=True)):
            completion = self.row_of[row]
            if self.finish[completion] is FinishReason.STOP:
                continue
            self.ids[completion].append(token)
            self.logprobs[completion].append(logprob)
            self.policy.count.sampled += 1
            if token == self.policy.eos_id:
                self.finish[completion] = FinishReason.STOP
        return tokens


def draw(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw one token per row.

    Args:
        logits: [rows, vocabulary] float32.
    Returns:
        tokens [rows], and their log-probabilities [rows] under the tempered distribution over the whole vocabulary:
        the one that training recomputes. Top-k narrows the draw and not the log-probability.
    """
    scaled = logits if sampling.temperature == 0 else logits / sampling.temperature
    logprobs = torch.log_softmax(scaled, dim=-1)
    if sampling.temperature == 0:
        tokens = logprobs.argmax(dim=-1)
    else:
        probabilities = logprobs.exp()
        if sampling.top_k:
            kth = probabilities.topk(min(sampling.top_k, probabilities.shape[-1]), dim=-1).values[:, -1:]
            probabilities = probabilities.masked_fill(probabilities < kth, 0.0)
        tokens = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
    return tokens, logprobs.gather(1, tokens[:, None])[:, 0]


def context_window(model: Any) -> int:
    """Most tokens that the model can hold."""
    return int(model.config.get_text_config().max_position_embeddings)
