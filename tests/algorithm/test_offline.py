"""The offline variant: contexts of the starting weights, collected once, dealt fairly, and never changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny_contexts import context
from tiny_runs import (
    FISSION,
    OFFLINE,
    SETTINGS,
    STEPS,
    TASKS,
    buffer_of,
    fingerprint,
    finish,
    metrics,
    tiny_run,
    weights,
)

from fission_grpo.algorithm.offline import OfflineSource
from fission_grpo.algorithm.pool import ContextPool
from fission_grpo.algorithm.source import FissionSettings
from fission_grpo.evaluation.group_outcomes import account_groups, group_outcome
from fission_grpo.files import read_jsonl
from fission_grpo.report.costs import budget_table
from fission_grpo.training.trainer import Trainer

POOL = OFFLINE.pool
ONLINE = FISSION.model_copy(update={"trigger": 1})
COUNTS = ("rollouts", "fission/rollouts", "fission/contexts")


def pool_of(trainer: Trainer) -> ContextPool:
    assert isinstance(trainer.source, OfflineSource)
    return trainer.source.pool


def traces(trainer: Trainer, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_jsonl(trainer.run.traces) if line["kind"] == kind]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    trainer = tiny_run(tmp_path_factory.mktemp("offline"), fission=OFFLINE)
    finish(trainer)
    return trainer


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    trainer = tiny_run(tmp_path_factory.mktemp("online"), fission=ONLINE)
    finish(trainer)
    return trainer


# A run.


def test_the_pool_is_what_the_starting_weights_did_and_never_changes(tmp_path: Path, whole: Trainer) -> None:
    first = tiny_run(tmp_path, fission=OFFLINE, steps=1)
    finish(first)
    assert len(pool_of(first)) == POOL
    assert buffer_of(first) == buffer_of(whole)
    assert fingerprint(weights(first)) != fingerprint(weights(whole))
    assert {context.policy_version for context in pool_of(whole).state_dict()["contexts"]} == {0}


def test_contexts_come_from_the_collection_and_grow_old_step_by_step(whole: Trainer) -> None:
    collected = {line["group"]: line for line in traces(whole, "collection")}
    families = traces(whole, "fission")
    assert len(families) == STEPS * OFFLINE.contexts
    for family in families:
        parent = collected[family["parent"]["group"]]
        failed = parent["trajectories"][family["parent"]["trajectory"]]
        start, stop = failed["sampled"][0]
        condition = parent["prompt_ids"] + failed["ids"][start:stop]
        assert family["prompt_ids"][: len(condition)] == condition
    assert [line["fission/age"] for line in metrics(whole.run)] == list(range(STEPS))
    assert [line["fission/buffer"] for line in metrics(whole.run)] == [POOL] * STEPS
    assert whole.source.count.observed >= POOL
    assert whole.source.count.used == STEPS * OFFLINE.contexts


def test_exploration_of_the_first_step_is_that_of_the_online_run(whole: Trainer, online: Trainer) -> None:
    """The collection draws from seeds of its own, and leaves nothing behind but the pool."""

    def first(trainer: Trainer) -> list[dict[str, Any]]:
        return [line for line in traces(trainer, "exploration") if line["step"] == 0]

    assert first(whole) == first(online)
    sampled = {str(member["ids"]) for line in first(whole) for member in line["trajectories"]}
    assert sampled != {str(member["ids"]) for line in traces(whole, "collection") for member in line["trajectories"]}


def test_offline_makes_as_many_recoveries_as_online(whole: Trainer, online: Trainer) -> None:
    for line, other in zip(metrics(whole.run), metrics(online.run), strict=True):
        assert {name: line[name] for name in COUNTS} == {name: other[name] for name in COUNTS}


def test_what_the_collection_cost_is_told_once_and_counted_in_the_budget(whole: Trainer, online: Trainer) -> None:
    first, *others = metrics(whole.run)
    collected = sum(len(line["trajectories"]) for line in traces(whole, "collection"))
    assert first["collect/rollouts"] == collected > 0
    assert not any(name.startswith("collect/") for line in [*others, *metrics(online.run)] for name in line)
    table = budget_table({"offline": [metrics(whole.run)], "online": [metrics(online.run)]})
    rows = {cells[0]: cells[1:] for cells in map(_cells, table.splitlines()) if cells}
    offline_rollouts, online_rollouts = map(int, rows["rollouts"])
    assert offline_rollouts == online_rollouts + collected
    assert rows["of these before the first update, for a pool"] == [str(collected), "0"]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_collection_is_no_training_and_no_group_of_the_account(whole: Trainer) -> None:
    account = account_groups(filter(None, map(group_outcome, read_jsonl(whole.run.traces))))
    assert account.has_signal.total == STEPS * SETTINGS["queries"]
    assert account.fission_has_signal.total == STEPS * OFFLINE.contexts
    assert account.fissioned.successes == account.rescued.successes == 0  # no fresh failure was ever fissioned


@pytest.mark.parametrize("step", [1, 3])
def test_a_stopped_run_continues_bit_for_bit(tmp_path: Path, whole: Trainer, step: int) -> None:
    finish(tiny_run(tmp_path, fission=OFFLINE), stop_after=step)
    resumed = tiny_run(tmp_path, fission=OFFLINE, resume=True)
    assert len(pool_of(resumed)) == POOL
    finish(resumed)
    assert metrics(resumed.run) == metrics(whole.run)
    assert resumed.run.traces.read_bytes() == whole.run.traces.read_bytes()
    assert fingerprint(weights(resumed)) == fingerprint(weights(whole))
    assert pool_of(resumed).dealt == pool_of(whole).dealt
    assert resumed.source.count == whole.source.count


def test_a_pool_that_cannot_be_filled_looks_at_every_task_once(tmp_path: Path) -> None:
    trainer = tiny_run(tmp_path, fission=OFFLINE.model_copy(update={"pool": 999, "per_group": 1}), steps=1)
    finish(trainer)
    assert sorted(line["task"] for line in traces(trainer, "collection")) == sorted(task.id for task in TASKS)
    assert 0 < len(pool_of(trainer)) <= len(TASKS)
    assert not pool_of(trainer).open


def test_without_contexts_nothing_is_collected(tmp_path: Path) -> None:
    off = tiny_run(tmp_path / "off", fission=FissionSettings(), steps=1)
    pooled = tiny_run(tmp_path / "pooled", fission=FissionSettings(pool=POOL), steps=1)
    finish(off)
    finish(pooled)
    assert metrics(off.run) == metrics(pooled.run)
    assert off.run.traces.read_bytes() == pooled.run.traces.read_bytes()


# The pool.


def filled(count: int, *, size: int = 9, seed: int = 0) -> ContextPool:
    pool = ContextPool(size, seed=seed)
    for number in range(count):
        pool.push(context(number, 0))
    return pool


@given(st.integers(1, 9), st.lists(st.integers(0, 12)), st.integers(0, 3))
def test_every_round_deals_every_context_once(count: int, asked: list[int], seed: int) -> None:
    pool = filled(count, seed=seed)
    dealt = []
    for number in asked:
        contexts = pool.pop(number)
        assert len(contexts) == min(number, count)
        dealt += [one.error_ids[0] for one in contexts]
    for begin in range(0, len(dealt), count):
        round_ = dealt[begin : begin + count]
        assert len(set(round_)) == len(round_)
    assert len(pool) == count


def test_rounds_are_shuffled_by_the_seed() -> None:
    def deal(seed: int) -> list[int]:
        pool = filled(9, seed=seed)
        return [one.error_ids[0] for _ in range(2) for one in pool.pop(9)]

    assert deal(0) == deal(0) != deal(1)
    assert deal(0)[:9] != deal(0)[9:]


def test_a_pool_takes_each_failure_once_and_no_more_than_its_size() -> None:
    pool = filled(2, size=2)
    first = pool.state_dict()["contexts"]
    pool.push(context(0, 5))  # an equal failure, met again
    pool.push(context(7, 5))  # and one for which there is no room
    assert (pool.duplicates, pool.dropped, len(pool)) == (1, 1, 2)
    assert pool.state_dict()["contexts"] == first
    assert not pool.open


def test_a_closed_pool_takes_nothing() -> None:
    pool = filled(1)
    assert pool.open
    pool.close()
    pool.push(context(3, 0))
    assert (len(pool), pool.dropped) == (1, 1)


def test_an_empty_pool_deals_nothing() -> None:
    assert filled(0).pop(4) == []


def test_the_order_goes_on_after_a_restart() -> None:
    def deals(pool: ContextPool) -> Iterator[list[int]]:
        for _ in range(4):
            yield [one.error_ids[0] for one in pool.pop(4)]

    uninterrupted, first = filled(9), filled(9)
    expected = list(deals(uninterrupted)) + list(deals(uninterrupted))
    begin = list(deals(first))
    resumed = ContextPool(9, seed=0)
    resumed.load_state_dict(first.state_dict())
    assert begin + list(deals(resumed)) == expected
    assert resumed.state_dict() == uninterrupted.state_dict()


def test_a_pool_has_no_deeper_levels_and_a_trigger_that_can_fire() -> None:
    with pytest.raises(ValidationError, match="set depth=1, or pool=0"):
        FissionSettings(pool=4, depth=2)
    with pytest.raises(ValidationError, match=r"trigger 5 is more than the buffer can hold \(pool 4\)"):
        FissionSettings(pool=4, trigger=5)
