"""Records under other names, and what code finds out about a call."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from simulator_cases import RIGHT, TOOL, WRONG
from small_records import records

from fission_grpo.environments.schema import call_problems
from fission_grpo.simulator.fault_fields import NAME, fields_at_fault, names_field
from fission_grpo.simulator.findings import findings
from fission_grpo.simulator.prompts import Prompt, PromptStyle, prompt_messages
from fission_grpo.simulator_lab.records import (
    SimulatorRecord,
    check_simulator_records,
    taught_leaks,
    write_simulator_records,
)
from fission_grpo.simulator_lab.renaming import Coiner, renamed, renamed_records
from fission_grpo.types import ErrorClass, OutcomeKind, ToolCall, ToolOutcome


def coiner() -> Coiner:
    return Coiner(rng=Random(1))


def one_of(error: ErrorClass) -> SimulatorRecord:
    return next(record for record in records() if record.error is error)


def words_of(record: SimulatorRecord) -> set[str]:
    tools = [tool["function"] for tool in record.tools]
    names = {tool["name"] for tool in tools} | {name for tool in tools for name in tool["parameters"]["properties"]}
    return names | {record.failed.name, *record.failed.arguments}


def test_a_renamed_record_shares_no_name_with_its_own_and_all_its_faults() -> None:
    for record in records():
        other = renamed(record, coiner())
        assert other is not None
        assert not words_of(record) & words_of(other)
        assert len(words_of(record)) == len(words_of(other)), "one-to-one"
        assert [*map(type, record.failed.arguments.values())] == [*map(type, other.failed.arguments.values())]
        if record.fields:
            assert sorted(other.fields) == list(fields_at_fault(other.failed, other.reference, other.tools))
        kinds = [problem.error for problem in call_problems(record.failed, record.tools)]
        assert kinds == [problem.error for problem in call_problems(other.failed, other.tools)]
        assert not taught_leaks(other)


def test_the_names_in_an_error_text_are_the_new_ones() -> None:
    record = one_of(ErrorClass.UNKNOWN_TOOL)
    other = renamed(record, coiner())
    assert other is not None
    assert other.diagnosis == f"Error during execution: name '{other.failed.name}' is not defined"
    schema = renamed(one_of(ErrorClass.ARGUMENT_SCHEMA), coiner())
    assert schema is not None
    assert any(names_field(schema.diagnosis, field, schema.failed) for field in schema.fields)


def test_a_made_up_value_that_the_text_quotes_is_another_one_in_both_places() -> None:
    record = next(one for one in records() if one.id.endswith("made_up_value") and "with ID" in one.diagnosis)
    other = renamed(record, coiner())
    assert other is not None
    (old,), (new,) = ([one.failed.arguments[field] for field in one.fields] for one in (record, other))
    assert old != new
    assert str(new) in other.diagnosis
    assert str(old) not in other.diagnosis


def test_renamed_records_are_sound_repeatable_and_differ_from_copy_to_copy(tmp_path: Path) -> None:
    made = renamed_records(records()[:6], copies=2, seed=3)
    assert made == renamed_records(records()[:6], copies=2, seed=3)
    assert made != renamed_records(records()[:6], copies=2, seed=4)
    assert len({record.failed.name for record in made}) == len(made)
    file = tmp_path / "renamed.jsonl"
    write_simulator_records(file, made)
    assert check_simulator_records(file) == []


def test_a_target_text_names_an_argument_where_the_world_names_none() -> None:
    record = one_of(ErrorClass.ARGUMENT_SCHEMA)
    assert record.target_text().startswith("Error during execution: ")
    assert record.failed.name in record.target_text()
    assert "API." not in record.target_text()
    mute = replace(record, diagnosis="Error", fields=("title",))
    assert mute.target_text() == "Error\nhint: look at 'title'"
    assert replace(mute, fields=()).target_text() == "Error"
    assert replace(mute, fields=(NAME,)).target_text() == "Error\nhint: look at the tool"


NO = ToolOutcome(kind=OutcomeKind.SOFT_FAILURE, text='{"done": false, "by": "x"}', error=ErrorClass.SOFT)
NOTHING = ToolOutcome(kind=OutcomeKind.SUCCESS, text="None")
VALUE = "wrong 'folder': \"x\""


@pytest.mark.parametrize(
    ("call", "reference", "answer", "expected"),
    [
        (ToolCall(name="chdir", arguments={}), (RIGHT,), None, ("failed", "no such tool")),
        (ToolCall(name="cd", arguments={}), (RIGHT,), None, ("failed", "missing argument 'folder'")),
        (
            ToolCall(name="cd", arguments={"folder": 3}),
            (RIGHT,),
            None,
            ("failed", "argument 'folder' must be a string, got the number 3"),
        ),
        (WRONG, (RIGHT,), None, ("failed", VALUE)),
        (WRONG, (RIGHT, WRONG), None, ("failed", "due after 'cd'")),
        (WRONG, (ToolCall(name="ls", arguments={}),), None, ("failed", "another tool is due")),
        (WRONG, (), None, ("failed", "no call is due")),
        (WRONG, (RIGHT,), NO, ("answered no", "'done' is false", VALUE)),
        (WRONG, (RIGHT,), NOTHING, ("answered nothing", VALUE)),
    ],
)
def test_findings_say_what_code_can_check(
    call: ToolCall, reference: tuple[ToolCall, ...], answer: ToolOutcome | None, expected: tuple[str, ...]
) -> None:
    found = findings(call, tools=[TOOL], messages=(), reference=reference, answer=answer)
    assert found.splitlines() == [f"called '{call.name}'", *expected]


def test_a_value_outside_what_a_description_allows_is_found_out() -> None:
    def asked(description: str, right: object) -> str:
        tool = {"function": {"name": "set", "parameters": {"properties": {"mode": {"description": description}}}}}
        wrong, due = (ToolCall(name="set", arguments={"mode": value}) for value in ("x", right))
        return findings(wrong, tools=[tool], messages=(), reference=[due], answer=None).splitlines()[2]

    assert asked('[Enum]: ["on", "off"]', "off") == "wrong 'mode': \"x\", values are listed"
    assert asked("from 1 to 5", 3) == "wrong 'mode': \"x\", values have a range"
    assert asked("in the format YYYY-MM-DD", "2024-01-01") == "wrong 'mode': \"x\", values have a format"
    assert asked("any colour", "red") == "wrong 'mode': \"x\""


def test_findings_hold_no_value_of_the_reference_and_no_error_text() -> None:
    for record in records():
        (prompt,) = prompt_messages(Prompt(case=record.case(), place=0), PromptStyle.FINDINGS).messages
        due = ToolCall(
            name=record.reference[0].name, arguments=dict.fromkeys(record.reference[0].arguments, "zanzibar")
        )
        shifted = replace(record, reference=(due, *record.reference[1:]))
        (other,) = prompt_messages(Prompt(case=shifted.case(), place=0), PromptStyle.FINDINGS).messages
        assert "zanzibar" not in str(other["content"])
        assert record.answer is not None or record.diagnosis not in str(prompt["content"])
