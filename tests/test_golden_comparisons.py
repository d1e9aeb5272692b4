"""What is printed about two arms or two runs stays the same to the last digit.

The numbers were taken from the first implementation, in which arms and benchmark runs had an engine each, on the same
records.
"""

from __future__ import annotations

from random import Random

import pytest

from fission_grpo.evaluation.metrics import (
    ACCURACY,
    ERR,
    FALSE_SUCCESS,
    FINAL,
    NCR,
    REPEAT,
    Metric,
    err,
    err_turn,
    identical_repeat,
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


def numbers_of_arms(metric: Metric, baseline: EvaluatedArm, treatment: EvaluatedArm) -> tuple[object, ...]:
    one = compare_arms(metric, baseline, treatment)
    counts = (
        one.baseline_rate.successes,
        one.baseline_rate.total,
        one.treatment_rate.successes,
        one.treatment_rate.total,
    )
    sizes = (len(one.fixed), len(one.broken), one.comparable, one.tasks, one.excluded)
    return (
        *counts,
        one.difference,
        one.interval.low,
        one.interval.high,
        one.p_value,
        *sizes,
        *one.seed_differences.values(),
    )


def numbers_of_runs(metric: Metric, *, by_category: bool) -> tuple[object, ...]:
    paired = pair(BEFORE, AFTER)
    one = contrast(metric, paired, stratum=category_of, seed=3) if by_category else contrast(metric, paired)
    sides = [
        number
        for side in (one.before, one.after)
        for number in (side.successes, side.total, side.value, side.interval.low, side.interval.high)
    ]
    change = (one.difference, one.interval.low, one.interval.high, one.change.p_value, one.change.resolvable)
    return (*sides, *change, len(one.fixed), len(one.broken), paired.entries, paired.excluded)


@pytest.mark.parametrize(
    ("metric", "baseline", "numbers"),
    [
        (
            FINAL,
            BASELINE,
            (
                149,
                350,
                186,
                350,
                0.10571428571428576,
                0.005714297294616699,
                0.21142855286598206,
                0.05044215663996967,
                63,
                42,
                175,
                175,
                25,
                0.09714285714285714,
                0.11428571428571427,
            ),
        ),
        (
            FINAL,
            START,
            (
                44,
                181,
                193,
                362,
                0.29005524861878457,
                0.1712707281112671,
                0.4033149480819702,
                None,
                109,
                28,
                181,
                181,
                19,
            ),
        ),
        (
            ERR,
            BASELINE,
            (
                95,
                213,
                83,
                154,
                0.09295164928967747,
                -0.06466838791966438,
                0.2467840455472469,
                0.3284320626971899,
                38,
                29,
                101,
                175,
                25,
                0.12430323299888513,
                0.0655209452201933,
            ),
        ),
        (
            ERR,
            START,
            (29, 115, 88, 163, 0.2877033875700187, 0.10064479783177377, 0.47246500700712196, None, 35, 9, 79, 181, 19),
        ),
        (
            NCR,
            BASELINE,
            (
                206,
                442,
                142,
                279,
                0.042897225060412936,
                -0.09949471801519394,
                0.21064929664134976,
                0.7283324808813632,
                18,
                15,
                101,
                175,
                25,
                -0.013299377475947949,
                0.1133554416641544,
            ),
        ),
        (
            REPEAT,
            BASELINE,
            (
                186,
                396,
                112,
                238,
                0.0008912655971479166,
                -0.12562527507543564,
                0.12648097500205033,
                0.8776143287523155,
                22,
                20,
                86,
                175,
                25,
                0.030496373096350338,
                -0.030146177809729224,
            ),
        ),
        (
            FALSE_SUCCESS,
            BASELINE,
            (
                159,
                350,
                119,
                350,
                -0.11428571428571427,
                -0.2742856748402119,
                0.03428572416305542,
                0.001992805585714059,
                35,
                67,
                175,
                175,
                25,
                -0.04571428571428571,
                -0.18285714285714288,
            ),
        ),
    ],
)
def test_arms(metric: Metric, baseline: EvaluatedArm, numbers: tuple[object, ...]) -> None:
    assert numbers_of_arms(metric, baseline, TREATMENT) == numbers


@pytest.mark.parametrize(
    ("metric", "by_category", "numbers"),
    [
        (
            ACCURACY,
            False,
            (
                77,
                168,
                0.4583333432674408,
                0.38728323578834534,
                0.5329341292381287,
                106,
                168,
                0.6309523582458496,
                0.5502958297729492,
                0.7100591659545898,
                0.1726190149784088,
                0.07185626029968262,
                0.269461065530777,
                0.0023998800059997,
                0.14141584486669917,
                55,
                26,
                168,
                12,
            ),
        ),
        (
            ACCURACY,
            True,
            (
                77,
                168,
                0.457473228375117,
                0.3847953277329604,
                0.5309009929498036,
                106,
                168,
                0.6305631399154663,
                0.5513025119900704,
                0.7080981552600861,
                0.1730899115403493,
                0.07370330939690267,
                0.27116193597515426,
                0.0010499475026248687,
                0.14087888668573165,
                55,
                26,
                168,
                12,
            ),
        ),
        (
            err(),
            False,
            (
                38,
                87,
                0.4367816150188446,
                0.3333333432674408,
                0.5487805008888245,
                54,
                80,
                0.675000011920929,
                0.5675675868988037,
                0.7812589794397353,
                0.23821839690208435,
                0.09187937527894974,
                0.37856157049536704,
                0.0026998650067496625,
                0.20524808831864114,
                18,
                6,
                168,
                12,
            ),
        ),
        (
            err_turn(),
            True,
            (
                54,
                100,
                0.547874391078949,
                0.4446284890174866,
                0.6439172871410846,
                55,
                92,
                0.5999045769373575,
                0.5049250714480877,
                0.6992946570118269,
                0.05203018585840857,
                -0.09555377513170243,
                0.20938398949801923,
                0.5239738013099345,
                0.21697657438374401,
                18,
                12,
                168,
                12,
            ),
        ),
        (
            identical_repeat(),
            False,
            (
                79,
                163,
                0.48466256260871887,
                0.4150943458080292,
                0.5562139451503754,
                50,
                123,
                0.4065040647983551,
                0.32743361592292786,
                0.5,
                -0.07815849781036377,
                -0.1888888008892536,
                0.037428735196590415,
                0.18254087295635218,
                0.16192579596211643,
                8,
                11,
                168,
                12,
            ),
        ),
    ],
)
def test_runs(metric: Metric, by_category: bool, numbers: tuple[object, ...]) -> None:
    assert numbers_of_runs(metric, by_category=by_category) == numbers


def test_an_estimate() -> None:
    one = estimate(err(), AFTER, stratum=category_of, seed=1)
    assert str(one) == "67.2 % [55.9, 77.9] (56/83)"
    assert (one.value, one.interval.low, one.interval.high) == (
        0.671775221824646,
        0.558784278978904,
        0.7789359743396441,
    )
