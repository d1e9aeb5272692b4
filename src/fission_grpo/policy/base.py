"""The seam between the algorithm and whatever makes tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from fission_grpo.types import Completion, Distribution

Context: TypeAlias = tuple[int, ...]
"""Tokens to continue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling(Distribution):
    """How to draw a completion: from which distribution, and at most how many tokens.

    `tree.logprobs.score` takes it as the `Distribution` that it is, so temperature and top-k have one source, and the
    log-probabilities of both sides mean the same: those of the tempered, cut and renormalised distribution.
    """

    max_tokens: int
    """Most tokens of a completion."""


Reply: TypeAlias = Callable[[int, Completion], Context | None]
"""Told that dialogue i has got this completion: what is to be continued next in it, or None where it is over."""


class Policy(Protocol):
    """Contexts in, sampled tokens out."""

    @property
    @abstractmethod
    def context_window(self) -> int:
        """Most tokens that a context and its completion may hold together."""
        ...

    @abstractmethod
    def converse(self, contexts: Sequence[Context], *, reply: Reply, sampling: Sampling, seed: int) -> None:
        """Carry on many dialogues side by side, until `reply` has ended each of them.

        A dialogue goes on as soon as its reply is there: it waits for no other one. In what order completions end is
        the policy's affair. The same arguments and weights give the same tokens.

        Args:
            contexts: where each dialogue begins.
            reply: asked once for each completion; what it raises ends everything and is raised here.
        Raises:
            PolicyError: sampling failed; nothing of this batch can be trusted.
        """
        ...

    def generate(self, contexts: Sequence[Context], *, sampling: Sampling, seed: int) -> list[Completion]:
        """One completion for each context, in order.

        Raises:
            PolicyError: sampling failed.
        """
        completions: dict[int, Completion] = {}
        self.converse(contexts, reply=completions.__setitem__, sampling=sampling, seed=seed)
        return [completions[index] for index in range(len(contexts))]
