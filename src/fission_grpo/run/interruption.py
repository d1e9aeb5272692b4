"""Ctrl-C with manners: the first one asks the run to stop after its step, the second one ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

_ASKED = b"\nstopping after this step, then saving; once more to quit at once\n"
_SHOW_CURSOR = b"\x1b[?25h"


class Interruption:
    """While entered, says when asked whether the user (SIGINT) or the machine (SIGTERM) wants to stop.

    Only the main thread of a program may listen to signals: in any other one nobody is heard.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        listens = threading.current_thread() is threading.main_thread()
        for number in (signal.SIGINT, signal.SIGTERM) if listens else ():
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        return self.asked

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Async-safe: the next signal is the system's, so that it ends even a run that is stuck in a long kernel."""
        self.asked = True
        signal.signal(number, signal.SIG_DFL)
        os.write(2, (_SHOW_CURSOR if sys.stderr.isatty() else b"") + _ASKED)
