"""What one tool call may cost, enforced in any thread.

Two lines of defence. *Guards* refuse a call before it runs, from its arguments and the world alone: they are exact,
reproducible, and the only thing that stops work inside C (big integers, `decimal`, `mpmath`). The *watchdog* raises
`CallTimeout` inside a thread whose call overruns the wall clock; it is for what no guard foresaw. It only interrupts:
whether a call overran is read off the clock when the call ends, so it does not depend on when the watchdog looks.
"""

from __future__ import annotations

import copy
import ctypes
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """Caps on one call; ours, chosen above everything that the 4,625 official gold calls need."""

    seconds: float = 2.0
    """Wall clock; a call that takes as long or longer is an overrun. One that goes on is stopped within `_TICK`."""
    characters: int = 200_000
    """Length of the answer."""
    depth: int = 32
    """Nesting of the arguments."""


class CallTimeout(BaseException):
    """Raised by the watchdog inside the overrunning call; no `except Exception` on the way may swallow it."""


Guard: TypeAlias = Callable[[Mapping[str, Any], Any], str | None]
"""Arguments and the instance that would run them -> why the call is refused, or None."""

_SCALARS = frozenset({str, int, float, bool, type(None)})
_MAX_PRECISION = 5_000
_MAX_BITS = 1_000_000
_MAX_PLACES = 5_000
_MAX_NODES = 20_000
_MAX_DIRECTORY_DEPTH = 200
_MAX_NESTED = 48
"""Levels of directories from which on none is put into another. Whatever copies, hashes or freezes a tree recurses, and
one call can double them: twice as many still fit, and a model cannot make its own trajectory a fault of ours."""
_HUGE_NUMERAL = re.compile(r"[eE][+-]?0*\d{4,}|[\d.]{400,}")
"""A numeral in text whose value would have thousands of digits; mpmath reads text as a number."""


class NestingError(ValueError):
    """Arguments are nested deeper than the limit."""


def bounded_copy(value: Any, depth: int) -> Any:
    """A copy of a JSON value that shares nothing mutable with it.

    Raises:
        NestingError: containers are nested deeper than `depth`.
    """
    kind = type(value)
    if kind in _SCALARS:
        return value
    if depth == 0:
        raise NestingError
    if kind is dict:
        return {key: bounded_copy(item, depth - 1) for key, item in value.items()}
    if kind is list or kind is tuple:
        return kind([bounded_copy(item, depth - 1) for item in value])
    return copy.deepcopy(value)


def _integer(value: Any) -> int:
    """The integer that `int(value)` would give to a precision, or 0 where it gives an ordinary error."""
    try:
        return abs(int(value))
    except (TypeError, ValueError, OverflowError):
        return 0


def _guard_precision(arguments: Mapping[str, Any], instance: Any) -> str | None:
    if _integer(arguments.get("precision")) > _MAX_PRECISION:
        return f"precision is above {_MAX_PRECISION} digits"
    if any(isinstance(value, str) and _HUGE_NUMERAL.search(value) for value in arguments.values()):
        return "a numeral is too long"
    return None


def _guard_power(arguments: Mapping[str, Any], instance: Any) -> str | None:
    base, exponent = arguments.get("base"), arguments.get("exponent")
    if isinstance(base, int) and isinstance(exponent, int) and abs(base) > 1:
        bits = base.bit_length() * abs(exponent)
        return f"the result would have about {bits} bits, above {_MAX_BITS}" if bits > _MAX_BITS else None
    return None


def _guard_round(arguments: Mapping[str, Any], instance: Any) -> str | None:
    if _integer(arguments.get("decimal_places")) > _MAX_PLACES:
        return f"decimal_places is above {_MAX_PLACES}"
    return None


def _guard_tree(arguments: Mapping[str, Any], instance: Any) -> str | None:
    """Copies share their content, so twenty `cp` can make a tree of a million paths, and `cp a a` an endless one."""
    pending, nodes = [(instance.root, 0)], 0
    while pending:
        directory, depth = pending.pop()
        nodes += len(directory.contents)
        if nodes > _MAX_NODES or depth > _MAX_DIRECTORY_DEPTH:
            return f"the directory tree is above {_MAX_NODES} entries or {_MAX_DIRECTORY_DEPTH} levels"
        pending.extend((item, depth + 1) for item in directory.contents.values() if hasattr(item, "contents"))
    return None


def _guard_nesting(arguments: Mapping[str, Any], instance: Any) -> str | None:
    level, depth = {0: instance.root}, 0
    while level and depth < _MAX_NESTED:  # by identity: copies share what they hold, and are looked at once
        inner = (item for directory in level.values() for item in directory.contents.values())
        level = {id(item): item for item in inner if hasattr(item, "contents")}
        depth += 1
    return f"the directories are nested {_MAX_NESTED} levels deep already" if level else None


GUARDS: Mapping[str, Guard] = MappingProxyType(
    {
        "logarithm": _guard_precision,
        "square_root": _guard_precision,
        "power": _guard_power,
        "round_number": _guard_round,
        "find": _guard_tree,
        "du": _guard_tree,
        **dict.fromkeys(("mkdir", "cp", "mv"), _guard_nesting),
    }
)
"""The official functions whose cost is not bounded by the size of their arguments and of the world."""


_TICK = 0.1
"""Seconds between two looks of the watchdog."""


@dataclass(slots=True)
class _Watchdog:
    """One daemon thread for the process, started with the first call."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    watched: dict[int, time_limit] = field(default_factory=dict)
    """Thread -> what it is running under."""
    thread: threading.Thread | None = None

    def start(self) -> None:
        with self.lock:
            if self.thread is None:
                self.thread = threading.Thread(target=self._run, name="tool-watchdog", daemon=True)
                self.thread.start()

    def _run(self) -> None:
        while True:
            time.sleep(_TICK)
            with self.lock:
                now = time.monotonic()
                for thread, limit in list(self.watched.items()):
                    if now > limit.deadline and not limit.fired:
                        limit.fired = True
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(
                            ctypes.c_ulong(thread), ctypes.py_object(CallTimeout)
                        )


_watchdog = _Watchdog()


def _forget_threads_of_parent() -> None:
    global _watchdog  # a forked child has neither the thread nor a trustworthy lock
    _watchdog = _Watchdog()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads_of_parent)


class time_limit:  # noqa: N801 (a context manager, read as a verb; a class because it runs around every call)
    """Run the body under the watchdog, in whatever thread this is; not to be nested.

    Raises:
        CallTimeout: the body took `seconds` or longer, whether it was interrupted or ended by itself.
    """

    __slots__ = ("_seconds", "_thread", "_watchdog", "deadline", "fired")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.fired = False

    def __enter__(self) -> None:
        self._watchdog = _watchdog
        if self._watchdog.thread is None:
            self._watchdog.start()
        self._thread = threading.get_ident()
        self.deadline = time.monotonic() + self._seconds
        self._watchdog.watched[self._thread] = self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        with self._watchdog.lock:  # from here on the watchdog does not fire
            self._watchdog.watched.pop(self._thread, None)
        if self.fired and kind is not CallTimeout:
            # It is still on its way, or arrived where exceptions are swallowed (a finaliser, a bare `except`): taken
            # back, so that it cannot arrive in our caller's code, and raised here.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), None)
            raise CallTimeout
        if (kind is None or issubclass(kind, Exception)) and time.monotonic() >= self.deadline:
            raise CallTimeout  # it ended too late, before the watchdog's next look
