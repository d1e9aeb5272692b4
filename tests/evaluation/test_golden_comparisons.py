"""What is printed about two arms or two runs stays the same to the last digit.

The numbers were taken from the first implementation, in which arms and benchmark runs had an engine each, on the same
records.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest

from fission_grpo.evaluation.metrics import (
    ACCURACY,
    ERR,
    ERR_TURN,
    FALSE_SUCCESS,
    FINAL,
    NCR,
    OFFICIAL_ERR,
    REPEAT,
    Metric,
)
from fission_grpo.evaluation.paired import EvaluatedArm, category_of, compare_arms, contrast, estimate, pair
from fission_grpo.evaluation.records import EpisodeRecord, TurnRecord
from fission_grpo.types import EndReason, ErrorClass, FinishReason, OutcomeKind, ToolCall, ToolOutcome, Verdict

CALLS = [ToolCall(name=name, arguments={}) for name in ("cd", "ls")]


def record(draw: Random, task: str, *, skill: float, **meta: object) -> EpisodeRecord:
    """An episode of one or two user turns; with `skill` it errs less, mends more, and is right more often."""
    turns = []
    for turn in range(draw.randint(1, 2)):
        while draw.random() < 0.6 - 0.4 * skill and len(turns) < 6:
            kind = draw.choice([ErrorClass.NOT_FOUND, ErrorClass.CONFLICT])
            turns.append((turn, draw.choice(CALLS), ToolOutcome(kind=OutcomeKind.ERROR, text="no", error=kind)))
        if draw.random() < 0.8:
            turns.append((turn, draw.choice(CALLS), ToolOutcome(kind=OutcomeKind.SUCCESS, text="ok")))
        if draw.random() < 0.9:
            turns.append((turn, None, None))
    end = draw.choices([EndReason.ANSWERED, EndReason.MAX_TURNS, EndReason.HARNESS_FAULT], [0.9, 0.07, 0.03])[0]
    ok = draw.random() < 0.2 + 0.6 * skill
    return EpisodeRecord(
        task=task,
        turns=tuple(
            TurnRecord(
                user_turn=turn,
                text="",
                calls=(call,) if call else (),
                failures=(),
                outcomes=(outcome,) if outcome else (),
                finish=FinishReason.STOP,
                tokens=5,
            )
            for turn, call, outcome in turns
        ),
        end=end,
        verdict=None if end is EndReason.HARNESS_FAULT else Verdict(ok=ok),
        gold_calls=1,
        first_call_right=None,
        meta=meta,
        turn_ok=tuple(draw.random() < 0.3 + 0.5 * skill for _ in range(2)),
    )


def arm(name: str, skill: float, seeds: int) -> EvaluatedArm:
    """Two hundred tasks."""
    runs = {
        seed: tuple(record(Random(f"{name} {seed} {task}"), f"t{task}", skill=skill) for task in range(200))
        for seed in range(seeds)
    }
    return EvaluatedArm(name=name, runs=runs)


def run(name: str, skill: float) -> list[EpisodeRecord]:
    """Sixty scenarios in three categories."""
    return [
        record(
            Random(f"{name} {category} {place}"),
            f"{category}_{place}",
            skill=skill * (0.5 + place / 60),
            scenario=place,
            category=category,
        )
        for category in ("base", "long_context", "miss_func")
        for place in range(60)
    ]


BASELINE, TREATMENT, START = arm("grpo", 0.4, 2), arm("fission", 0.6, 2), arm("start", 0.2, 1)
BEFORE, AFTER = run("before", 0.4), run("after", 0.7)


def words(numbers: Iterable[float | None]) -> str:
    """Twelve digits: what a float can promise on every machine."""
    return " ".join("-" if number is None else f"{number:.12g}" for number in numbers)


def numbers_of_arms(metric: Metric, baseline: EvaluatedArm) -> tuple[float | None, ...]:
    one = compare_arms(metric, baseline, TREATMENT)
    counts = (one.before.successes, one.before.total, one.after.successes, one.after.total)
    sizes = (len(one.fixed), len(one.broken), one.change.comparable, one.tasks, one.excluded)
    return (
        *counts,
        one.difference,
        one.interval.low,
        one.interval.high,
        one.p_value,
        *sizes,
        *one.seed_differences.values(),
    )


def numbers_of_runs(metric: Metric, *, by_category: bool) -> tuple[float | None, ...]:
    paired = pair(BEFORE, AFTER)
    one = contrast(metric, paired, stratum=category_of, seed=3) if by_category else contrast(metric, paired)
    sides = [
        number
        for side in (one.before, one.after)
        for number in (side.successes, side.total, side.value, side.interval.low, side.interval.high)
    ]
    change = (one.difference, one.interval.low, one.interval.high, one.p_value, one.change.resolvable)
    return (*sides, *change, len(one.fixed), len(one.broken), paired.entries, paired.excluded)


@pytest.mark.parametrize(
    ("metric", "baseline", "numbers"),
    [
        (
            FINAL,
            BASELINE,
            "149 350 186 350 0.105714285714 0.00571429729462 0.211428552866 0.05044215664 63 42 175 175 25 "
            "0.0971428571429 0.114285714286",
        ),
        (
            FINAL,
            START,
            "44 181 193 362 0.290055248619 0.171270728111 0.403314948082 - 109 28 181 181 19",
        ),
        (
            ERR,
            BASELINE,
            "95 213 83 154 0.0929516492897 -0.0646683879197 0.246784045547 0.328432062697 38 29 101 175 25 "
            "0.124303232999 0.0655209452202",
        ),
        (
            ERR,
            START,
            "29 115 88 163 0.28770338757 0.100644797832 0.472465007007 - 35 9 79 181 19",
        ),
        (
            NCR,
            BASELINE,
            "206 442 142 279 0.0428972250604 -0.0994947180152 0.210649296641 0.728332480881 18 15 101 175 25 "
            "-0.0132993774759 0.113355441664",
        ),
        (
            REPEAT,
            BASELINE,
            "186 396 112 238 0.000891265597148 -0.125625275075 0.126480975002 0.877614328752 22 20 86 175 25 "
            "0.0304963730964 -0.0301461778097",
        ),
        (
            FALSE_SUCCESS,
            BASELINE,
            "159 350 119 350 -0.114285714286 -0.27428567484 0.0342857241631 0.00199280558571 35 67 175 175 25 "
            "-0.0457142857143 -0.182857142857",
        ),
    ],
)
def test_arms(metric: Metric, baseline: EvaluatedArm, numbers: str) -> None:
    assert words(numbers_of_arms(metric, baseline)) == numbers


@pytest.mark.parametrize(
    ("metric", "by_category", "numbers"),
    [
        (
            ACCURACY,
            False,
            "77 168 0.458333343267 0.387283235788 0.532934129238 106 168 0.630952358246 0.550295829773 "
            "0.710059165955 0.172619014978 0.0718562602997 0.269461065531 0.002399880006 0.141415844867 55 26 "
            "168 12",
        ),
        (
            ACCURACY,
            True,
            "77 168 0.457473228375 0.384795327733 0.53090099295 106 168 0.630563139915 0.55130251199 "
            "0.70809815526 0.17308991154 0.0737033093969 0.271161935975 0.00104994750262 0.140878886686 55 26 "
            "168 12",
        ),
        (
            OFFICIAL_ERR,
            False,
            "38 87 0.436781615019 0.333333343267 0.548780500889 54 80 0.675000011921 0.567567586899 "
            "0.78125897944 0.238218396902 0.0918793752789 0.378561570495 0.00269986500675 0.205248088319 18 6 "
            "168 12",
        ),
        (
            ERR_TURN,
            True,
            "54 100 0.547874391079 0.444628489017 0.643917287141 55 92 0.599904576937 0.504925071448 "
            "0.699294657012 0.0520301858584 -0.0955537751317 0.209383989498 0.52397380131 0.216976574384 18 "
            "12 168 12",
        ),
        (
            REPEAT,
            False,
            "79 163 0.484662562609 0.415094345808 0.55621394515 50 123 0.406504064798 0.327433615923 0.5 "
            "-0.0781584978104 -0.188888800889 0.0374287351966 0.182540872956 0.161925795962 8 11 168 12",
        ),
    ],
)
def test_runs(metric: Metric, by_category: bool, numbers: str) -> None:
    assert words(numbers_of_runs(metric, by_category=by_category)) == numbers


def test_an_estimate() -> None:
    one = estimate(OFFICIAL_ERR, AFTER, stratum=category_of, seed=1)
    assert str(one) == "67.2 % [55.9, 77.9] (56/83)"
    assert words((one.value, one.interval.low, one.interval.high)) == "0.671775221825 0.558784278979 0.77893597434"
