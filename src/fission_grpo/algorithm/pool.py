"""A pool of corrective contexts that is filled once and dealt out again and again: what the LIFO buffer is not."""

from __future__ import annotations

from typing import Any

from fission_grpo.algorithm.context import CorrectiveContext
from fission_grpo.seeds import in_turn


class ContextPool:
    """Unique contexts, dealt in seeded order and shuffled anew when all have had their turn. Taking one leaves it."""

    def __init__(self, size: int, *, seed: int) -> None:
        self.size = size
        self.seed = seed
        self.closed = False
        self.dealt = 0
        """Contexts handed out so far: with the seed, all there is to know of the order."""
        self.duplicates = 0
        """Pushes that met an equal (x, tau_err); the older one stayed."""
        self.dropped = 0
        """Contexts that found the pool full."""
        self._contexts: dict[str, CorrectiveContext] = {}

    def __len__(self) -> int:
        return len(self._contexts)

    @property
    def open(self) -> bool:
        """Whether it still takes contexts."""
        return not self.closed and len(self) < self.size

    def close(self) -> None:
        """Take no more, full or not."""
        self.closed = True

    def push(self, context: CorrectiveContext) -> None:
        """Put a context in."""
        if context.key in self._contexts:
            self.duplicates += 1
        elif self.open:
            self._contexts[context.key] = context
        else:
            self.dropped += 1

    def pop(self, count: int) -> list[CorrectiveContext]:
        """The next `count` contexts of the order, fewer only where there are not so many."""
        count = min(count, len(self))
        contexts = tuple(self._contexts.values())
        places = range(self.dealt, self.dealt + count)
        dealt = [contexts[in_turn(place, len(self), seed=self.seed, purpose="pool")] for place in places]
        self.dealt += count
        return dealt

    def state_dict(self) -> dict[str, Any]:
        """Everything; contexts as they are."""
        counts = {name: getattr(self, name) for name in ("closed", "dealt", "duplicates", "dropped")}
        return {"contexts": list(self._contexts.values()), **counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._contexts = {context.key: context for context in state["contexts"]}
        self.closed = state["closed"]
        self.dealt = state["dealt"]
        self.duplicates = state["duplicates"]
        self.dropped = state["dropped"]
