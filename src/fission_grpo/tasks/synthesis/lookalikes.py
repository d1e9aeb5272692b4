"""Tools that look right for a request and are wrong: `cp` where `mv` is due, `resolve_ticket` beside `close_ticket`.

Nothing is renamed: they are other tools of the same official class, ranked by their own names and descriptions. Ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from itertools import chain, zip_longest

from fission_grpo.types import Tool

_WORD = re.compile(r"[a-z]+")
_PREAMBLE = "Tool description: "
"""Before it the official descriptions speak of the whole class."""


def lookalikes(wanted: Iterable[tuple[Tool, str, Sequence[Tool]]]) -> Iterator[str]:
    """Names of wrong tools, the most misleading first: the nearest of each right one in turn, then the second nearest.

    Args:
        wanted: tools that are right, each with what the user says of it, and the wrong tools of its class.
    """
    rankings = [_ranking(right, _words(text), others) for right, text, others in wanted]
    yield from dict.fromkeys(name for name in chain.from_iterable(zip_longest(*rankings)) if name is not None)


def _ranking(right: Tool, said: frozenset[str], others: Sequence[Tool]) -> list[str]:
    near = {_name(other): _likeness(other, right) + _spoken(_name(other), said) for other in others}
    return sorted(near, key=lambda name: (-near[name], name))


def _likeness(other: Tool, right: Tool) -> float:
    """Share of words that the names of two tools have in common, plus that of their descriptions: in [0, 2]."""
    names = _common(_words(_name(other)), _words(_name(right)))
    return names + _common(_purpose(other["function"]["description"]), _purpose(right["function"]["description"]))


def _spoken(name: str, said: frozenset[str]) -> float:
    """Share of the words of a name that the user says."""
    words = _words(name)
    return len(words & said) / len(words)


def _common(some: frozenset[str], more: frozenset[str]) -> float:
    return len(some & more) / len(some | more)


def _name(tool: Tool) -> str:
    return str(tool["function"]["name"])


@cache
def _purpose(description: str) -> frozenset[str]:
    """Words of the first sentence about the tool itself."""
    return _words(description.rpartition(_PREAMBLE)[2].partition(". ")[0])


@lru_cache(maxsize=4096)
def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower()))
