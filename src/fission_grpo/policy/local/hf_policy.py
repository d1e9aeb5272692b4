"""A Hugging Face causal language model as a policy.

Nothing is computed twice under the same weights: a group shares its prompt and what its members go on saying alike, a
later turn continues the keys and values of the earlier ones, and a recovery those of the trajectory that failed
(`PrefixCache`). When the weights have changed, everything is computed again. No row waits for another: a dialogue goes
on when its reply is there (`ContinuousBatching`). Prompt lookup drafts what comes next, and one pass checks several
tokens (`PromptLookup`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fission_grpo.errors import PolicyError, boundary
from fission_grpo.policy.base import Context, Policy, Reply, Sampling
from fission_grpo.policy.local.batching import ContinuousBatching
from fission_grpo.policy.local.forward import ForwardRunner, GenerationCount
from fission_grpo.policy.local.prefix_cache import weights_version
from fission_grpo.policy.local.speculation import PromptLookup

MAX_ROWS = 256
"""Most sequences that are decoded side by side, unless the policy is told otherwise."""


class HFPolicy(Policy):
    """Batched sampling from a causal language model with full attention."""

    def __init__(self, model: Any, *, eos_id: int, pad_id: int, max_rows: int = MAX_ROWS, share: bool = True) -> None:
        """Sample from a model, wherever it lies.

        Args:
            model: a transformers causal LM, or a peft model around one; used in eval mode, never changed.
            eos_id: the token that ends an assistant message.
            pad_id: any valid token; masked wherever it stands.
            max_rows: most sequences decoded side by side; bounds the memory of the cache.
            share: off, every context is computed from its first token in a row of its own, token by token, and no row
                is filled again before all have ended: what sharing is compared with.
        """
        self.model = model
        self.eos_id = eos_id
        self.max_rows = max_rows
        self._runner = ForwardRunner(model, pad_id=pad_id, share=share)
        self._version: tuple[int, ...] = ()

    @property
    def context_window(self) -> int:
        return context_window(self.model.config)

    @property
    def lookup(self) -> PromptLookup:
        """What it drafts from; outlives a change of weights."""
        return self._runner.lookup

    def take_count(self) -> GenerationCount:
        """What was generated since the last call; counting starts afresh."""
        count, self._runner.count = self._runner.count, GenerationCount()
        return count

    def invalidate(self) -> None:
        """Compute everything again from here on.

        Changed weights are noticed without it. A caller that must be able to start over from some point and get the
        same tokens bit for bit calls it there and keeps the state of `lookup`, because both change the last digits of a
        logit.
        """
        self._runner.cache.invalidate()

    def converse(self, contexts: Sequence[Context], *, reply: Reply, sampling: Sampling, seed: int) -> None:
        self.model.eval()
        self._notice_new_weights()
        batch = ContinuousBatching(
            self._runner, eos_id=self.eos_id, max_rows=self.max_rows, sampling=sampling, seed=seed
        )
        for index, context in enumerate(contexts):
            batch.add(index, context)
        while batch.busy:
            # What goes wrong inside a reply is not the policy's fault, and stands outside its boundary.
            with boundary(PolicyError, "sampling"), torch.inference_mode():
                ended = batch.decode_step()
            for index, completion in ended:
                following = reply(index, completion)
                if following is not None:
                    batch.add(index, following)

    def _notice_new_weights(self) -> None:
        version = weights_version(self.model)
        if version != self._version:
            self._runner.cache.invalidate()
            self._version = version


def context_window(config: Any) -> int:
    """Most tokens that a model of this configuration can hold."""
    return int(config.get_text_config().max_position_embeddings)
