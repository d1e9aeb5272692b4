"""Rows of every form become tasks that `fission data check` has nothing against; what does not is said with its place.

The rows are ours, written after what the data sets' own pages say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fission_grpo.environments.functions.imported import environments_of
from fission_grpo.environments.shipped import SHIPPED
from fission_grpo.errors import ConfigError
from fission_grpo.tasks.convert.conversion import UNSOUND, Conversion, convert_rows
from fission_grpo.tasks.convert.form import RowError
from fission_grpo.tasks.convert.forms import FORMS, form_of
from fission_grpo.tasks.convert.tools import tools_of
from fission_grpo.tasks.inspection import KEYS
from fission_grpo.tasks.jsonl import read_tasks, write_tasks
from fission_grpo.types import ToolCall

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "Look up the weather.", "parameters": SCHEMA}
TOOL = {"type": "function", "function": WEATHER}
ASKED = {"role": "user", "content": "How is Bern?"}
CALL = {"name": "weather", "arguments": {"city": "Bern"}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": "function", "function": CALL}]}
ANSWERED = {"role": "tool", "tool_call_id": "a", "content": "rain"}
SAID = {"role": "assistant", "content": "It rains."}
BERN = (ToolCall(name="weather", arguments={"city": "Bern"}),)

DICT_SCHEMA = {"type": "dict", "properties": {"city": {"type": "str"}}, "required": ["city"]}
NOW = {"name": "Time Now", "description": "", "parameters": {"type": "dict", "properties": {}}}
FUNCTIONS = json.dumps([{**WEATHER, "parameters": DICT_SCHEMA, "required": None}, NOW])
TOOLACE = {
    "system": f"Here is a list of functions in JSON format:\n{FUNCTIONS}\nToday is Monday, 1 December.\nUse [f(a=1)].",
    "conversations": [
        {"from": "user", "value": "How is Bern, and how late is it?"},
        {"from": "assistant", "value": '[weather(city="Bern"), Time Now()]'},
        {"from": "tool", "value": '[{"name": "weather", "results": "rain"}, {"name": "Time Now", "results": 9}]'},
        {"from": "assistant", "value": "It rains, and it is nine."},
    ],
}
XLAM = {
    "id": 7,
    "query": "How is Bern?",
    "tools": json.dumps(
        [
            {
                "name": "weather",
                "description": "",
                "parameters": {
                    "city": {"type": "str", "description": "where"},
                    "days": {"type": "List[int], optional", "description": "which"},
                    "unit": {"type": "str", "description": "in what", "default": "C"},
                },
            }
        ]
    ),
    "answers": json.dumps([CALL]),
}
VERL = {
    "data_source": "shop",
    "prompt": [ASKED],
    "ability": "tools",
    "reward_model": {"style": "rule", "ground_truth": json.dumps([CALL])},
    "extra_info": {"index": 0, "tools": [TOOL]},
}
SKYRL = {
    "data_source": "shop",
    "prompt": [ASKED],
    "env_class": "desk",
    "reward_spec": {"method": "rule", "ground_truth": "1"},
    "extra_info": {"tickets": [1, 2], "unused": None},
}
BFCL = {
    "id": "own_1",
    "question": [[ASKED]],
    "function": [{**WEATHER, "parameters": DICT_SCHEMA}],
    "ground_truth": [{"weather": {"city": ["Bern", "Berne"]}}],
}
TREE = {"root": {"alex": {"type": "directory", "contents": {"notes": {"type": "directory", "contents": {}}}}}}
BFCL_TURNS = {
    "id": "own_2",
    "question": [[{"role": "user", "content": "Go to notes."}], [{"role": "user", "content": "Make todo.txt there."}]],
    "involved_classes": ["GorillaFileSystem"],
    "initial_config": {"GorillaFileSystem": TREE},
    "ground_truth": [["cd('notes')"], ["touch(file_name='todo.txt')"]],
}
ROWS: Mapping[str, dict[str, Any]] = {
    "messages": {"messages": [ASKED, CALLED, ANSWERED, SAID], "tools": [TOOL]},
    "prompt": {"prompt": [ASKED], "completion": [CALLED], "tools": json.dumps([TOOL])},
    "toolace": TOOLACE,
    "xlam": XLAM,
    "verl": VERL,
    "skyrl": SKYRL,
    "bfcl": BFCL,
    "bfcl-multi-turn": BFCL_TURNS,
}


class Desk:
    """The world of the SkyRL row."""

    def reset(self, ground_truth: str, tickets: list[int]) -> None:
        self.tickets, self.goal = tickets, ground_truth

    def close(self, ticket: int) -> str:
        """Close a ticket.

        Args:
            ticket: its number
        """
        return "closed"

    def score(self) -> float:
        return 1.0


ENVIRONMENTS = {**SHIPPED, **environments_of({"desk": Desk})}


def converted(folder: Path, *rows: Any, form: str | None = None) -> Conversion:
    file = folder / "rows.jsonl"
    file.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return convert_rows(file, form, environments=ENVIRONMENTS)


def test_there_is_a_row_of_every_form() -> None:
    assert ROWS.keys() == FORMS.keys()


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_recognised_and_becomes_sound_tasks(tmp_path: Path, name: str) -> None:
    made = converted(tmp_path, ROWS[name])
    assert (made.form, made.left_out) == (name, [])
    write_tasks(tmp_path / "tasks.jsonl", made.tasks)
    again = read_tasks(tmp_path / "tasks.jsonl", environments=ENVIRONMENTS)
    assert [task.id for task in again] == [task.id for task in made.tasks]


def test_every_assistant_message_is_a_decision_point(tmp_path: Path) -> None:
    first, second = converted(tmp_path, ROWS["messages"]).tasks
    assert (len(first.messages), first.target) == (1, BERN)
    assert (len(second.messages), second.target) == (3, ())
    (alone,) = converted(tmp_path, ROWS["prompt"]).tasks
    assert alone.target == BERN


def test_nulls_of_arrow_are_in_no_call_and_no_schema(tmp_path: Path) -> None:
    filled = {**CALL, "arguments": {"city": "Bern", "ticket_id": None}}
    called = {**CALLED, "tool_calls": [{"id": "a", "type": "function", "function": filled}]}
    schema = {**SCHEMA, "properties": {"city": {"type": "string", "enum": None}, "ticket_id": None}}
    row = {
        "messages": [{**ASKED, "tool_calls": None, "tool_call_id": None}, called, ANSWERED, SAID],
        "tools": [{"type": "function", "function": {**WEATHER, "parameters": schema}}],
    }
    made = converted(tmp_path, row)
    assert [task.target for task in made.tasks] == [BERN, ()]
    assert made.tasks[0].tools == (TOOL,)
    assert made.tasks[1].messages[1]["tool_calls"][0] == {"id": "a", "type": "function", "function": CALL}


def test_calls_may_stand_in_the_text_of_a_message(tmp_path: Path) -> None:
    said = {"role": "assistant", "content": f"<tool_call>\n{json.dumps(CALL)}\n</tool_call>"}
    assert converted(tmp_path, {"messages": [ASKED, said], "tools": [TOOL]}).tasks[0].target == BERN


def test_a_dialogue_of_toolace(tmp_path: Path) -> None:
    first, second = converted(tmp_path, TOOLACE).tasks
    assert first.target == (*BERN, ToolCall(name="Time Now", arguments={}))
    assert second.target == ()
    assert [message["role"] for message in second.messages] == ["system", "user", "assistant", "tool", "tool"]
    assert second.messages[0]["content"] == "Today is Monday, 1 December."
    assert json.loads(second.messages[3]["content"])["results"] == "rain"
    assert first.tools[0]["function"]["parameters"] == SCHEMA


def test_parameters_of_xlam_become_a_schema(tmp_path: Path) -> None:
    (task,) = converted(tmp_path, XLAM).tasks
    assert (task.id, task.target) == ("7", BERN)
    assert task.tools[0]["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "where"},
            "days": {"type": "array", "items": {"type": "integer"}, "description": "which"},
            "unit": {"type": "string", "description": "in what", "default": "C"},
        },
        "required": ["city"],
    }


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("dict", {"type": "object", "additionalProperties": True}),
        ("Dict[str, int]", {"type": "object", "additionalProperties": True}),
        ("Optional[float]", {"type": "number"}),
        ("tuple[int, str]", {"type": "array"}),
        ("list[list[bool]]", {"type": "array", "items": {"type": "array", "items": {"type": "boolean"}}}),
        ("Union[int, str]", {}),
        ("any", {}),
    ],
)
def test_a_type_is_translated_or_left_out(name: str, schema: dict[str, Any]) -> None:
    (tool,) = tools_of([{"name": "f", "parameters": {"a": {"type": name}}}])
    assert tool["function"]["parameters"]["properties"]["a"] == schema


def test_a_sound_schema_is_kept_as_it_is() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/A"}},
        "$defs": {"A": {"type": "string", "minLength": 2}},
    }
    (tool,) = tools_of([{"type": "function", "function": {"name": "f", "parameters": schema}}])
    assert tool["function"]["parameters"] == schema


def test_a_ground_truth_that_says_no_calls_needs_a_world(tmp_path: Path) -> None:
    row = {**VERL, "reward_model": {"style": "rule", "ground_truth": "72"}}
    (one,) = converted(tmp_path, row).left_out
    assert one.reason == "the ground truth is no calls"
    (task,) = converted(tmp_path, SKYRL).tasks
    assert task.world is not None
    assert (task.world.environment, task.world.config) == ("desk", {"ground_truth": "1", "tickets": [1, 2]})
    gold = {**SKYRL, "tools": [TOOL], "reward_spec": {"ground_truth": "[weather(city='Bern')]"}}
    (point,) = converted(tmp_path, gold).tasks
    assert (point.world, point.target) == (None, BERN)


def test_tools_of_a_ground_truth_may_stand_in_the_prompt(tmp_path: Path) -> None:
    prompt = [{"role": "system", "content": f"Tools:\n{json.dumps([WEATHER])}\nThink first."}, ASKED]
    (task,) = converted(tmp_path, {**VERL, "prompt": prompt, "extra_info": {}}).tasks
    assert (task.target, len(task.messages), dict(task.meta)) == (BERN, 2, {"data_source": "shop", "ability": "tools"})


def test_answers_of_bfcl_stand_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "possible_answer").mkdir()
    answer = {"id": "own_1", "ground_truth": BFCL["ground_truth"]}
    (tmp_path / "possible_answer" / "rows.json").write_text(json.dumps(answer) + "\n", encoding="utf-8")
    question = {key: value for key, value in BFCL.items() if key != "ground_truth"}
    irrelevant = {**question, "id": "own_irrelevance_1"}
    file = tmp_path / "rows.json"
    file.write_text("\n".join(map(json.dumps, (question, irrelevant, {**question, "id": "own_3"}))), encoding="utf-8")
    made = convert_rows(file)
    assert [(task.id, task.target) for task in made.tasks] == [("own_1", BERN), ("own_irrelevance_1", ())]
    assert [(one.place, one.reason.partition(",")[0]) for one in made.left_out] == [("line 3", "no ground_truth")]


def test_the_first_of_several_right_values_is_gold(tmp_path: Path) -> None:
    place = {"type": "dict", "properties": {"town": {"type": "string"}, "zip": {"type": "integer"}}}
    function = {"name": "f", "parameters": {"type": "dict", "properties": {"to": place, "on": {"type": "string"}}}}
    truth = [{"f": {"to": [{"town": ["Bern", "Berne"], "zip": ["", 3000]}], "on": ["", "today"]}}]
    (task,) = converted(tmp_path, {**BFCL, "function": [function], "ground_truth": truth}).tasks
    # "" allows an argument to be left out, and another value is named: it is given
    assert task.target[0].arguments == {"to": {"town": "Bern", "zip": 3000}, "on": "today"}


def test_whole_turns_of_bfcl_are_played_in_its_world(tmp_path: Path) -> None:
    (task,) = converted(tmp_path, BFCL_TURNS).tasks
    assert [[call.name for call in turn] for turn in task.gold] == [["cd"], ["touch"]]
    assert task.gold[0][0].arguments == {"folder": "notes"}
    assert task.target == task.gold[0][:1]
    wrong = {**BFCL_TURNS, "ground_truth": [["cd('nowhere')"], []]}
    (one,) = converted(tmp_path, wrong).left_out
    assert one.reason == UNSOUND
    assert "turns[0][0] (cd): the world answers" in one.text


def test_every_problem_is_said_with_its_place_and_counted(tmp_path: Path) -> None:
    unknown = json.dumps([{"name": "rain", "arguments": {}}])
    made = converted(
        tmp_path,
        XLAM,
        "{",
        {"query": "x"},
        {**XLAM, "id": 8, "answers": "maybe"},
        {**XLAM, "id": 9, "answers": unknown},
        XLAM,
        [1],
    )
    assert [task.id for task in made.tasks] == ["7"]
    assert [(one.place, one.reason) for one in made.left_out] == [
        ("line 2", "is no row"),
        ("line 3", "keys are missing"),
        ("line 4", "the answers are no calls"),
        ("line 7", "is no row"),
        ("line 5", UNSOUND),
        ("line 6", UNSOUND),
    ]
    assert "unknown tool \"rain\"; the nearest tools are 'weather'" in made.left_out[4].text
    assert made.reasons() == {"is no row": 2, UNSOUND: 2, "keys are missing": 1, "the answers are no calls": 1}


def test_a_form_that_is_not_known_is_answered_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"keys input, output, which is no form.*toolace \(system, conversations\)"):
        converted(tmp_path, {"input": "a", "output": "b"})
    with pytest.raises(ConfigError, match="holds no row"):
        converted(tmp_path, "")


@pytest.mark.parametrize("name", [name for name in ROWS if name != "toolace"])
def test_a_row_without_tools_or_gold_is_left_out(tmp_path: Path, name: str) -> None:
    bare = {mark: ROWS[name][mark] for mark in FORMS[name].marks}
    made = converted(tmp_path, {**bare, "tools": [], "function": []}, form=name)
    assert made.tasks == []
    assert [one.place for one in made.left_out] == ["line 1"] * len(made.left_out) != []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["[f(a=1)]", "[{", "assistant"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "name", "parameters", "type"]), inner)
    ),
    max_leaves=6,
)


def places(value: Any) -> list[tuple[str | int, ...]]:
    """Every place within a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(), *((key, *rest) for key, one in inner for rest in places(one))]


def put(value: Any, place: tuple[str | int, ...], other: Any) -> Any:
    """A JSON value with another one at a place."""
    if not place:
        return other
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = put(value[place[0]], place[1:], other)
    return copy


@pytest.mark.parametrize("name", ROWS)
@given(st.data())
def test_anything_may_stand_in_a_row(name: str, data: st.DataObject) -> None:
    row = ROWS[name]
    row = put(row, data.draw(st.sampled_from([one for one in places(row) if one])), data.draw(JSON))
    if form_of(row) is not FORMS[name]:
        return
    with suppress(RowError):
        assert {key for draft in FORMS[name].records(row) for key in draft} <= KEYS.keys()
