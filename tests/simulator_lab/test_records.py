"""Records: what is written is read, and every problem is named with its line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_records import SMALL, records

from fission_grpo.environments.bfcl.environment import BfclEnvironment
from fission_grpo.environments.shipped import SHIPPED
from fission_grpo.errors import ConfigError, DataError
from fission_grpo.simulator.base import ErrorSimulator
from fission_grpo.simulator_lab.corpus import (
    SPLITS,
    OwnTasks,
    RecordSettings,
    corrupted_calls,
    policy_failures,
    simulator_records,
)
from fission_grpo.simulator_lab.records import (
    WORLD_TEACHER,
    RecordOrigin,
    RecordSplit,
    check_simulator_records,
    looks_like_records,
    read_simulator_records,
    taught_leaks,
    write_simulator_records,
)
from fission_grpo.tasks.jsonl import write_tasks
from fission_grpo.tasks.synthesis.families import APIS, HELDOUT_APIS
from fission_grpo.tasks.synthesis.generator import synthesise
from fission_grpo.types import ErrorClass


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "records.jsonl"
    write_simulator_records(file, records())
    assert tuple(read_simulator_records(file)) == records()
    assert check_simulator_records(file) == []
    assert looks_like_records(file)
    test = read_simulator_records(file, split=RecordSplit.TEST)
    assert {one.api for one in test} == {"MessageAPI"}


def line(**changes: Any) -> Mapping[str, Any]:
    record = {
        "id": "r",
        "split": "train",
        "api": "FileAPI",
        "origin": "corruption",
        "error": "E4",
        "system": "",
        "tools": [
            {
                "type": "function",
                "function": {"name": "cd", "parameters": {"properties": {"folder": {"type": "string"}}}},
            }
        ],
        "dialogue": [{"role": "user", "content": "go to docs"}],
        "failed": {"name": "cd", "arguments": {"folder": "x"}},
        "answer": None,
        "reference": [{"name": "cd", "arguments": {"folder": "docs"}}],
        "diagnosis": "no such folder",
        "teacher": "world",
        "fields": ["folder"],
    }
    return {**record, **changes}


BAD: tuple[tuple[Mapping[str, Any] | str, str], ...] = (
    ("{", "is no JSON"),
    ("[]", "valid dictionary"),
    (line(id="s", colour="red"), "colour: Extra inputs"),
    ({key: value for key, value in line(id="t").items() if key != "failed"}, "failed: Field required"),
    (line(id="u", error="E99"), "error: "),
    (line(id="v", split="test"), "api FileAPI is in split test here and in train on line 1"),
    (line(), "id 'r' was used on line 1"),
    (line(id="w", reference=[{"name": "cd", "arguments": {"place": "docs"}}]), "reference.0: unexpected argument"),
    (line(id="x", error="W"), "answer: is missing"),
    (
        line(id="y", diagnosis="try 'archive'", reference=[{"name": "cd", "arguments": {"folder": "archive"}}]),
        "archive",
    ),
    (line(id="z", failed={"name": "cd", "arguments": {"folder": "docs"}}), "the very call that was due"),
    (line(id="0", dialogue=[{"role": "system", "content": "hi"}]), "holds no user message"),
)


def test_every_problem_is_named_in_one_pass(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    lines = [line(), *(bad for bad, _ in BAD)]
    file.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines), encoding="utf-8")
    problems = check_simulator_records(file)
    for number, (_, expected) in enumerate(BAD, 2):
        assert any(problem.startswith(f"line {number}: ") and expected in problem for problem in problems), expected
    assert not any(problem.startswith("line 1: ") for problem in problems)
    with pytest.raises(DataError) as error:
        read_simulator_records(file)
    assert list(error.value.problems) == problems


def test_an_empty_and_an_absent_file_are_problems(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    assert check_simulator_records(tmp_path / "empty.jsonl") == ["holds no record; expected one JSON object a line"]
    assert "cannot be read" in check_simulator_records(tmp_path / "absent.jsonl")[0]
    assert not looks_like_records(tmp_path / "absent.jsonl")


def test_building_is_a_function_of_its_settings() -> None:
    assert tuple(simulator_records(SMALL)[0]) == records()
    other = simulator_records(SMALL.model_copy(update={"seed": 1}))[0]
    assert {one.diagnosis for one in other} != {one.diagnosis for one in records()}


def test_whole_apis_are_held_out_and_both_weigh_alike() -> None:
    by_api = {api: [one for one in records() if one.api == api] for api in SMALL.apis}
    assert {api: {one.split for one in ones} for api, ones in by_api.items()} == {
        "TicketAPI": {RecordSplit.TRAIN},
        "MessageAPI": {RecordSplit.TEST},
    }
    assert min(map(len, by_api.values())) >= 18
    assert set(SPLITS) == set(APIS)
    assert all(SPLITS[api] is RecordSplit.TEST for api in HELDOUT_APIS)


def test_explicit_errors_are_the_worlds_own_words() -> None:
    settings = RecordSettings(tasks_per_api=2)
    corrupted = corrupted_calls("TicketAPI", settings)
    explicit = [one for one in corrupted if one.outcome.is_error]
    silent = [one for one in corrupted if not one.outcome.is_error]
    assert explicit
    assert silent
    assert all(one.case.reference and one.call != one.case.reference[0] for one in corrupted)
    for record in records():
        told = record.teacher == WORLD_TEACHER
        assert told == (record.answer is None) == (record.error not in (ErrorClass.SILENT, ErrorClass.SOFT))
        assert taught_leaks(record) == ()
        if record.error is ErrorClass.UNKNOWN_TOOL:
            assert record.diagnosis == f"Error during execution: name '{record.failed.name}' is not defined"


def test_a_teacher_writes_the_diagnoses_of_silent_calls() -> None:
    class Teacher:
        name = "teacher"

        def diagnose(self, failed: Any) -> Any:
            from fission_grpo.simulator.base import Feedback

            return [Feedback(texts=(f"{one.outcomes[0].text}\nnot quite",), origin="teacher") for one in failed]

    teacher: ErrorSimulator = Teacher()
    taught, count = simulator_records(SMALL, teacher=teacher)
    silent = [one for one in taught if one.answer is not None]
    assert silent
    assert {(one.diagnosis, one.teacher) for one in silent} == {("not quite", "teacher")}
    assert count.records == len(taught) == sum(count.by_error.values())


def test_a_policys_own_failures_become_records(tmp_path: Path) -> None:
    task_settings = {"count": 3, "apis": ["TicketAPI"], "seed": 3}
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(json.dumps({"synthetic": task_settings}), encoding="utf-8")
    from fission_grpo.chat.parse import render_call
    from fission_grpo.tasks.synthesis.generator import synthesise
    from fission_grpo.types import ToolCall

    task = synthesise(3, 3, apis=("TicketAPI",))[0]
    environment = BfclEnvironment()
    environment.reset(task)
    wrong = ToolCall(name="no_such_tool", arguments={})
    outcome = environment.execute(wrong)
    trajectory = {
        "text": [render_call(wrong)],
        "replies": [[outcome.text]],
        "outcomes": [[{"kind": outcome.kind, "error": outcome.error}]],
        "failure": {"error": "E1", "turn": 0, "fault": "model", "reason": ""},
    }
    blameless = {**trajectory, "failure": None}
    trace = {"step": 0, "kind": "exploration", "task": task.id, "trajectories": [trajectory, trajectory, blameless]}
    recovery = {**trace, "kind": "fission"}
    (run / "traces.jsonl").write_text(f"{json.dumps(trace)}\n{json.dumps(recovery)}\n", encoding="utf-8")
    (one,) = policy_failures(run)
    (run / "config.yaml").write_text("data: given\n", encoding="utf-8")  # the same task, given by a program
    with pytest.raises(ConfigError, match=r"run/tasks\.jsonl is not there"):
        policy_failures(run)
    write_tasks(run / "tasks.jsonl", [task])
    (by_program,) = policy_failures(run)
    assert (by_program.call, by_program.name) == (one.call, one.name)
    assert by_program.case.failed == one.case.failed
    assert (one.origin, one.api, one.call) == (RecordOrigin.POLICY, "TicketAPI", wrong)
    assert one.case.reference == task.gold[0]
    assert one.case.failed.messages == task.messages
    mixed, count = simulator_records(SMALL.model_copy(update={"apis": ("TicketAPI",)}), runs=[run])
    assert count.by_origin["policy"] == 1
    assert len({record.id for record in mixed}) == len(mixed)


def test_wrong_calls_in_the_office_belong_to_their_world() -> None:
    office = OwnTasks(tasks=synthesise(0, 2, apis=["Bank"]), environments=SHIPPED)
    assert {one.api for one in office.wrong_calls(0)} == {"Bank"}


def test_damaged_traces_are_named_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("synthetic: {count: 1, apis: [TicketAPI]}\n", encoding="utf-8")
    (tmp_path / "traces.jsonl").write_text('{"task": "a", "kind": "exploration", "traj\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"traces\.jsonl: 1 problem\(s\)\n  line 1: found .*expected a JSON object"):
        policy_failures(tmp_path)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        policy_failures(tmp_path)


def test_a_record_of_the_world_hides_its_error_text_where_there_is_no_world() -> None:
    record = next(one for one in records() if one.teacher == WORLD_TEACHER)
    assert record.case().failed.outcomes[0].text == record.diagnosis
    assert record.worldless_case().failed.outcomes == ()
    assert replace(record, system="be brief").case().failed.messages[0]["role"] == "system"
