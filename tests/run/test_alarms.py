"""A run that runs away, or whose sampler and trainer disagree, says so once, with what to do."""

from __future__ import annotations

from typing import Any

import pytest

from fission_grpo.run.alarms import Alarms, runaway

REMEDY = {"learning_rate": 3e-4, "beta": 0.02}


def row(success: float, messages: float, tokens: float = 20.0, **others: float) -> dict[str, float]:
    return {"success": success, "turns": messages, "completions/mean_length": tokens, **others}


FELL_APART = [row(0.53, 2.5), row(0.47, 2.7), row(0.31, 3.2), row(0.12, 4.1), row(0.06, 4.3)]
"""What SmolLM2 did at a learning rate of 3e-4."""


def told(rows: list[dict[str, float]], *, so_far: list[dict[str, float]] | None = None, **changes: Any) -> list[str]:
    alarms = Alarms(100, gap=0.05, so_far=so_far or [], **{**REMEDY, **changes})
    return [line for step, metrics in enumerate(rows, 1) for line in alarms.heed(step, metrics)]


def test_a_policy_that_says_ever_more_and_succeeds_ever_less_runs_away() -> None:
    """From 0.50 at 2.6 messages to 0.09 at 4.2: 1.6 times as many, and less than half as often right."""
    said = runaway(FELL_APART, **REMEDY)
    assert said is not None
    assert "4.2 messages an episode of 20 tokens each after 2.6 of 20 in its first steps" in said
    assert "success 0.09 after 0.50" in said
    assert "a lower trainer.learning_rate (now 0.0003) or a larger trainer.beta (now 0.02)" in said
    assert runaway([row(right, 1.0, 20 * messages) for right, messages in _pairs(FELL_APART)], **REMEDY) is not None


def _pairs(rows: list[dict[str, float]]) -> list[tuple[float, float]]:
    return [(each["success"], each["turns"]) for each in rows]


@pytest.mark.parametrize(
    "rows",
    [
        FELL_APART[:3],  # too few to tell
        [row(right, 2.5) for right, _ in _pairs(FELL_APART)],  # worse, and as long as ever
        [row(0.5, messages) for _, messages in _pairs(FELL_APART)],  # longer, and as good as ever
        [row(right / 10, messages) for right, messages in _pairs(FELL_APART)],  # there was nothing to lose
        [*FELL_APART, row(0.5, 2.5), row(0.5, 2.5)],  # it came back
    ],
)
def test_anything_less_is_no_runaway(rows: list[dict[str, float]]) -> None:
    assert runaway(rows, **REMEDY) is None


def test_it_is_told_once_and_a_resumed_run_remembers_its_beginning() -> None:
    assert len(told(FELL_APART + [FELL_APART[-1]] * 5)) == 1
    assert len(told([FELL_APART[-1]], so_far=FELL_APART[:4])) == 1
    assert told([FELL_APART[-1]] * 5) == []  # as good as at its own beginning


def test_a_gap_is_told_once_and_stops_by_choice() -> None:
    apart = row(0.5, 2.5, **{"update/logprob_gap_mean": 0.06, "update/logprob_gap": 0.49})
    close = row(0.5, 2.5, **{"update/logprob_gap_mean": 0.04, "update/logprob_gap": 0.49})
    assert told([close] * 3) == []
    (said,) = told([close, apart, apart])
    assert "disagree by 0.060 nats a token on average (at most 0.49; trainer.gap_warning is 0.05)" in said
    for stops in (False, True):
        alarms = Alarms(100, gap=0.05, gap_stops=stops, **REMEDY)
        assert list(alarms.heed(1, close)) == []
        assert alarms.stop is None
        assert list(alarms.heed(2, apart)) == [said]
        assert alarms.stop == (said if stops else None)
