"""Dialogues and probes: real texts, right targets, errors that harm nothing."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fission_grpo.environments.bfcl.environment import BfclEnvironment
from fission_grpo.tasks.corruption import Corruption, corrupt
from fission_grpo.tasks.dialogue import (
    DecisionPosition,
    continuations,
    decision_points,
    decision_positions,
    inject,
    premature_calls,
)
from fission_grpo.tasks.gold_chain import chain_of
from fission_grpo.tasks.probe import ProbeItem, ProbeKind, probe_items
from fission_grpo.tasks.synthesis.generator import Mixture, synthesise
from fission_grpo.types import ErrorClass, Task, ToolCall


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return synthesise(21, 120, split="heldout", mixture=Mixture(two_turns=0.3))


@pytest.fixture(scope="module")
def mixed(tasks: list[Task]) -> list[ProbeItem]:
    return list(probe_items(tasks, 0))


@pytest.fixture(scope="module")
def preconditions(tasks: list[Task]) -> list[ProbeItem]:
    return list(probe_items(tasks, 0, "precondition"))


def finish(task: Task) -> bool:
    """Whether the gold calls that are still to come lead to the official verdict."""
    environment = BfclEnvironment()
    environment.reset(task)
    turn = sum(message["role"] == "user" for message in task.messages) - 1
    rest = task.gold[turn][task.gold[turn].index(task.target[0]) :]
    assert not any(environment.execute(call).is_error for call in rest)
    for later in task.gold[turn + 1 :]:
        environment.next_turn()
        assert not any(environment.execute(call).is_error for call in later)
    return environment.score().ok


def test_decision_points_cover_every_call_and_every_final_word(tasks: list[Task]) -> None:
    for task in tasks:
        points = decision_points(task)
        assert len(points) == len(chain_of(task)) + len(task.gold)
        assert [call for point in points for call in point.target] == list(chain_of(task))
        assert [len(point.followups) for point in points] == sorted((len(p.followups) for p in points), reverse=True)


def test_decision_points_can_be_replayed_from_their_messages(tasks: list[Task]) -> None:
    environment = BfclEnvironment()
    for task in tasks[:40]:
        for point in decision_points(task):
            environment.reset(point)
            assert point.messages[-1]["role"] in ("user", "tool")
            assert all(not environment.execute(call).is_error for call in point.target)
        assert environment.score().ok  # the last point stands at the end of the episode


def test_recorded_results_are_the_worlds_own(tasks: list[Task]) -> None:
    environment = BfclEnvironment()
    for task in tasks[:40]:
        last = decision_points(task)[-1]
        said = [message["content"] for message in last.messages if message["role"] == "tool"]
        environment.reset(task)
        heard = []
        for i, turn in enumerate(task.gold):
            if i:
                environment.next_turn()
            heard += [environment.execute(call).text for call in turn]
        assert said == heard


@pytest.mark.parametrize("kind", list(ProbeKind))
def test_probes_show_real_explicit_errors_and_stay_solvable(tasks: list[Task], kind: ProbeKind) -> None:
    items = list(probe_items(tasks, 3, kind))
    assert len(items) > 30
    environment = BfclEnvironment()
    for item in items:
        before, asked, told = item.task.messages[:-2], item.task.messages[-2], item.task.messages[-1]
        assert asked["tool_calls"][0]["function"] == {"name": item.wrong.name, "arguments": item.wrong.arguments}
        environment.reset(Task(id="before", messages=before, tools=item.task.tools, world=item.task.world))
        outcome = environment.execute(item.wrong)
        assert outcome.is_error
        assert outcome.text == told["content"] == item.text
        assert outcome.error == item.error
        assert item.wrong not in item.task.target
        assert item.task.target
        assert finish(item.task)


def test_mixed_probes_are_balanced_over_classes(mixed: list[ProbeItem], tasks: list[Task]) -> None:
    assert len(mixed) == len(tasks)
    counts = Counter(item.error for item in mixed)
    common = {error: n for error, n in counts.items() if error is not ErrorClass.CONFLICT}
    assert set(common) == {
        ErrorClass.UNKNOWN_TOOL,
        ErrorClass.ARGUMENT_SCHEMA,
        ErrorClass.ARGUMENT_TYPE,
        ErrorClass.NOT_FOUND,
        ErrorClass.ILLEGAL_VALUE,
        ErrorClass.PRECONDITION,
    }
    assert max(common.values()) <= 2 * min(common.values())
    assert {item.corruption for item in mixed} >= set(Corruption) - {Corruption.OTHER_VALUE}


def test_precondition_probes_are_the_hidden_tasks(preconditions: list[ProbeItem], tasks: list[Task]) -> None:
    assert len(preconditions) == sum(task.meta["hidden"] for task in tasks)
    assert {item.error for item in preconditions} == {ErrorClass.PRECONDITION, ErrorClass.NOT_FOUND}
    assert all(item.corruption is None for item in preconditions)


def test_probes_are_a_function_of_the_seed(tasks: list[Task], mixed: list[ProbeItem]) -> None:
    assert list(probe_items(tasks, 0)) == mixed
    assert list(probe_items(tasks, 1)) != mixed


def test_continuations_lead_from_the_fix_to_the_end_of_the_turn(tasks: list[Task]) -> None:
    hidden = [task for task in tasks if task.meta["hidden"] and len(task.gold) == 1]
    assert hidden
    environment = BfclEnvironment()
    for task in hidden:
        position, wrong = premature_calls(task)[0]
        points = continuations(task, wrong, position)
        assert [point.target for point in points] == [
            task.gold[0][done + 1 : done + 2] for done in range(position.done, len(task.gold[0]))
        ]
        environment.reset(points[-1])
        assert environment.score().ok
        assert all(any("error" in m["content"].lower() for m in p.messages if m["role"] == "tool") for p in points)


def test_what_succeeds_or_does_damage_is_no_injection(tasks: list[Task]) -> None:
    task = tasks[0]
    assert inject(task, task.gold[0][0], DecisionPosition(turn=0, done=0)) is None
    # Locks the driver's door before it stumbles over the unknown one: the error is explicit, but the world has changed.
    unlock = next(
        t
        for t in synthesise(2, 200, apis=["VehicleControlAPI"])
        if t.meta["family"] == "unlock" and "driver" not in t.gold[0][0].arguments["door"]
    )
    stumbling = ToolCall(name="lockDoors", arguments={"unlock": True, "door": ["driver", "trunk"]})
    assert inject(unlock, stumbling, DecisionPosition(turn=0, done=0)) is None
    assert continuations(unlock, stumbling, DecisionPosition(turn=0, done=0)) == []


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(list(Corruption)), seed=st.integers(0, 10**6), index=st.integers(0, 119))
def test_corruptions_differ_from_the_call_and_repeat_with_the_seed(
    tasks: list[Task], kind: Corruption, seed: int, index: int
) -> None:
    task = tasks[index]
    values = [value for call in chain_of(task) for value in call.arguments.values()]
    for call in chain_of(task):
        wrong = corrupt(call, kind, tools=task.tools, others=values, rng=Random(seed))
        assert wrong != call
        assert wrong == corrupt(call, kind, tools=task.tools, others=values, rng=Random(seed))


def test_name_and_schema_corruptions_are_always_told(tasks: list[Task]) -> None:
    environment = BfclEnvironment()
    told = {
        Corruption.UNKNOWN_NAME: ErrorClass.UNKNOWN_TOOL,
        Corruption.MISSING_ARGUMENT: ErrorClass.ARGUMENT_SCHEMA,
        Corruption.UNEXPECTED_ARGUMENT: ErrorClass.ARGUMENT_SCHEMA,
        Corruption.RENAMED_ARGUMENT: ErrorClass.ARGUMENT_SCHEMA,
    }
    for task in tasks:
        for kind, error in told.items():
            position = next(iter(decision_positions(task)))
            wrong = corrupt(task.gold[0][0], kind, tools=task.tools, rng=Random(task.id))
            if wrong:
                environment.reset(task)
                assert environment.execute(wrong).error is error, (kind, wrong)
                assert inject(task, wrong, position, environment=environment) is not None
