"""A Hugging Face causal language model as a policy.

Nothing is read twice under the same weights: a group shares its prompt, a later turn continues the keys and values of
the earlier ones, and a recovery those of the trajectory that failed (`PrefixMemory`). When the weights have changed,
everything is read again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fission_grpo.errors import PolicyError, boundary
from fission_grpo.policy.base import Context, Sampling
from fission_grpo.policy.memory import PrefixMemory, weights_version
from fission_grpo.tree import additive
from fission_grpo.types import Completion, FinishReason

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


class HFPolicy:
    """Batched sampling from a causal language model with full attention."""

    def __init__(self, model: Any, *, eos_id: int, pad_id: int, max_rows: int = 256, share: bool = True) -> None:
        """Args:
        model: a transformers causal LM, or a peft model around one; used in eval mode, never changed.
        eos_id: the token that ends an assistant message.
        pad_id: any valid token; masked wherever it stands.
        max_rows: most sequences decoded side by side; bounds the memory of the cache.
        share: off, every context is read from its first token in a row of its own: what sharing is compared with.
        """
        self.model = model
        self.eos_id = eos_id
        self.pad_id = pad_id
        self.max_rows = max_rows
        self.share = share
        self.count = GenerationCount()
        self._memory = PrefixMemory(int(model.config.get_text_config().num_hidden_layers))
        self._version: tuple[int, ...] = ()

    @property
    def context_window(self) -> int:
        return context_window(self.model)

    def take_count(self) -> GenerationCount:
        """What was generated since the last call; counting starts afresh."""
        count, self.count = self.count, GenerationCount()
        return count

    def forget(self) -> None:
        """Read everything again from here on.

        Changed weights are noticed without it. A caller that must be able to start over from some point and get the
        same tokens bit for bit calls it there, because what is remembered changes the last digits of a logit.
        """
        self._memory.forget()

    def generate(self, contexts: Sequence[Context], *, sampling: Sampling, seed: int) -> list[Completion]:
        generator = torch.Generator(device=self.model.device).manual_seed(seed)
        completions: list[Completion] = []
        self.model.eval()
        with boundary(PolicyError, "sampling"), torch.inference_mode():
            self._notice_new_weights()
            for first in range(0, len(contexts), self.max_rows):
                completions += self._generate_rows(contexts[first : first + self.max_rows], sampling, generator)
        return completions

    def _notice_new_weights(self) -> None:
        version = weights_version(self.model)
        if version != self._version:
            self._memory.forget()
            self._version = version

    def _generate_rows(
        self, contexts: Sequence[Context], sampling: Sampling, generator: torch.Generator
    ) -> list[Completion]:
        memory = self._memory
        memory.reserve(len(contexts), max(len(context.ids) for context in contexts) + sampling.max_tokens)
        self.count.raw += sum(len(context.ids) for context in contexts)
        if self.share:
            self._read_shared_roots(contexts)
        else:
            memory.forget()
        kin = self._kin(contexts)
        by_row = [family for _, family in sorted(zip(memory.seat([contexts[k[0]].ids for k in kin]), kin, strict=True))]
        logits = self._read([contexts[family[0]].ids for family in by_row])
        # The first context of a family has a row; those that repeat it get copies of it behind all others.
        parents = [*range(len(by_row)), *(row for row, family in enumerate(by_row) for _ in family[1:])]
        memory.fork(parents)
        completion_at = [family[0] for family in by_row] + [index for family in by_row for index in family[1:]]
        return _Decoding(self, completion_at, sampling, generator).run(logits[parents])

    def _kin(self, contexts: Sequence[Context]) -> list[list[int]]:
        """Indices of equal contexts together, or each alone."""
        if not self.share:
            return [[index] for index in range(len(contexts))]
        families: dict[tuple[int, ...], list[int]] = {}
        for index, context in enumerate(contexts):
            families.setdefault(context.ids, []).append(index)
        return list(families.values())

    def _read_shared_roots(self, contexts: Sequence[Context]) -> None:
        """Read once what several distinct contexts begin with, before any of them is seated."""
        families: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
        for context in contexts:
            families.setdefault(context.ids[: context.root], set()).add(context.ids)
        roots = [root for root, family in families.items() if len(family) > 1 and self._memory.held(root) < len(root)]
        if roots:
            by_row = sorted(zip(self._memory.seat(roots), roots, strict=True))
            self._read([root for _, root in by_row])

    def _read(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Read what rows 0 .. n-1 lack of these sequences, at least the last token of each.

        Returns:
            Logits [n, vocabulary] for the next token, float32.
        """
        lengths = self._memory.lengths[: len(sequences)].tolist()
        missing = [list(s[length:]) for s, length in zip(sequences, lengths, strict=True)]
        self.count.prefilled += sum(map(len, missing))
        bodies = {row: new[:-1] for row, new in enumerate(missing) if len(new) > 1}
        for rows in _passes(bodies):
            # The decoder alone: logits are wanted of the last token only, which the whole model reads.
            self._push(self.model.get_decoder(), rows, [bodies[row] for row in rows])
        return self._next_logits([new[-1:] for new in missing])

    def _next_logits(self, new: Sequence[Sequence[int]]) -> Tensor:
        """Push one token of each row through the whole model."""
        logits: Tensor = self._push(self.model, range(len(new)), new).logits
        return logits[:, -1].float()

    def _push(self, module: Any, rows: Sequence[int], new: Sequence[Sequence[int]]) -> Any:
        """Run new tokens of some rows, padded on the right: what is written behind a row's end is written over later,
        and no token before it looks there."""
        memory, device = self._memory, self.model.device
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


class _Decoding:
    """Samples rows 0 .. n-1 to their ends; a row that has ended moves behind those that go on."""

    def __init__(
        self, policy: HFPolicy, completion_at: list[int], sampling: Sampling, generator: torch.Generator
    ) -> None:
        """Args:
        completion_at: which completion each row belongs to; thinned out with the rows.
        """
        self.policy = policy
        self.completion_at = completion_at
        self.sampling = sampling
        self.generator = generator
        self.ids: list[list[int]] = [[] for _ in completion_at]
        self.logprobs: list[list[float]] = [[] for _ in completion_at]
        self.finish = [FinishReason.LENGTH] * len(completion_at)

    def run(self, logits: Tensor) -> list[Completion]:
        """Args:
        logits: [n, vocabulary] for the first token of each row.
        """
        for step in range(self.sampling.max_tokens):
            tokens = self._sample(logits)
            tokens = self._drop_ended(tokens)
            if not tokens or step == self.sampling.max_tokens - 1:
                break
            logits = self.policy._next_logits([[token] for token in tokens])
        return [
            Completion(ids=tuple(ids), logprobs=tuple(logprobs), finish=finish)
            for ids, logprobs, finish in zip(self.ids, self.logprobs, self.finish, strict=True)
        ]

    def _sample(self, logits: Tensor) -> list[int]:
        """Draw one token for every running row and note it."""
        # One random number for each completion, running or not: nobody's draw depends on where or beside whom it sits.
        heights = torch.rand(len(self.ids), generator=self.generator, device=logits.device)[self.completion_at]
        drawn, logprobs = draw(logits, self.sampling, heights)
        tokens: list[int] = drawn.tolist()
        for completion, token, logprob in zip(self.completion_at, tokens, logprobs.tolist(), strict=True):
            self.ids[completion].append(token)
            self.logprobs[completion].append(logprob)
            if token == self.policy.eos_id:
                self.finish[completion] = FinishReason.STOP
        self.policy.count.sampled += len(tokens)
        return tokens

    def _drop_ended(self, tokens: list[int]) -> list[int]:
        """Keep the running rows side by side; returns their tokens."""
        running = [row for row, completion in enumerate(self.completion_at) if not self._ended(completion)]
        far = [row for row in running if row >= len(running)]
        free = sorted(set(range(len(running))) - set(running))
        self.policy._memory.swap(free, far)
        for here, there in zip(free, far, strict=True):
            self.completion_at[here], tokens[here] = self.completion_at[there], tokens[there]
        del self.completion_at[len(running) :]
        return tokens[: len(running)]

    def _ended(self, completion: int) -> bool:
        return self.finish[completion] is FinishReason.STOP


def draw(logits: Tensor, sampling: Sampling, heights: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token per row.

    Args:
        logits: [rows, vocabulary] float32.
        heights: [rows] uniform random numbers in [0, 1): where each row's cumulative distribution is cut. Not used at
            temperature 0.
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
        tokens = _pick(probabilities, heights)
    return tokens, logprobs.gather(1, tokens[:, None])[:, 0]


def _pick(probabilities: Tensor, heights: Tensor) -> Tensor:
    """One token per row by inverting the cumulative distribution: one random number a row, where `torch.multinomial`
    draws one for every token of the vocabulary and takes 30 times as long on a CPU."""
    wide = torch.float32 if probabilities.device.type == "mps" else torch.float64
    cumulative = probabilities.to(wide).cumsum(dim=-1)
    # From the right: a token of probability 0 ends where the one before it ends, and is never the first above.
    tokens = torch.searchsorted(cumulative, heights[:, None].to(wide) * cumulative[:, -1:], right=True)
    return tokens.clamp(max=probabilities.shape[-1] - 1)[:, 0]


def context_window(model: Any) -> int:
    """Most tokens that the model can hold."""
    return int(model.config.get_text_config().max_position_embeddings)
