"""Contexts by need, in place of the LIFO buffer of arXiv:2601.15625: what nobody can do, what was seldom used.

An idea of ours. The freshest failures are mostly the commonest ones; here a rare kind of failure gets its turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeAlias

from fission_grpo.algorithm.context import CorrectiveContext
from fission_grpo.types import ErrorClass

USES = 2
"""Most times that a context is used: one that nobody solved comes back once. A second failure says that it is out of
reach, and by then it is some updates old."""

Kind: TypeAlias = tuple[ErrorClass | None, str | None]
"""Error class and failed tool."""


class NeedBuffer:
    """Unique contexts, the neediest first; where there is no room, the least needy falls out.

    The order: groups in which everybody failed; then the kind (error class, failed tool) that was used least often so
    far in the run; then the freshest.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.duplicates = 0
        """Pushes that met an equal (x, tau_err); the newer one took its place."""
        self.dropped = 0
        """Contexts that fell out for want of room."""
        self._waiting: dict[str, CorrectiveContext] = {}
        """Of equal `policy_version`, the freshest last."""
        self._practised: Counter[Kind] = Counter()
        """How often contexts of a kind were used."""
        self._uses: Counter[str] = Counter()
        """How often an (x, tau_err) was used."""

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, context: CorrectiveContext) -> None:
        """Put a context in."""
        if self._waiting.pop(context.key, None) is not None:
            self.duplicates += 1
        self._waiting[context.key] = context
        self._make_room()

    def pop(self, count: int) -> list[CorrectiveContext]:
        """Take up to `count` contexts, the neediest first; each use counts before the next one is chosen."""
        return [self._use(self._by_need()[0]) for _ in range(min(count, len(self)))]

    def put_back(self, unsolved: Sequence[CorrectiveContext]) -> None:
        """Take in again what nobody solved, unless it was used as often as may be; a newer equal one stays."""
        back = [one for one in unsolved if self._uses[one.key] < USES and one.key not in self._waiting]
        self._waiting = {one.key: one for one in (*reversed(back), *self._waiting.values())}
        self._make_room()

    def _by_need(self) -> list[CorrectiveContext]:
        """All that wait, the neediest first."""
        freshest_first = list(self._waiting.values())[::-1]
        return sorted(
            freshest_first,
            key=lambda one: (one.failing < 1, self._practised[kind_of(one)], -one.policy_version),
        )

    def _use(self, context: CorrectiveContext) -> CorrectiveContext:
        del self._waiting[context.key]
        self._practised[kind_of(context)] += 1
        self._uses[context.key] += 1
        return context

    def _make_room(self) -> None:
        excess = self._by_need()[self.capacity :]
        for context in excess:
            del self._waiting[context.key]
        self.dropped += len(excess)

    def state_dict(self) -> dict[str, Any]:
        """Everything, picklable: contexts are plain frozen values."""
        return {
            "contexts": list(self._waiting.values()),
            "duplicates": self.duplicates,
            "dropped": self.dropped,
            "practised": dict(self._practised),
            "uses": dict(self._uses),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._waiting = {context.key: context for context in state["contexts"]}
        self.duplicates = state["duplicates"]
        self.dropped = state["dropped"]
        self._practised = Counter(state["practised"])
        self._uses = Counter(state["uses"])


def kind_of(context: CorrectiveContext) -> Kind:
    """What its use practises."""
    return context.error, context.tool
