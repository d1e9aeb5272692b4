"""A run in which nothing comes out right says so, and what to look at."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from fission_grpo.run.outlook import PATIENCE, Outlook

FAILED = {"success": 0.0, "fission/success": 0.0, "rollouts": 8.0, "masked": 0.0, "errors/E1": 0.75, "errors/E2": 0.25}


def said(outlook: Outlook, rows: list[Mapping[str, float]]) -> list[str | None]:
    return [outlook.heed(step, row) for step, row in enumerate(rows, 1)]


def test_it_is_said_after_some_steps_and_again_after_as_many() -> None:
    told = said(Outlook(100), [FAILED] * (2 * PATIENCE))
    assert [place for place, line in enumerate(told, 1) if line] == [PATIENCE, 2 * PATIENCE]
    first = told[PATIENCE - 1] or ""
    assert f"in the last {PATIENCE} step(s) none of {8 * PATIENCE} rollouts came out right" in first
    assert "calling tools that are not on offer" in first  # E1: 6 of 8, E2: 2 of 8


@pytest.mark.parametrize("name", ["success", "fission/success"])
def test_one_success_anywhere_is_hope(name: str) -> None:
    rows = [FAILED] * (PATIENCE - 1) + [{**FAILED, name: 0.125}] + [FAILED] * (PATIENCE - 1)
    assert said(Outlook(len(rows)), rows) == [None] * len(rows)


def test_a_run_that_is_shorter_says_it_at_its_end() -> None:
    silent, told = said(Outlook(2), [FAILED] * 2)
    assert silent is None
    assert told is not None


def test_calls_that_do_not_fail_point_at_the_verdict() -> None:
    told = said(Outlook(1), [{"success": 0.0, "rollouts": 8.0, "masked": 0.0, "errors/E4": 0.25}])[0]
    assert told is not None
    assert "judged wrong all the same" in told  # 6 of 8 failed without an error


def test_faults_of_ours_are_not_taken_for_a_bad_model() -> None:
    told = said(Outlook(1), [{"rollouts": 8.0, "masked": 8.0}])[0]
    assert told is not None
    assert "all 8 rollouts broke by faults that are not the model's" in told
