"""How alike two sets of calls are, with partial credit inside arguments: the F1 of arXiv:2601.15625, stage 1.

One property carries failure detection: a score is 1 exactly when the two sides are equal (calls in any order).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from scipy.optimize import linear_sum_assignment

from fission_grpo.types import ToolCall

ALMOST = 0.9
"""What values with the same parts in another order are worth; ours."""
_TOKEN = re.compile(r"\w+|[^\w\s]")
_ItemT = TypeVar("_ItemT")


def argument_score(calls: Sequence[ToolCall], gold: Sequence[ToolCall]) -> float:
    """(1/|M|) sum of F1(a, a*) over argument pairs, in [0, 1].

    Calls are matched one to one, among equal names, so that the sum is largest. M holds one pair for every argument
    name that either side of a matched call has, and for every argument of an unmatched call of either side: a missing,
    an unexpected and a superfluous argument each count as a pair worth 0. A call without arguments counts as one pair,
    so that leaving it out or adding it is never free. Two empty sides score 1.
    """
    calls, gold = sorted(calls, key=call_key), sorted(gold, key=call_key)  # ties must not depend on the order given
    matched = _best_matching(calls, gold, lambda a, b: 1 + _mean(_pairs(a, b)) if a.name == b.name else 0.0)
    matched = [(i, j) for i, j in matched if calls[i].name == gold[j].name]
    scores = [score for i, j in matched for score in _pairs(calls[i], gold[j])]
    left = [call for i, call in enumerate(calls) if i not in {i for i, _ in matched}]
    left += [call for j, call in enumerate(gold) if j not in {j for _, j in matched}]
    scores += [0.0 for call in left for _ in range(max(1, len(call.arguments)))]
    return _mean(scores) if scores else 1.0


def value_score(value: Any, gold: Any) -> float:
    """F1 of one JSON value against another, in [0, 1]; 1 exactly when they are equal.

    Strings: F1 of word and punctuation tokens. Lists: F1 of the items, matched one to one, with credit inside items.
    Objects: F1 of the keys, with credit inside values. Everything else, and values of different kinds: equal or not,
    where 1 equals 1.0 and neither equals true.
    """
    if equal(value, gold):
        return 1.0
    if isinstance(value, str) and isinstance(gold, str):
        return _short_of_one(_token_f1(value, gold))
    if _is_list(value) and _is_list(gold):
        return _short_of_one(_list_f1(value, gold))
    if isinstance(value, Mapping) and isinstance(gold, Mapping):
        common = sum(value_score(value[key], gold[key]) for key in value.keys() & gold.keys())
        return 2 * common / (len(value) + len(gold))
    return 0.0


def equal(a: Any, b: Any) -> bool:
    """JSON equality: numbers by value, but true is not 1; list order counts, key order does not."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if _is_list(a) and _is_list(b):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return bool(a == b)


def call_key(call: ToolCall) -> str:
    """Text that is the same exactly for calls that say the same: key order and 1 against 1.0 do not count."""
    arguments = json.loads(json.dumps(call.arguments, default=dict), parse_float=_number)
    return json.dumps([call.name, arguments], sort_keys=True, ensure_ascii=False)


def _pairs(call: ToolCall, gold: ToolCall) -> list[float]:
    names = call.arguments.keys() | gold.arguments.keys()
    if not names:
        return [1.0]
    both = call.arguments.keys() & gold.arguments.keys()
    return [value_score(call.arguments[n], gold.arguments[n]) if n in both else 0.0 for n in sorted(names)]


def _token_f1(a: str, b: str) -> float:
    a_tokens, b_tokens = Counter(_TOKEN.findall(a)), Counter(_TOKEN.findall(b))
    total = a_tokens.total() + b_tokens.total()
    return 2 * (a_tokens & b_tokens).total() / total if total else 0.0


def _list_f1(a: Sequence[Any], b: Sequence[Any]) -> float:
    common = sum(value_score(a[i], b[j]) for i, j in _best_matching(a, b, value_score))
    return 2 * common / (len(a) + len(b))


def _short_of_one(f1: float) -> float:
    return f1 if f1 < 1 else ALMOST


def _best_matching(
    a: Sequence[_ItemT], b: Sequence[_ItemT], score: Callable[[_ItemT, _ItemT], float]
) -> list[tuple[int, int]]:
    """One-to-one pairs of indices with the largest sum of scores."""
    if not a or not b:
        return []
    scores = np.array([[score(x, y) for y in b] for x in a])
    rows, columns = linear_sum_assignment(scores, maximize=True)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _number(literal: str) -> int | float:
    number = float(literal)
    return int(number) if number.is_integer() else number
