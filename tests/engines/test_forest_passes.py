"""How rows are dealt by what they share: against every other way to cut them, and by hand."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from fission_grpo.engines.forest_passes import dealt, parts_within, unique_tokens

ROWS = st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=6)


def nodes(rows: list[list[int]]) -> int:
    return len({tuple(row[: place + 1]) for row in rows for place in range(len(row))})


def largest(rows: list[list[int]], parts: list[list[int]]) -> int:
    return max(nodes([rows[index] for index in part]) for part in parts)


@given(rows=ROWS)
def test_unique_tokens_are_different_prefixes(rows: list[list[int]]) -> None:
    assert unique_tokens(rows) == nodes(rows)


@given(rows=ROWS, parts=st.integers(1, 4))
def test_no_cut_of_sorted_rows_has_a_smaller_largest_part(rows: list[list[int]], parts: int) -> None:
    found = dealt(rows, parts)
    assert sorted(index for part in found for index in part) == list(range(len(rows)))
    assert len(found) == parts
    assert all(found) or len(rows) < parts
    ordered = sorted(range(len(rows)), key=lambda index: rows[index])
    cuts = combinations(range(1, len(rows)), min(parts, len(rows)) - 1)
    every = [[ordered[a:b] for a, b in zip((0, *cut), (*cut, len(rows)), strict=True)] for cut in cuts]
    assert largest(rows, found) == min(largest(rows, each) for each in every)


@given(rows=ROWS, token_budget=st.integers(1, 20))
def test_as_few_parts_as_fit_a_budget(rows: list[list[int]], token_budget: int) -> None:
    parts = parts_within(rows, token_budget)
    longest = max(map(len, rows))
    assert largest(rows, dealt(rows, parts)) <= max(token_budget, longest)
    if parts > 1 and longest <= token_budget:
        assert largest(rows, dealt(rows, parts - 1)) > token_budget


def test_families_by_hand() -> None:
    """Two prompts of four tokens; of the first, three answers of one, and a recovery behind two more tokens."""
    rows = [[1, 1, 1, 1, 5], [2, 2, 2, 2, 5], [1, 1, 1, 1, 6], [2, 2, 2, 2, 6], [1, 1, 1, 1, 7], [1, 1, 1, 1, 5, 8, 9]]
    assert dealt(rows, 2) == [[0, 5, 2, 4], [1, 3]]  # 4 + 3 + 2 unique tokens, and 4 + 2
    assert unique_tokens(rows) == 15
    assert parts_within(rows, 9) == 2
    assert parts_within(rows, 15) == 1
    assert dealt([], 3) == [[], [], []]
