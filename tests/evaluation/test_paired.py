"""Intervals and tests by scenario against hand arithmetic, exact enumeration, and simulation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from episodes import CALL, OTHER, episode, message

from fission_grpo.errors import ConfigError, DataError
from fission_grpo.evaluation.compare_runs import compare_runs, load_run
from fission_grpo.evaluation.heldout import Evaluation
from fission_grpo.evaluation.metrics import ACCURACY, ERR, OFFICIAL_ERR, recovery_by_class, recovery_by_tool
from fission_grpo.evaluation.paired import (
    EvaluatedArm,
    compare_macro,
    contrast,
    estimate,
    estimate_arm,
    estimate_macro,
    estimate_slices,
    pair,
)
from fission_grpo.evaluation.records import EpisodeRecord, write_records
from fission_grpo.evaluation.statistics import (
    Counts,
    Interval,
    Rate,
    interval_of,
    paired_change,
    sign_test,
    swap_test,
    wilson,
)
from fission_grpo.report.benchmark import benchmark_sections, class_table
from fission_grpo.report.contrasts import comparison_markdown
from fission_grpo.types import EndReason, ErrorClass


def counts(successes: list[list[int]], totals: list[list[int]] | None = None) -> Counts:
    top = np.array(successes, dtype=np.float32)
    return Counts(successes=top, totals=np.ones_like(top) if totals is None else np.array(totals, np.float32))


def test_a_pair_of_coins_by_hand() -> None:
    # Two clusters, both change: of the 4 swaps the observed one and its mirror are as extreme. 2/4.
    assert swap_test(counts([[0, 0]]), counts([[1, 1]])) == 0.5
    # Three of three: 2/8. Three up, one down: as extreme are sums of 2 or more in size, 10 of 16.
    assert swap_test(counts([[0, 0, 0]]), counts([[1, 1, 1]])) == 0.25
    assert swap_test(counts([[0, 0, 0, 1, 1]]), counts([[1, 1, 1, 0, 1]])) == 0.625
    assert swap_test(counts([[1, 0]]), counts([[1, 0]])) == 1.0


@pytest.mark.parametrize(("fixed", "broken"), [(8, 2), (5, 5), (9, 0), (7, 4)])
def test_one_entry_a_cluster_is_mcnemars_test(fixed: int, broken: int) -> None:
    before = counts([[0] * fixed + [1] * broken + [1] * 20])
    after = counts([[1] * fixed + [0] * broken + [1] * 20])
    assert swap_test(before, after) == pytest.approx(sign_test(fixed, broken))


def test_entries_of_one_scenario_are_swapped_together() -> None:
    # Four entries of one scenario all fixed: one cluster, two swaps, both as extreme. McNemar's would say 2/16.
    assert swap_test(counts([[0, 3]], [[4, 4]]), counts([[4, 3]], [[4, 4]])) == 1.0
    assert sign_test(4, 0) == 0.125


def test_random_swaps_agree_with_the_exact_test() -> None:
    # 30 fixed, 15 broken: exact two-sided binomial p = 0.0357; the standard error of 20,000 swaps is 0.0013.
    before, after = counts([[0] * 30 + [1] * 15]), counts([[1] * 30 + [0] * 15])
    assert swap_test(before, after) == pytest.approx(sign_test(30, 15), abs=0.006)
    assert swap_test(before, after) == swap_test(before, after)


def test_a_moving_denominator_by_hand() -> None:
    # Baseline 0/1 and 0/1, treatment 1/1 and nothing: +1. The first swapped: 0/1 - 1/2 = -1/2; the second swapped:
    # 1/2 - 0/1 = +1/2; both: -1. As extreme are 2 of 4.
    assert swap_test(counts([[0, 0]], [[1, 1]]), counts([[1, 0]], [[1, 0]])) == 0.5
    # Baseline 0/1 and nothing, treatment nothing and 1/1: +1. One swapped: an arm is left with nothing, which counts as
    # extreme; both: -1.
    assert swap_test(counts([[0, 0]], [[1, 0]]), counts([[0, 1]], [[0, 1]])) == 1.0


def test_the_null_is_rejected_as_often_as_it_says() -> None:
    # 60 scenarios of 4 entries that rise and fall together, runs that differ by chance alone: p < 0.1 in 10 % of 300
    # experiments, standard error 1.7 %. An entry-wise test of such runs rejects far too often.
    rng = np.random.default_rng(0)
    low = entrywise = 0
    for seed in range(300):
        runs = np.repeat(rng.random((2, 60)) < 0.4, 4, axis=1)
        before, after = (counts([run.reshape(60, 4).sum(1).tolist()], [[4] * 60]) for run in runs)
        low += swap_test(before, after, swaps=1000, seed=seed) < 0.1
        entrywise += sign_test(int((runs[1] & ~runs[0]).sum()), int((runs[0] & ~runs[1]).sum())) < 0.1
    assert low / 300 == pytest.approx(0.1, abs=0.055)
    assert entrywise / 300 > 0.3


def test_the_interval_holds_the_truth() -> None:
    # 200 scenarios in 4 categories with a difficulty of their own, true mean 0.4: nominal 95 %, demanded 91 % of 300.
    rng = np.random.default_rng(1)
    held = 0
    for seed in range(300):
        difficulty_C = rng.beta(2, 3, 200)
        found = counts((rng.random((4, 200)) < difficulty_C).astype(int).tolist())
        interval = interval_of(found, resamples=500, seed=seed)
        held += interval.low <= 0.4 <= interval.high
    assert held >= 273


def test_all_alike_is_not_certainty() -> None:
    # 0 of 8 in two scenarios: the bootstrap never varies, two trials say little.
    assert interval_of(counts([[0, 0]], [[4, 4]])) == wilson(0, 2)
    assert interval_of(counts([[0, 0]], [[0, 0]])) == Interval(0.0, 1.0)


def test_what_can_be_resolved() -> None:
    # 100 fixed and 60 broken of 800: mean 0.05, variance 0.2 - 0.0025, standard error 0.01571; times 2.8016: 0.0440.
    before, after = np.zeros((1, 800), int), np.zeros((1, 800), int)
    after[0, :100], before[0, 100:160] = 1, 1
    change = paired_change(counts(before.tolist()), counts(after.tolist()), resamples=4000)
    assert change.resolvable == pytest.approx(0.0440, abs=0.002)
    assert change.value == pytest.approx(0.05)
    same = paired_change(counts([[1, 0]]), counts([[1, 0]]))
    assert (same.value, same.p_value, same.resolvable) == (0.0, 1.0, None)


def test_nothing_counted_is_no_difference() -> None:
    change = paired_change(counts([[0, 0]], [[0, 0]]), counts([[1, 0]]))
    assert math.isnan(change.value)
    assert change.p_value is None
    with pytest.raises(ValueError, match="the same clusters"):
        paired_change(counts([[1]]), counts([[1, 1]]))


def run(marks: str, *, category: str = "base") -> list[EpisodeRecord]:
    """One letter an entry: `+` right, `-` wrong, `r` recovered, `x` erred and wrong, `!` fault, ` ` not there."""
    return [
        episode(
            *([message(0, CALL, ErrorClass.NOT_FOUND)] if mark in "rx" else []),
            message(0, OTHER),
            ok=mark in "+r",
            end=EndReason.HARNESS_FAULT if mark == "!" else EndReason.ANSWERED,
            turn_ok=(mark in "+r",),
            scenario=place,
            category=category,
        )
        for place, mark in enumerate(marks)
        if mark != " "
    ]


def test_a_contrast_names_what_changed_and_what_is_left_out() -> None:
    paired = pair(run("+-x-! +"), run("++r--+ "))
    assert (paired.only_before, paired.only_after, paired.faulty) == (("base_6",), ("base_5",), ("base_4",))
    assert (paired.entries, paired.excluded) == (4, 3)
    found = contrast(ACCURACY, paired)
    assert (found.fixed, found.broken) == (("base_1", "base_2"), ())
    assert (found.difference, found.change.p_value) == (0.5, 0.5)
    # ERR: 0/1 against 1/1.
    assert contrast(OFFICIAL_ERR, paired).difference == 1.0


def test_an_entry_twice_is_refused() -> None:
    with pytest.raises(DataError, match="base_0: found more than once"):
        pair(run("++") + run("+"), run("++"))


def test_compare_runs_reads_both_kinds_of_folders(tmp_path: Path) -> None:
    for name, marks in (("a", "+-x--+"), ("b", "++r+-!")):
        (tmp_path / name).mkdir()
        write_records(tmp_path / name / "traces.jsonl", run(marks) + run(marks[::-1], category="miss_func"))
        records = tuple(run(marks, category=""))
        suite = Evaluation(episodes=records, transfer=(), mixed=(), precondition=())
        suite.save(tmp_path / f"suite-{name}" / "evaluation")
    found = compare_runs([tmp_path / "a", tmp_path / "b"])
    (part,) = found.contrasts
    # Entries 5 of Base and 0 of Miss Func are faults in b.
    assert (part.paired.faulty, part.paired.entries) == (("base_5", "miss_func_0"), 10)
    assert [one.title for one in part.contrasts][:3] == [
        "Accuracy, mean of 2 categories",
        "Accuracy, base",
        "Accuracy, miss_func",
    ]
    assert part.headline.fixed == ("base_1", "base_2", "base_3", "miss_func_2", "miss_func_3", "miss_func_4")
    text = comparison_markdown(found)
    assert "**2 entries are excluded**: 2 met a harness fault: base_5, miss_func_0." in text
    assert "Newly fixed (6): base_1" in text
    assert "80 % power" in text
    assert json.loads(json.dumps(found.to_json()))["contrasts"][0]["excluded"]["harness_fault"] == [
        "base_5",
        "miss_func_0",
    ]
    suites = compare_runs([tmp_path / "suite-a", tmp_path / "suite-b" / "evaluation"])
    assert [(one.part, one.baseline, one.treatment) for one in suites.contrasts] == [("episodes", "suite-a", "suite-b")]
    assert suites.contrasts[0].headline.metric.name == "final"


def test_compare_runs_refuses_what_cannot_be_compared(tmp_path: Path) -> None:
    one, other, trained = (tmp_path / name for name in ("one.jsonl", "other.jsonl", "trained"))
    write_records(one, run("+-"))
    write_records(other, run("  ++"))
    trained.mkdir()
    for file in ("metrics.jsonl", "traces.jsonl"):
        (trained / file).write_text('{"step": 0}\n')
    with pytest.raises(ConfigError, match="at least two"):
        compare_runs([one])
    with pytest.raises(ConfigError, match="given twice"):
        compare_runs([one, one])
    with pytest.raises(ConfigError, match="no sound entry"):
        compare_runs([one, other])
    with pytest.raises(ConfigError, match="holds no evaluation"):
        load_run(trained)


def test_a_line_that_a_crash_cut_off_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write_records(path, run("+-"))
    path.write_text(path.read_text() + '{"task": "base_2", "tu')
    assert len(load_run(path)["benchmark"]) == 2


def test_sections_of_a_benchmark(tmp_path: Path) -> None:
    runs = {"start": run("+-x--+") + run("-r-", category="miss_func"), "trained": run("++r+-!")}
    text = "\n".join(benchmark_sections(runs, tmp_path))
    assert "| base | 33.3 % [" in text
    assert "| harness faults (excluded) | 0/9 | 1/6 |" in text
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("recovery.png", "flow.png"))
    row = next(line for line in class_table(runs["start"]).splitlines() if line.startswith("| E4 value not found"))
    assert "(1/2)" in row


def test_a_run_without_errors_can_be_drawn(tmp_path: Path) -> None:
    assert "| Accuracy ↑ |" in "\n".join(benchmark_sections({"flawless": run("++")}, tmp_path))


def test_an_estimate_says_what_it_was_counted_over() -> None:
    assert str(estimate(OFFICIAL_ERR, run("++"))) == "- (0/0)"
    assert str(estimate(ACCURACY, run("+-"))).endswith("(1/2)")


def by_tools(*tasks: tuple[bool, str]) -> tuple[EpisodeRecord, ...]:
    """One episode a task, right or wrong: `c` is a failed `cd`, `l` a failed `ls` of another class, `b` broken."""
    steps = {
        "c": message(0, CALL, ErrorClass.NOT_FOUND),
        "l": message(0, OTHER, ErrorClass.PRECONDITION),
        "b": message(0, broken=True),
    }
    return tuple(
        episode(*(steps[letter] for letter in failed), message(0), ok=ok, scenario=place)
        for place, (ok, failed) in enumerate(tasks)
    )


def test_recovery_by_tool_and_class_by_hand() -> None:
    # `cd` fails in tasks 0 (twice), 1 and 3, `ls` in 1 and 2; the broken message names no tool.
    records = by_tools((True, "cc"), (False, "cl"), (True, "l"), (True, "cb"), (True, "b"), (True, ""))
    arm = EvaluatedArm(name="any", runs={0: records})
    tools, classes = recovery_by_tool([records], floor=2), recovery_by_class([records], floor=2)
    assert estimate_slices(tools.rates, arm) == {"cd": Rate(2, 3), "ls": Rate(1, 2)}
    mean = estimate_macro(tools, arm)
    assert (mean.value, mean.successes, mean.total) == (pytest.approx((2 / 3 + 1 / 2) / 2), 3, 5)
    # E4 as `cd`, E6 as `ls`, E0 in tasks 3 and 4.
    assert estimate_slices(classes.rates, arm) == {"E4": Rate(2, 3), "E0": Rate(2, 2), "E6": Rate(1, 2)}
    # With a floor of 3 only `cd` is left.
    rare = recovery_by_tool([records], floor=3)
    assert (rare.slices, dict(rare.left_out), estimate_macro(rare, arm).value) == (
        ("cd",),
        {"ls": 2},
        pytest.approx(2 / 3),
    )


def test_a_slice_has_an_episode_a_run_on_average() -> None:
    # `cd` fails twice and `ls` once in each of 12 runs, `ls` in all but one.
    many = [by_tools((True, "c"), (False, "c"), (True, "l" if run else "")) for run in range(12)]
    macro = recovery_by_tool(many)
    assert (macro.slices, macro.left_out, macro.floor) == (("cd",), {"ls": 11}, 12)
    # With fewer runs it is ten in all: `ls` has 10 in 11 runs without the first, and 9 in ten of them.
    assert recovery_by_tool(many[1:]).slices == ("cd", "ls")
    assert recovery_by_tool(many[2:11]).left_out == {"ls": 9}
    assert recovery_by_class(many).left_out == {"E6": 11}


def test_cells_do_not_mind_what_other_runs_have() -> None:
    # A fault costs its own record alone, and a task of one run is counted there; a comparison wants them all.
    runs = {0: by_tools((True, "c"), (True, "c")), 1: by_tools((False, "c"))}
    arm = EvaluatedArm(name="uneven", runs=runs)
    share = estimate_arm(ERR, arm)
    assert (share.successes, share.total, share.interval) == (2, 3, Interval(0.0, 1.0))
    assert estimate_arm(ERR, EvaluatedArm(name="one", runs={0: runs[0]})) == Rate(2, 2)
    assert str(estimate_arm(ERR, EvaluatedArm(name="none", runs={0: by_tools((True, "")), 1: ()}))) == "- (0/0)"


def test_arms_are_compared_by_the_mean_over_tools() -> None:
    # Before: `cd` 0 of 2, `ls` 1 of 1: 0.5. After: `cd` 1 of 2, `ls` 1 of 1: 0.75; pooled it is 1/3 and 2/3.
    before = EvaluatedArm(name="grpo", runs={0: by_tools((False, "c"), (False, "c"), (True, "l"), (True, ""))})
    after = EvaluatedArm(name="fission", runs={0: by_tools((True, "c"), (False, "c"), (True, "l"), (True, ""))})
    macro = recovery_by_tool([before.records, after.records], floor=1)
    one = compare_macro(macro, before, after)
    assert (one.before.value, one.after.value, one.difference) == pytest.approx((0.5, 0.75, 0.25))
    assert (one.before.successes, one.before.total, one.after.successes) == (1, 3, 2)
    assert (one.seed_differences, one.p_value) == ({0: pytest.approx(0.25)}, None)
    assert (one.fixed, one.broken, one.runs, one.tasks) == (("base_0",), (), (1, 1), 4)
    assert estimate_macro(macro, after) == one.after
    with pytest.raises(ValueError, match="no slice has enough episodes"):
        compare_macro(recovery_by_tool([before.records], floor=99), before, after)
