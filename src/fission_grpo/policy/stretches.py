"""Rows of different lengths in one pass: how far each of them is looked back at.

A batch is as wide as its longest row, and what a shorter one lacks is masked: read and thrown away. Rows lie next to
each other, so attention can take them in stretches, each only as wide as its own longest row.

Shapes: R rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fission_grpo.tree.prefix_tree import Ints


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows `begin .. end - 1`, which look at `width` tokens at most."""

    begin: int
    end: int
    width: int


def stretches(widths_R: Ints, *, call: float) -> list[Stretch]:
    """Cut rows where that saves more than another call of attention costs.

    The best cut first, then each side for itself: not always the best of all partitions, but it costs next to nothing.

    Args:
        widths_R: tokens that each row looks at.
        call: what a call costs, in tokens of one row that are read.
    """
    return _cut(widths_R, 0, len(widths_R), call)


def _cut(widths_R: Ints, begin: int, end: int, call: float) -> list[Stretch]:
    some = widths_R[begin:end]
    whole = Stretch(begin, end, int(some.max()))
    if len(some) < 2:
        return [whole]
    left = np.maximum.accumulate(some)[:-1]
    right = np.maximum.accumulate(some[::-1])[::-1][1:]
    sizes = np.arange(1, len(some))
    read = left * sizes + right * (len(some) - sizes)
    best = int(read.argmin())
    if read[best] + call >= whole.width * len(some):
        return [whole]
    middle = begin + best + 1
    return [*_cut(widths_R, begin, middle, call), *_cut(widths_R, middle, end, call)]
