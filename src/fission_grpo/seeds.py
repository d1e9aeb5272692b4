"""One seed for every draw, derived and never consumed: the same run can be entered at any step."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from random import Random


def derive(*parts: int | str) -> int:
    """A 63-bit seed for one purpose, for instance `derive(run_seed, "explore", step)`."""
    digest = hashlib.sha256("/".join(map(repr, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def in_turn(place: int, count: int, *, seed: int, purpose: str) -> int:
    """Which of `count` things comes at a place of an endless order: seeded shuffles one after the other, no gaps."""
    round_, index = divmod(place, count)
    return _shuffled(count, derive(seed, purpose, round_))[index]


@lru_cache(maxsize=4)  # a step may end one round and begin the next, of tasks and of a pool
def _shuffled(count: int, seed: int) -> tuple[int, ...]:
    order = list(range(count))
    Random(seed).shuffle(order)
    return tuple(order)
