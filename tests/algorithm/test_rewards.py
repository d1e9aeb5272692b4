"""Each number below can be checked by eye: the comment holds its arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fission_grpo.algorithm.rewards import DecisionReward, EpisodeReward, count_repeats
from fission_grpo.call_matching import ALMOST, argument_score, call_key, equal, value_score
from fission_grpo.types import (
    Completion,
    ErrorClass,
    FinishReason,
    OutcomeKind,
    ParsedMessage,
    ParseFailure,
    ParseFailureKind,
    ToolCall,
    ToolOutcome,
    Turn,
    Verdict,
)

OK = ToolOutcome(kind=OutcomeKind.SUCCESS, text="{}")
ERROR = ToolOutcome(kind=OutcomeKind.ERROR, text="no", error=ErrorClass.NOT_FOUND)
BROKEN = ParseFailure(kind=ParseFailureKind.JSON, start=0, text="<tool_call>{", detail="expected a value at column 2")
SOLVED = Verdict(ok=True, matched=1.0)
UNSOLVED = Verdict(ok=False, error_type="state", matched=0.0)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
calls = st.builds(
    ToolCall,
    name=st.sampled_from(["cd", "ls", "cat"]),
    arguments=st.dictionaries(st.sampled_from(["a", "b"]), json_values, max_size=2),
)


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


def turn(*calls: ToolCall, outcomes: Sequence[ToolOutcome] = (), tokens: int = 10, text: str = "") -> Turn:
    return Turn(
        completion=Completion(ids=tuple(range(tokens)), logprobs=(0.0,) * tokens, finish=FinishReason.STOP),
        text=text,
        parsed=ParsedMessage(content=text, calls=calls, failures=()),
        outcomes=tuple(outcomes),
    )


def malformed(text: str = "<tool_call>{", *, well_formed: Sequence[ToolCall] = ()) -> Turn:
    return Turn(
        completion=Completion(ids=(1,), logprobs=(0.0,), finish=FinishReason.STOP),
        text=text,
        parsed=ParsedMessage(content="", calls=tuple(well_formed), failures=(BROKEN,)),
        outcomes=(ToolOutcome(kind=OutcomeKind.ERROR, text="malformed", error=ErrorClass.FORMAT),),
    )


def corr(calls: Sequence[ToolCall], target: Sequence[ToolCall]) -> float:
    return DecisionReward().correctness(turn(*calls), target)


# --- how alike two values are


@pytest.mark.parametrize(
    ("value", "gold", "score"),
    [
        (1, 1.0, 1.0),
        (1, True, 0.0),
        (0, False, 0.0),
        ("5", 5, 0.0),
        (None, "", 0.0),
        ("", "", 1.0),
        ("the red fox", "the fox", 0.8),  # 2 common of 3 + 2 tokens: 4/5
        ("fox the", "the fox", ALMOST),
        ("Fox", "fox", 0.0),
        ([1, 2], [2, 3], 0.5),  # 1 common item: 2 * 1 / 4
        ([2, 1], [1, 2], ALMOST),
        ([1, 1, 2], [1, 2, 2], 2 / 3),  # the multiset counts: 2 common of 3 + 3
        ([{"a": 1, "b": 2}], [{"a": 1, "b": 3}], 0.5),  # the items pair up with F1 2 * 1 / 4: credit inside
        ({"a": 1}, {"a": 1, "b": 2}, 2 / 3),  # 2 * 1 / 3
        ({"a": "x y"}, {"a": "x"}, 2 / 3),  # key common, value 2 * 1 / 3, of 1 + 1 keys
        ({}, [], 0.0),
    ],
)
def test_value_score(value: Any, gold: Any, score: float) -> None:
    assert value_score(value, gold) == pytest.approx(score)
    assert value_score(gold, value) == pytest.approx(score)


@given(json_values, json_values)
def test_a_value_scores_one_exactly_when_it_is_equal(a: Any, b: Any) -> None:
    assert value_score(a, a) == 1.0
    assert 0.0 <= value_score(a, b) <= 1.0
    assert (value_score(a, b) == 1.0) == equal(a, b)


@given(st.lists(calls, max_size=3), st.lists(calls, max_size=3))
def test_correctness_is_one_exactly_when_the_calls_are_right_in_any_order(
    made: list[ToolCall], gold: list[ToolCall]
) -> None:
    value = corr(made, gold)
    assert 0.0 <= value <= 1.0
    assert (value == 1.0) == (sorted(map(call_key, made)) == sorted(map(call_key, gold)))
    assert value == pytest.approx(corr(made[::-1], gold[::-1]))


# --- the decision point


def test_parallel_calls_are_matched_to_the_gold_calls_that_fit_best() -> None:
    gold = [call("cat", file="a"), call("cat", file="b")]
    assert corr([call("cat", file="b"), call("cat", file="a")], gold) == 1.0
    # one pair right, one wrong: 1/2 of the arguments, names equal: .5 + .5 * .5
    assert corr([call("cat", file="b"), call("cat", file="c")], gold) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ([call("cp", source="a", target="b")], 1.0),
        ([call("cp", source="a", target="c")], 0.75),  # .5 + .5 * 1/2
        ([call("cp", source="a")], 0.75),  # missing: the pair counts and is worth 0
        ([call("cp", source="a", target="b", force=True)], 0.5 + 0.5 * 2 / 3),  # unexpected: a third pair, worth 0
        ([call("mv", source="a", target="b")], 0.0),  # no pair has the same name
        ([], 0.0),
        ([call("cp", source="a", target="b"), call("ls")], 0.5 * 2 / 3),  # names differ; ls adds a pair worth 0
    ],
)
def test_correctness_counts_every_argument_of_both_sides(made: list[ToolCall], expected: float) -> None:
    assert corr(made, [call("cp", source="a", target="b")]) == pytest.approx(expected)


def test_leaving_out_a_call_without_arguments_costs() -> None:
    assert argument_score([call("pwd")], [call("pwd"), call("cd", folder="x")]) == 0.5
    assert argument_score([call("pwd"), call("ls")], [call("pwd")]) == 0.5


def test_where_no_call_is_wanted_only_silence_is_right() -> None:
    assert corr([], []) == 1.0
    assert corr([call("pwd")], []) == 0.0
    assert DecisionReward().correctness(malformed(), []) == 0.0


def test_the_calls_of_a_malformed_message_are_worth_nothing() -> None:
    assert DecisionReward().correctness(malformed(well_formed=[call("pwd")]), [call("pwd")]) == 0.0


@pytest.mark.parametrize(("progress", "total"), [(0.0, 2 + 1 + 1), (0.5, 1.5 + 1.5 + 1), (1.0, 1 + 2 + 1)])
def test_the_best_reward_is_the_same_during_the_whole_run(progress: float, total: float) -> None:
    reward = DecisionReward().score(turn(call("pwd")), target=[call("pwd")], gold_tokens=10, progress=progress)
    assert reward.total == pytest.approx(total / 3)


def test_format_is_paid_most_at_first_and_correctness_at_last() -> None:
    def total(message: Turn, progress: float) -> float:
        settings = DecisionReward()
        return settings.score(message, target=[call("pwd")], gold_tokens=10, progress=progress).total

    wrong = turn(call("ls"))
    assert total(wrong, 0.0) == pytest.approx((2 + 0 + 1) / 3)
    assert total(wrong, 1.0) == pytest.approx((1 + 0 + 1) / 3)


@pytest.mark.parametrize(
    ("tokens", "value"),
    [
        (10, 1.0),
        (5, 1.0),
        (15, 1.0),
        (25, math.exp(-0.5)),  # one gold length beyond the band of 5 to 15: one sigma
        (0, math.exp(-0.125)),  # half a gold length beyond: exp(-.5^2 / 2)
    ],
)
def test_length_costs_nothing_inside_the_band(tokens: int, value: float) -> None:
    reward = DecisionReward().score(turn(tokens=tokens), target=[], gold_tokens=10, progress=0.0)
    assert reward.value("length") == pytest.approx(value)


def test_a_message_that_was_cut_off_is_not_well_formed() -> None:
    whole = turn(call("pwd"))
    cut = Turn(
        completion=Completion(ids=(1,) * 10, logprobs=(0.0,) * 10, finish=FinishReason.LENGTH),
        text=whole.text,
        parsed=whole.parsed,
        outcomes=(),
    )
    scores = [DecisionReward().score(t, target=[], gold_tokens=10, progress=0.0).value("format") for t in (whole, cut)]
    assert scores == [1.0, 0.0]


def test_the_explanation_holds_every_term_and_the_exact_sum() -> None:
    reward = DecisionReward().score(turn(call("ls")), target=[call("pwd")], gold_tokens=10, progress=0.25)
    assert reward.total == reward.scale * sum(term.weight * term.value for term in reward.terms)
    assert [(term.name, term.why) for term in reward.terms] == [
        ("format", "1 of 1 messages well formed and ended"),
        ("correctness", "called ls; wanted pwd"),
        ("length", "10 tokens; gold has 10"),
    ]


@pytest.mark.parametrize("bad", [{"alpha": 1.0}, {"alpha": -0.1}, {"format_weight": (-1.0, 1.0)}, {"length_band": -1}])
def test_decision_settings_that_cannot_work_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"(?s){next(iter(bad))}.*should be"):
        DecisionReward(**bad)


@pytest.mark.parametrize("bad", [{"progress": 1.1, "gold_tokens": 1}, {"progress": 0.5, "gold_tokens": 0}])
def test_moments_and_lengths_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        DecisionReward().score(turn(), target=[], **bad)


# --- the episode

ORDER, LOGIN = call("place_order", amount=1), call("login", user="u")
DONE = turn(text="done")


def test_a_solved_clean_episode_is_worth_one() -> None:
    turns = [turn(LOGIN, outcomes=[OK]), turn(ORDER, outcomes=[OK]), turn(text="done")]
    assert EpisodeReward().score(turns, verdict=SOLVED, gold=[LOGIN, ORDER]).total == pytest.approx(1.0)


def test_no_unsolved_episode_is_worth_as_much_as_the_worst_solved_one() -> None:
    settings = EpisodeReward()
    worst = [malformed(), malformed()] + [turn(ORDER, outcomes=[ERROR])] * 30 + [DONE]
    best = [turn(LOGIN, outcomes=[OK]), turn(ORDER, outcomes=[OK])]
    solved = settings.score(worst, verdict=SOLVED, gold=[])
    unsolved = settings.score(best, verdict=UNSOLVED, gold=[LOGIN, ORDER])
    assert unsolved.value("progress") == 1.0
    assert solved.total > unsolved.total


def test_calls_beyond_gold_and_the_spare_ones_cost_solved_episodes_only() -> None:
    many = [turn(LOGIN, outcomes=[OK])] * 4 + [turn(ORDER, outcomes=[OK])] * 4 + [DONE]
    gold = [LOGIN, ORDER]
    assert EpisodeReward().score(many, verdict=SOLVED, gold=gold).value("efficiency") == 0.5  # 2 + 2 free of 8
    assert EpisodeReward().score(many[4:], verdict=SOLVED, gold=gold).value("efficiency") == 1.0
    assert EpisodeReward().score([turn()], verdict=UNSOLVED, gold=gold).value("efficiency") == 0.0


def test_where_nobody_knows_how_many_calls_are_needed_none_is_too_many() -> None:
    turns = [*[turn(LOGIN, outcomes=[OK])] * 9, DONE]
    assert EpisodeReward().score(turns, verdict=SOLVED, gold=None).total == pytest.approx(1.0)
    half = EpisodeReward().score(turns, verdict=Verdict(ok=False, error_type="reward", matched=0.5), gold=None)
    assert (half.value("progress"), half.value("efficiency")) == (0.5, 0.0)


def test_a_world_put_right_by_a_policy_that_does_not_stop_is_not_solved() -> None:
    calls = [turn(LOGIN, outcomes=[OK]), turn(ORDER, outcomes=[OK])]
    assert EpisodeReward().score(calls, verdict=SOLVED, gold=[LOGIN, ORDER]).value("verdict") == 0.0
    assert EpisodeReward().score([*calls, DONE], verdict=SOLVED, gold=[LOGIN, ORDER]).value("verdict") == 1.0


def test_progress_counts_each_gold_call_once_and_only_when_it_succeeded() -> None:
    gold = [LOGIN, ORDER]
    turns = [turn(LOGIN, outcomes=[OK]), turn(LOGIN, outcomes=[OK]), turn(ORDER, outcomes=[ERROR])]
    assert EpisodeReward().score(turns, verdict=UNSOLVED, gold=gold).value("progress") == 0.5
    half = Verdict(ok=False, matched=0.75)
    assert EpisodeReward().score(turns, verdict=half, gold=gold).value("progress") == 0.75
    assert EpisodeReward().score(turns[1:], verdict=UNSOLVED, gold=gold, before=turns[:1]).value("progress") == 0.5


def test_a_repeat_in_vain_counts_and_a_repeat_that_works_does_not() -> None:
    failed = turn(ORDER, outcomes=[ERROR])
    assert count_repeats([failed, failed, failed]) == 2
    assert count_repeats([failed, turn(LOGIN, outcomes=[OK]), turn(ORDER, outcomes=[OK])]) == 0
    assert count_repeats([turn(call("place_order", amount=2), outcomes=[ERROR])], before=[failed]) == 0


def test_the_failed_call_of_the_corrective_context_counts() -> None:
    failed = turn(ORDER, outcomes=[ERROR])
    reward = EpisodeReward().score([failed, turn(LOGIN, outcomes=[OK])], verdict=UNSOLVED, gold=[], before=[failed])
    assert reward.value("repeat") == 0.5
    silent = turn(LOGIN, outcomes=[OK])
    assert count_repeats([silent], before=[silent]) == 1
    assert count_repeats([malformed("x")], before=[malformed("x")]) == 1
    assert count_repeats([malformed("y")], before=[malformed("x")]) == 0


def test_before_a_branch_only_explicit_errors_can_be_repeated() -> None:
    """An order failed, a login went well; then both are called again, and the order fails again: one of two repeats in
    vain, and two of two where the login was the silent failure to be corrected."""
    failed, silent = turn(ORDER, outcomes=[ERROR]), turn(LOGIN, outcomes=[OK])
    assert count_repeats([silent], before=[silent], corrects=False) == 0
    assert count_repeats([silent, failed], before=[failed, silent], corrects=False) == 1
    scored = {
        corrects: EpisodeReward().score(
            [silent, failed], verdict=UNSOLVED, gold=[], before=[failed, silent], corrects=corrects
        )
        for corrects in (False, True)
    }
    assert [scored[corrects].value("repeat") for corrects in (False, True)] == [0.5, 0.0]


def test_one_float_or_another_key_order_is_still_word_for_word() -> None:
    assert call_key(call("f", a=1.0, b=2)) == call_key(call("f", b=2, a=1))
    assert call_key(call("f", a=True)) != call_key(call("f", a=1))


def test_words_alone_repeat_nothing_but_giving_up_is_not_paid_for_it() -> None:
    assert count_repeats([turn(text="sorry"), turn(text="sorry")]) == 0
    assert EpisodeReward().score([turn(text="sorry")], verdict=UNSOLVED, gold=[]).value("repeat") == 0.0
    assert EpisodeReward().score([turn(text="done")], verdict=Verdict(ok=True), gold=[]).value("repeat") == 1.0
    assert EpisodeReward().score([], verdict=UNSOLVED, gold=[]).value("repeat") == 0.0


def test_format_is_the_share_of_well_formed_messages() -> None:
    reward = EpisodeReward().score([malformed(), turn(), turn(), turn()], verdict=UNSOLVED, gold=[])
    assert reward.value("format") == 0.75


@pytest.mark.parametrize("bad", [{"verdict": 1.0}, {"repeat": -0.1}, {"spare_calls": -1}, {"repeats": 1.0}])
def test_episode_settings_that_cannot_work_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        EpisodeReward(**bad)
