"""One seed for every draw, derived and never consumed: the same run can be entered at any step."""

from __future__ import annotations

import hashlib


def derive(*parts: int | str) -> int:
    """A 63-bit seed for one purpose, for instance `derive(run_seed, "explore", step)`."""
    digest = hashlib.sha256("/".join(map(repr, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
