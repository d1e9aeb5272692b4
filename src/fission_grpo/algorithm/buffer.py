"""The LIFO buffer of corrective contexts (arXiv:2601.15625, stage 2): the freshest errors are used first."""

from __future__ import annotations

from typing import Any, Protocol

from fission_grpo.algorithm.context import CorrectiveContext


class ContextStore(Protocol):
    """Where contexts wait until they are used."""

    duplicates: int
    """Pushes that met an equal (x, tau_err)."""
    dropped: int
    """Contexts that were never used for want of room."""

    def __len__(self) -> int: ...

    def push(self, context: CorrectiveContext) -> None: ...

    def pop(self, count: int) -> list[CorrectiveContext]:
        """Up to `count` contexts to be used now."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class LifoBuffer:
    """A stack of unique contexts with room for `capacity`; the oldest fall out at the bottom."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._stack: dict[str, CorrectiveContext] = {}
        """In order of freshness, the freshest last."""
        self.duplicates = 0
        """Pushes that met an equal (x, tau_err); the newer one took its place on top."""
        self.dropped = 0
        """Contexts that fell out unused."""

    def __len__(self) -> int:
        return len(self._stack)

    def push(self, context: CorrectiveContext) -> None:
        """Put a context on top."""
        if self._stack.pop(context.key, None) is not None:
            self.duplicates += 1
        self._stack[context.key] = context
        if len(self._stack) > self.capacity:
            del self._stack[next(iter(self._stack))]
            self.dropped += 1

    def pop(self, count: int) -> list[CorrectiveContext]:
        """Take up to `count` contexts, the freshest first."""
        return [self._stack.popitem()[1] for _ in range(min(count, len(self._stack)))]

    def state_dict(self) -> dict[str, Any]:
        """Everything; contexts as they are."""
        return {"contexts": list(self._stack.values()), "duplicates": self.duplicates, "dropped": self.dropped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._stack = {context.key: context for context in state["contexts"]}
        self.duplicates = state["duplicates"]
        self.dropped = state["dropped"]
