"""Intervals and paired comparisons against hand arithmetic, published values, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fission_grpo.evaluation.metrics import ERR, FINAL
from fission_grpo.evaluation.paired import EvaluatedArm, compare_arms
from fission_grpo.evaluation.records import EpisodeRecord, TurnRecord
from fission_grpo.evaluation.statistics import (
    Counts,
    Interval,
    Mean,
    Rate,
    macro_estimate,
    mean_share,
    paired_difference,
    paired_macro_difference,
    sign_test,
    wilson,
)
from fission_grpo.types import (
    EndReason,
    ErrorClass,
    FinishReason,
    OutcomeKind,
    ToolCall,
    ToolOutcome,
    Verdict,
)


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [
        # p = 8/352, z^2/n = 0.01091: centre (0.02273 + 0.00546)/1.01091 = 0.02788,
        # half sqrt(0.02221 * 0.01091 + 0.01091^2 / 4)/1.01091 = 0.01632.
        (8, 352, 0.0116, 0.0442),
        # Newcombe 1998, table I, method 3: 81/263, 15/148, 0/20, 1/29.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson(successes: int, total: int, low: float, high: float) -> None:
    interval = wilson(successes, total)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=6e-5)


def test_nothing_counted_says_nothing() -> None:
    assert wilson(0, 0) == Interval(0.0, 1.0)
    assert math.isnan(Rate(0, 0).value)
    assert str(Rate(0, 0)) == "- (0/0)"


@given(st.integers(0, 500), st.integers(1, 500))
def test_wilson_holds_the_share(successes: int, extra: int) -> None:
    rate = Rate(successes, successes + extra)
    assert 0 <= rate.interval.low <= rate.value <= rate.interval.high <= 1


def test_rates_add_up_and_refuse_nonsense() -> None:
    assert Rate(1, 2) + Rate.of(True) + Rate.of(False) + Rate.of(True, given=False) == Rate(2, 4)
    with pytest.raises(ValueError, match="got 3 of 2"):
        Rate(3, 2)


def test_mean() -> None:
    # 1, 2, 3: sd 1, standard error 0.5774, t(2) = 4.3027: half-width 2.4841.
    mean = Mean.of([1, 2, 3])
    assert (mean.value, mean.interval.high) == pytest.approx((2.0, 4.4841), abs=1e-4)
    assert math.isnan(Mean.of([]).value)
    assert Mean.of([4]).interval == Interval(-math.inf, math.inf)


def test_sign_test() -> None:
    # 8 fixed, 2 broken: 2 * (1 + 10 + 45)/1024 = 0.109375.
    assert sign_test(8, 2) == sign_test(2, 8) == pytest.approx(0.109375)
    assert sign_test(0, 0) == 1.0
    assert sign_test(3, 3) == 1.0


def shares(right_SI: np.ndarray) -> Counts:
    return Counts(successes=right_SI.astype(np.int64), totals=np.ones_like(right_SI, dtype=np.int64))


def test_a_difference_by_hand() -> None:
    baseline, treatment = shares(np.array([[1, 0, 0, 1, 0, 0]])), shares(np.array([[1, 1, 1, 0, 1, 0]]))
    difference = paired_difference(baseline, treatment, paired_seeds=True)
    assert difference.value == pytest.approx(4 / 6 - 2 / 6)
    assert difference.fixed.tolist() == [False, True, True, False, True, False]
    assert difference.broken.tolist() == [False, False, False, True, False, False]
    # 3 fixed, 1 broken: 2 * (1 + 4)/16 = 0.625.
    assert difference.p_value == pytest.approx(0.625)


def test_one_seed_gives_the_normal_interval() -> None:
    # 400 items: 80 fixed, 40 broken. Mean 0.1, variance 0.3 - 0.01 = 0.29, half-width 1.96 sqrt(0.29/400) = 0.0528.
    before_SI, after_SI = np.zeros((1, 400)), np.zeros((1, 400))
    after_SI[0, :80], before_SI[0, 80:120] = 1, 1
    difference = paired_difference(shares(before_SI), shares(after_SI), paired_seeds=True)
    assert difference.interval.low == pytest.approx(0.1 - 0.0528, abs=0.006)
    assert difference.interval.high == pytest.approx(0.1 + 0.0528, abs=0.006)


def test_equal_arms_differ_by_nothing() -> None:
    same = shares(np.random.default_rng(1).random((3, 50)) < 0.5)
    difference = paired_difference(same, same, paired_seeds=True)
    assert (difference.value, difference.interval) == (0.0, Interval(0.0, 0.0))
    assert difference.p_value == 1.0


def test_seeds_that_disagree_widen_the_interval() -> None:
    # Three runs: +0.3, +0.3, -0.3 on every item alike. The tasks know no doubt, the seeds do.
    before_SI = np.zeros((3, 100))
    before_SI[2, :30] = 1
    after_SI = np.zeros((3, 100))
    after_SI[:2, :30] = 1
    together = paired_difference(shares(before_SI), shares(after_SI), paired_seeds=True)
    assert together.interval.low < 0 < together.interval.high
    one = paired_difference(shares(before_SI[:1]), shares(after_SI[:1]), paired_seeds=True)
    assert one.interval.low > 0.15


def test_unequal_numbers_of_runs_get_no_sign_test() -> None:
    start, trained = shares(np.array([[0, 1, 1]])), shares(np.array([[1, 0, 1], [1, 0, 1], [0, 1, 1]]))
    difference = paired_difference(start, trained, paired_seeds=False)
    assert difference.p_value is None
    # 0 -> 2/3 is fixed, 1 -> 1/3 is broken, 1 -> 1 is neither.
    assert (difference.fixed.tolist(), difference.broken.tolist()) == ([True, False, False], [False, True, False])


def test_moving_denominators() -> None:
    # Baseline: 1 of 2 counted items; treatment: 1 of 1. The third item is counted by neither.
    baseline = Counts(successes=np.array([[1, 0, 0]]), totals=np.array([[1, 1, 0]]))
    treatment = Counts(successes=np.array([[0, 1, 0]]), totals=np.array([[0, 1, 0]]))
    difference = paired_difference(baseline, treatment, paired_seeds=True)
    assert difference.value == pytest.approx(0.5)
    assert (difference.comparable, difference.fixed.tolist()) == (1, [False, True, False])
    # Item 2 must be drawn for the treatment's denominator: undefined with probability (2/3)^3 = 0.296.
    assert difference.undefined / 10_000 == pytest.approx(0.296, abs=0.02)


def test_nothing_counted_at_all() -> None:
    empty = Counts(successes=np.zeros((1, 4), dtype=np.int64), totals=np.zeros((1, 4), dtype=np.int64))
    difference = paired_difference(empty, empty, paired_seeds=True)
    assert math.isnan(difference.value)
    assert difference.interval == Interval(-1.0, 1.0)


def test_the_bootstrap_is_seeded() -> None:
    rng = np.random.default_rng(3)
    arms = [shares(rng.random((2, 80)) < share) for share in (0.4, 0.6)]
    first, again, other = (paired_difference(*arms, paired_seeds=True, seed=seed) for seed in (0, 0, 1))
    assert first.interval == again.interval != other.interval


def test_arms_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="expected them to pair"):
        paired_difference(shares(np.ones((1, 3))), shares(np.ones((1, 4))), paired_seeds=True)
    with pytest.raises(ValueError, match="one shape"):
        Counts(successes=np.ones((1, 3), dtype=np.int64), totals=np.ones((1, 4), dtype=np.int64))


def test_the_interval_holds_the_truth() -> None:
    # 3 seeds, 150 items, true difference 0.1 with 4 points of training noise: nominal 95 %, demanded 90 %.
    rng = np.random.default_rng(5)
    held = 0
    for experiment in range(200):
        difficulty_I = rng.uniform(0.2, 0.7, 150)
        noise_S = rng.normal(0, 0.04, (3, 1))
        before_SI, after_SI = (rng.random((3, 150)) < difficulty_I + shift for shift in (0.0, 0.1 + noise_S))
        difference = paired_difference(
            shares(before_SI), shares(after_SI), paired_seeds=True, resamples=400, seed=experiment
        )
        held += difference.interval.low <= 0.1 <= difference.interval.high
    assert held >= 180


def counted(successes: list[list[int]], totals: list[list[int]]) -> Counts:
    return Counts(successes=np.array(successes), totals=np.array(totals))


def test_a_macro_average_weighs_rare_slices_like_common_ones() -> None:
    # 9 of 10 and 0 of 1: (0.9 + 0)/2, where pooling says 9/11. A slice without anything is left out.
    assert mean_share([Rate(9, 10), Rate(0, 1), Rate(0, 0)]) == pytest.approx(0.45)
    assert math.isnan(mean_share([Rate(0, 0)]))


def test_a_macro_difference_by_hand() -> None:
    # Two tasks. Before: the first tool 1 of 1 and 0 of 1, the second 0 of 1 in the first task: (0.5 + 0)/2 = 0.25.
    # After: the first tool 2 of 2, the second never fails: 1.
    before = [counted([[1, 0]], [[1, 1]]), counted([[0, 0]], [[1, 0]])]
    after = [counted([[1, 1]], [[1, 1]]), counted([[0, 0]], [[0, 0]])]
    difference = paired_macro_difference(before, after, paired_seeds=True)
    assert difference.value == pytest.approx(0.75)
    # Drawn twice the first: before (1 + 0)/2, so 0.5; each once: 0.75; twice the second: the second tool does not
    # occur and before is 0, so 1. With probabilities 1/4, 1/2, 1/4 the percentiles are the ends.
    assert difference.interval == Interval(0.5, 1.0)
    assert (difference.p_value, difference.undefined) == (None, 0)
    # Over its tools the first task goes from 1 of 2 to 1 of 1, the second from 0 of 1 to 1 of 1.
    assert (difference.fixed.tolist(), difference.comparable) == ([True, True], 2)
    assert macro_estimate(before).value == pytest.approx(0.25)
    assert macro_estimate(before).interval == Interval(0.0, 0.5)


def test_the_mean_over_one_slice_is_the_slice() -> None:
    rng = np.random.default_rng(2)
    before, after = (shares(rng.random((3, 60)) < share) for share in (0.4, 0.6))
    one, plain = (
        paired_macro_difference([before], [after], paired_seeds=True),
        paired_difference(before, after, paired_seeds=True),
    )
    assert (one.value, one.interval, one.undefined) == (plain.value, plain.interval, plain.undefined)


def test_slices_that_all_agree_get_wilsons_interval() -> None:
    # 0 of 3 and 0 of 2, in 4 tasks of 5.
    never = [counted([[0] * 5], [[1, 1, 1, 0, 0]]), counted([[0] * 5], [[0, 0, 1, 1, 0]])]
    assert macro_estimate(never).interval == wilson(0, 4)


def test_the_interval_of_a_macro_average_holds_the_truth() -> None:
    # 3 runs of 120 tasks on which a common tool fails and 40 on which a rare one does, each in 80 % of the runs; both
    # recover 10 points more often, with 4 points of training noise: nominal 95 %, demanded 90 %.
    rng = np.random.default_rng(7)
    held = 0
    for experiment in range(150):
        arms = []
        for shift in (0.0, 0.1):
            noise_S = rng.normal(0, 0.04, (3, 1))
            slices = []
            for place, (tasks, ease) in enumerate(((120, 0.6), (40, 0.2))):
                failed_SI = np.zeros((3, 160), dtype=np.int64)
                failed_SI[:, 120 * place : 120 * place + tasks] = rng.random((3, tasks)) < 0.8
                slices.append(
                    Counts(successes=failed_SI * (rng.random((3, 160)) < ease + shift + noise_S), totals=failed_SI)
                )
            arms.append(slices)
        interval = paired_macro_difference(*arms, paired_seeds=True, resamples=400, seed=experiment).interval
        held += interval.low <= 0.1 <= interval.high
    assert held >= 135


def record(task: str, *, ok: bool, erred: bool = False, fault: bool = False) -> EpisodeRecord:
    outcome = ToolOutcome(kind=OutcomeKind.ERROR, text="no", error=ErrorClass.NOT_FOUND)
    step = TurnRecord(
        user_turn=0,
        text="",
        calls=(ToolCall(name="f", arguments={}),),
        failures=(),
        outcomes=(outcome,) if erred else (),
        finish=FinishReason.STOP,
        tokens=1,
    )
    return EpisodeRecord(
        task=task,
        turns=(step,),
        end=EndReason.HARNESS_FAULT if fault else EndReason.ANSWERED,
        verdict=None if fault else Verdict(ok=ok),
        gold_calls=1,
        first_call_right=None,
    )


def arm(name: str, *rows: str) -> EvaluatedArm:
    """One string a run, one letter a task: `+` right, `-` wrong, `r` recovered, `x` erred and wrong, `!` fault."""
    runs = {
        seed: tuple(record(f"t{i}", ok=c in "+r", erred=c in "rx", fault=c == "!") for i, c in enumerate(row))
        for seed, row in enumerate(rows)
    }
    return EvaluatedArm(name=name, runs=runs)


def test_compare_names_what_changed() -> None:
    comparison = compare_arms(FINAL, arm("grpo", "+--+!"), arm("fission", "++--+"))
    assert (comparison.fixed, comparison.broken) == (("t1",), ("t3",))
    assert (comparison.tasks, comparison.excluded) == (4, 1)
    assert (comparison.before, comparison.after) == (Rate(2, 4), Rate(2, 4))
    assert "nothing of training noise" in comparison.coverage_note


def test_compare_pairs_seeds_and_reports_each() -> None:
    comparison = compare_arms(FINAL, arm("grpo", "+---", "++--"), arm("fission", "++--", "++++"))
    assert comparison.seed_differences == pytest.approx({0: 0.25, 1: 0.5})
    assert comparison.difference == pytest.approx(0.375)
    start = compare_arms(FINAL, arm("start", "+---"), arm("fission", "++--", "++++"))
    assert (start.seed_differences, start.p_value, start.runs) == ({}, None, (1, 2))


def test_compare_error_recovery() -> None:
    # grpo: 1 of 3 recovered; fission: 1 of 1; only t0 was an error in both, recovered in both.
    comparison = compare_arms(ERR, arm("grpo", "rxx+"), arm("fission", "r+-+"))
    assert (comparison.before, comparison.after) == (Rate(1, 3), Rate(1, 1))
    assert (comparison.change.comparable, comparison.fixed, comparison.broken) == (1, (), ())


def test_compare_refuses_other_tasks_and_doubles() -> None:
    with pytest.raises(ValueError, match="1 tasks are not shared"):
        compare_arms(FINAL, arm("grpo", "++"), arm("fission", "+++"))
    doubled = EvaluatedArm(name="twice", runs={0: (record("t0", ok=True), record("t0", ok=True))})
    with pytest.raises(ValueError, match="expected one each"):
        compare_arms(FINAL, doubled, doubled)
    with pytest.raises(ValueError, match="1 of 1 tasks met a harness fault"):
        compare_arms(FINAL, arm("grpo", "!"), arm("fission", "+"))
    with pytest.raises(ValueError, match="no run"):
        compare_arms(FINAL, arm("grpo", "+"), EvaluatedArm(name="empty", runs={}))
