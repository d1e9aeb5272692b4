"""A policy that follows a script: the fake that ships, for tests, dry runs and known metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fission_grpo.policy.base import Context, Policy, Reply, Sampling
from fission_grpo.types import Completion, FinishReason


class ScriptedPolicy(Policy):
    """Answers with the text that `script` returns for the decoded context."""

    def __init__(
        self, tokenizer: Any, script: Callable[[str], str], *, eos_id: int, context_window: int = 1 << 20
    ) -> None:
        """Follow a script.

        Args:
            tokenizer: turns contexts into text and answers into tokens.
            script: decoded context -> assistant text, without the end-of-turn token.
            eos_id: the token that ends an assistant message.
            context_window: most tokens of a context and its completion.
        """
        self.tokenizer = tokenizer
        self.script = script
        self.eos_id = eos_id
        self._context_window = context_window

    @property
    def context_window(self) -> int:
        return self._context_window

    def converse(self, contexts: Sequence[Context], *, reply: Reply, sampling: Sampling, seed: int) -> None:
        for index, context in enumerate(contexts):
            following: Context | None = context
            while following is not None:
                following = reply(index, self._complete(following, sampling.max_tokens))

    def _complete(self, context: Context, max_tokens: int) -> Completion:
        text = self.script(self.tokenizer.decode(context))
        ids = [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.eos_id]
        finish = FinishReason.STOP if len(ids) <= max_tokens else FinishReason.LENGTH
        ids = ids[:max_tokens]
        return Completion(ids=tuple(ids), logprobs=(0.0,) * len(ids), finish=finish)
