"""Draft tokens are what followed the same tokens last."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fission_grpo.policy.local.speculation import ORDERS, REACH, PromptLookup

SENTENCE = (11, 12, 13, 14, 15, 16, 17, 18)


def test_a_known_sentence_is_continued_to_its_end() -> None:
    lookup = PromptLookup()
    lookup.learn(SENTENCE)
    assert lookup.draft([SENTENCE[:3], (99, *SENTENCE[:2])], 8) == [list(SENTENCE[3:]), list(SENTENCE[2:])]


def test_no_more_than_asked_for() -> None:
    lookup = PromptLookup()
    lookup.learn(SENTENCE)
    assert lookup.draft([SENTENCE[:3]], 2) == [[14, 15]]


def test_what_was_never_seen_is_not_drafted() -> None:
    lookup = PromptLookup()
    assert lookup.draft([SENTENCE], 4) == [[]]
    lookup.learn(SENTENCE)
    # One known token is not enough: the shortest order looks at two.
    assert min(ORDERS) == 2
    assert lookup.draft([(99, 13)], 4) == [[]]


def test_the_longer_run_knows_better() -> None:
    lookup = PromptLookup()
    lookup.learn((1, 2, 3, 4, 70))
    lookup.learn((5, 6, 3, 4, 80))
    assert lookup.draft([(1, 2, 3, 4), (5, 6, 3, 4), (9, 9, 3, 4)], 1) == [[70], [80], [80]]


def test_the_last_word_counts() -> None:
    lookup = PromptLookup()
    lookup.learn(SENTENCE)
    lookup.learn((*SENTENCE[:3], 77))
    assert lookup.draft([SENTENCE[:3]], 1) == [[77]]


def test_what_stands_before_is_seen_and_not_learned() -> None:
    lookup = PromptLookup()
    lookup.learn(SENTENCE, 5)
    assert lookup.draft([SENTENCE[:2], SENTENCE[:5]], 1) == [[], [16]]


def test_a_state_is_carried_over() -> None:
    lookup, other = PromptLookup(), PromptLookup()
    lookup.learn(SENTENCE)
    other.load_state_dict(lookup.state_dict())
    lookup.learn((*SENTENCE[:3], 77))
    assert other.draft([SENTENCE[:3]], 1) == [[14]]


@given(st.lists(st.integers(0, 150_000), max_size=30, unique=True), st.data())
def test_a_text_without_repetition_is_known_by_heart(text: list[int], data: st.DataObject) -> None:
    """Learned in pieces, each with what stands before it, as a dialogue is read."""
    lookup = PromptLookup()
    begin = 0
    while begin < len(text):
        end = data.draw(st.integers(begin + 1, len(text)))
        lookup.learn(text[:end], begin)
        begin = end
    place = data.draw(st.integers(min(2, len(text)), len(text)))
    assert lookup.draft([text[max(0, place - REACH) : place]], len(text)) == [text[place:] if place >= 2 else []]
