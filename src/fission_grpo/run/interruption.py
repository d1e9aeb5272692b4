"""Being stopped, by the user (SIGINT, Ctrl-C) or by the machine (SIGTERM): one rule for both.

What can finish a step and save does so, and the second signal ends it at once (`Interruption`). Everything else is
left through an exception, `KeyboardInterrupt`, so that every `with` block on the way puts its things in order: children
are ended, locks given back, halves of files removed. Either way the process ends with the code `INTERRUPTED`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

INTERRUPTED = 130
"""Exit code of whatever was stopped, as shells have it for Ctrl-C."""
_ASKED = b"\nstopping after this step, then saving; once more to quit at once\n"
_SHOW_CURSOR = b"\x1b[?25h"


def heed_termination() -> None:
    """From now on SIGTERM is what Ctrl-C is; to be called once by a program, in its main thread."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


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
