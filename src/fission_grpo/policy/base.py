"""The seam between the algorithm and whatever makes tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fission_grpo.types import Completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Tokens to continue."""

    ids: tuple[int, ...]
    root: int
    """Leading tokens that this context shares with its siblings (the rendered prompt of the group): a hint that lets a
    policy prefill them once. 0 <= root <= len(ids)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to draw."""

    max_tokens: int
    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """0 keeps the whole vocabulary."""


class Policy(Protocol):
    """Contexts in, sampled tokens out."""

    @property
    def context_window(self) -> int:
        """Most tokens that a context and its completion may hold together."""
        ...

    def generate(self, contexts: Sequence[Context], *, sampling: Sampling, seed: int) -> list[Completion]:
        """One completion for each context, in order; the same arguments and weights give the same tokens.

        Raises:
            PolicyError: sampling failed.
        """
        ...
