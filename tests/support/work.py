"""Work, counted: what a test may ask for where seconds would depend on the machine."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType


def entered(action: Callable[[], object]) -> Counter[str]:
    """How often each Python function was entered meanwhile, by its qualified name."""
    count: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            count[frame.f_code.co_qualname] += 1

    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count
