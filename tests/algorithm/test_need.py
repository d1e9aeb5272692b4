"""Contexts by need: what all failed at, what was seldom practised, and once more what nobody solved."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError
from tiny_contexts import context
from tiny_runs import FISSION, buffer_of, fingerprint, finish, metrics, tiny_run, weights

from fission_grpo.algorithm.context import CorrectiveContext
from fission_grpo.algorithm.need import NeedBuffer
from fission_grpo.algorithm.source import ContextOrder, FissionSettings
from fission_grpo.types import ErrorClass

NEED = FISSION.model_copy(update={"order": ContextOrder.NEED, "capacity": 4})


def case(number: int, version: int = 0, *, failing: float = 1.0, tool: str | None = "ls") -> CorrectiveContext:
    return replace(context(number, version), error=ErrorClass.NOT_FOUND, failing=failing, tool=tool)


def filled(*contexts: CorrectiveContext, capacity: int = 9) -> NeedBuffer:
    buffer = NeedBuffer(capacity)
    for one in contexts:
        buffer.push(one)
    return buffer


def numbers(contexts: list[CorrectiveContext]) -> list[int]:
    return [one.error_ids[0] for one in contexts]


def test_groups_in_which_all_failed_come_first_however_old() -> None:
    buffer = filled(case(1, 0), case(2, 5, failing=0.9), case(3, 1), case(4, 6, failing=0.5))
    assert numbers(buffer.pop(9)) == [3, 1, 4, 2]


def test_kinds_take_turns_within_one_pop_and_over_pops() -> None:
    """Three of `ls` and two of `cd`: each use counts before the next choice; equal counts leave it to freshness."""
    buffer = filled(case(1, tool="cd"), case(2, tool="cd"), *(case(number) for number in (3, 4, 5)))
    assert numbers(buffer.pop(3)) == [5, 2, 4]  # ls, cd, and of one use each the freshest
    assert numbers(buffer.pop(2)) == [1, 3]  # cd has one use, ls two


def test_the_class_of_the_error_is_part_of_the_kind() -> None:
    other = replace(case(1), error=ErrorClass.PRECONDITION)
    buffer = filled(other, case(2), case(3))
    assert numbers(buffer.pop(2)) == [3, 1]


def test_what_nobody_solved_comes_back_once_and_behind_what_was_less_practised() -> None:
    buffer = filled(case(1), case(2, tool="cd"))
    for expected in ([2, 1], [2, 1]):
        used = buffer.pop(9)
        assert numbers(used) == expected
        buffer.put_back(used)
    assert len(buffer) == 0  # used twice
    buffer.push(case(1, 7))  # the policy fails so again: it is practised again,
    used = buffer.pop(9)
    assert numbers(used) == [1]
    buffer.put_back(used)
    assert len(buffer) == 0  # and is not kept


def test_what_comes_back_is_no_fresher_than_it_was() -> None:
    buffer = filled(case(1, 0), case(2, 0))
    (used,) = buffer.pop(1)
    buffer.put_back([used])
    assert numbers(buffer.pop(2)) == [1, 2]  # the same step, the same kind: the other one goes first


def test_a_newer_equal_failure_is_not_replaced_by_what_comes_back() -> None:
    buffer = filled(case(1, 0))
    used = buffer.pop(1)
    buffer.push(case(1, 3))
    buffer.put_back(used)
    assert [one.policy_version for one in buffer.pop(9)] == [3]


def test_equal_failures_are_one_context_the_newer_one() -> None:
    buffer = filled(case(1, 0), case(2, 1), case(1, 2))
    assert buffer.duplicates == 1
    assert [one.policy_version for one in buffer.pop(9)] == [2, 1]


def test_the_least_needy_falls_out() -> None:
    buffer = filled(case(1, 0), case(2, 1, failing=0.5), case(3, 2, failing=0.5), case(4, 3), capacity=2)
    assert buffer.dropped == 2
    assert numbers(buffer.pop(9)) == [4, 1]


def test_the_state_continues_as_if_it_had_not_stopped() -> None:
    def begun() -> NeedBuffer:
        buffer = filled(*(case(number, tool="cd" if number % 3 else "ls") for number in range(6)), capacity=5)
        buffer.put_back(buffer.pop(3))
        return buffer

    going, resumed = begun(), NeedBuffer(5)
    resumed.load_state_dict(pickle.loads(pickle.dumps(begun().state_dict())))
    assert resumed.state_dict() == going.state_dict()
    for _ in range(4):
        ours, theirs = resumed.pop(2), going.pop(2)
        assert ours == theirs
        resumed.put_back(ours)
        going.put_back(theirs)
        assert resumed.state_dict() == going.state_dict()


def test_a_pool_is_dealt_in_its_own_order() -> None:
    with pytest.raises(ValidationError, match=r"order need has no meaning for a pool \(4\); set order=lifo, or pool=0"):
        FissionSettings(pool=4, order=ContextOrder.NEED)


def test_a_stopped_run_continues_bit_for_bit(tmp_path: Path) -> None:
    whole = tiny_run(tmp_path / "whole", fission=NEED)
    finish(whole)
    finish(tiny_run(tmp_path / "stopped", fission=NEED), stop_after=3)
    resumed = tiny_run(tmp_path / "stopped", fission=NEED, resume=True)
    finish(resumed)
    assert metrics(resumed.run) == metrics(whole.run)
    assert resumed.run.traces.read_bytes() == whole.run.traces.read_bytes()
    assert fingerprint(weights(resumed)) == fingerprint(weights(whole))
    assert buffer_of(resumed) == buffer_of(whole)
    ends = [one.source.state_dict()["buffer"] for one in (resumed, whole)]
    assert [end["practised"] for end in ends] == [ends[0]["practised"]] * 2
    assert [end["uses"] for end in ends] == [ends[0]["uses"]] * 2
    assert sum(ends[0]["uses"].values()) == whole.source.count.used > 0
