"""Coroutines from code that is not asynchronous: one event loop on one thread, for as long as the process lives.

A client keeps to the loop that it was made on, so there is one for all calls; and a notebook's own loop is left alone.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Iterable
from functools import cache
from typing import Any


def awaited(value: Any) -> Any:
    """The value, awaited if it has to be."""
    return all_awaited([value])[0]


def all_awaited(values: Iterable[Any]) -> list[Any]:
    """The values in order, those that have to be awaited side by side."""
    pending = list(values)
    if not any(map(inspect.isawaitable, pending)):
        return pending
    return asyncio.run_coroutine_threadsafe(_gathered(pending), _loop()).result()


async def _gathered(values: list[Any]) -> list[Any]:
    return list(await asyncio.gather(*map(_awaited, values)))


async def _awaited(value: Any | Awaitable[Any]) -> Any:
    return await value if inspect.isawaitable(value) else value


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="fission coroutines", daemon=True).start()
    return loop
