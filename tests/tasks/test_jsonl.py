"""JSON Lines: nothing is lost on the way, every problem is named at once, with its line."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fission_grpo.environments.functions.imported import environments_of
from fission_grpo.errors import DataError
from fission_grpo.tasks.dialogue import decision_points
from fission_grpo.tasks.jsonl import read_tasks, record_of, tasks_from, write_tasks
from fission_grpo.tasks.probe import probe_items
from fission_grpo.tasks.synthesis.generator import Mixture, synthesise
from fission_grpo.tasks.synthesis.overlap import Shared, official_overlap, overlap
from fission_grpo.types import Task

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}
GOOD: dict[str, Any] = {
    "id": "w1",
    "messages": [{"role": "user", "content": "How is Bern?"}],
    "tools": [TOOL],
    "gold": [{"name": "weather", "arguments": {"city": "Bern"}}],
}
ASKED = [GOOD["messages"][0], {"role": "assistant", "content": "", "tool_calls": [CALL]}]


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return synthesise(31, 60, mixture=Mixture(two_turns=0.3))


def save(path: Path, *records: Any) -> Path:
    path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in records), encoding="utf-8")
    return path


def problems_of(path: Path, **how: Any) -> list[str]:
    """Every problem that keeps a file from being read; empty for a good one."""
    try:
        read_tasks(path, **how)
    except DataError as error:
        return list(error.problems)
    return []


def test_tasks_survive_the_file(tmp_path: Path, tasks: list[Task]) -> None:
    everything = [
        *tasks,
        *(p for t in tasks[:20] for p in decision_points(t)),
        *(i.task for i in probe_items(tasks, 0)),
    ]
    unique = list({task.id: task for task in everything}.values())
    write_tasks(tmp_path / "tasks.jsonl", unique)
    assert problems_of(tmp_path / "tasks.jsonl") == []
    assert read_tasks(tmp_path / "tasks.jsonl") == unique


def test_a_plain_decision_point_needs_no_world(tmp_path: Path) -> None:
    (task,) = read_tasks(save(tmp_path / "t.jsonl", GOOD))
    assert task.world is None
    assert task.target[0].arguments == {"city": "Bern"}


def test_embedded_json_and_nulls_of_table_formats_are_read(tmp_path: Path, tasks: list[Task]) -> None:
    arrow = {
        **GOOD,
        "tools": json.dumps(GOOD["tools"]),
        "world": None,
        "meta": None,
        "gold": [{"name": "weather", "arguments": {"city": "Bern", "symbol": None}}],
        "messages": [{"role": "user", "content": "How is Bern?", "tool_calls": None, "tool_call_id": None}],
    }
    record = record_of(tasks[0])
    nested = {**record, "world": json.dumps(record["world"]), "turns": json.dumps(record["turns"])}
    first, second = read_tasks(save(tmp_path / "t.jsonl", arrow, nested))
    (plain,) = read_tasks(save(tmp_path / "p.jsonl", GOOD))
    assert first == plain
    assert second == tasks[0]


def test_null_is_a_value_in_a_world(tmp_path: Path) -> None:
    found = [t for t in synthesise(5, 60, apis=["TicketAPI"]) if t.meta["hidden"]]
    write_tasks(tmp_path / "t.jsonl", found)
    for task in read_tasks(tmp_path / "t.jsonl"):
        assert task.world is not None
        assert task.world.config["initial"]["TicketAPI"]["current_user"] is None


def tool_of(parameters: Any) -> dict[str, Any]:
    """The good record with another schema."""
    return {**GOOD, "tools": [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]}


BROKEN: list[tuple[str, Any, str]] = [
    ("broken JSON", '{"id": "x", ', "is no JSON"),
    ("not an object", "[1, 2]", "holds list"),
    ("unknown key", {**GOOD, "mesages": []}, "unknown key 'mesages'; the nearest known key is 'messages'"),
    ("TRL's key", {**GOOD, "prompt": []}, "unknown key 'prompt'; the nearest by meaning is 'messages'"),
    ("verl's key", {**GOOD, "reward_model": {}}, "unknown key 'reward_model'; the nearest by meaning is 'world'"),
    ("missing key", {k: v for k, v in GOOD.items() if k != "gold"}, "missing key 'gold'"),
    ("wrong type", {**GOOD, "id": 7}, "id: got 7, expected text"),
    ("tools text", {**GOOD, "tools": "[{"}, "tools: is text, but no JSON"),
    ("deep", "[" * 900 + "]" * 900, "is no JSON: nested deeper than 128 levels"),
    ("deeper", "[" * 100_000, "is no JSON: nested deeper than 128 levels"),
    ("deep tools", {**GOOD, "tools": "[" * 900 + "]" * 900}, "tools: is text, but no JSON: nested deeper than 128"),
    ("tool shape", {**GOOD, "tools": [{"name": "weather"}]}, "tools[0]: expected"),
    ("gold shape", {**GOOD, "gold": ["weather()"]}, "gold[0]: got"),
    ("turns without world", {**GOOD, "turns": [[]]}, "need a world"),
    ("unknown role", {**GOOD, "messages": [*GOOD["messages"], {"role": "asistant", "content": "x"}]}, "'assistant'"),
    ("no user", {**GOOD, "messages": []}, "hold no user message"),
    (
        "ends with assistant",
        {**GOOD, "messages": [*GOOD["messages"], {"role": "assistant", "content": "x"}]},
        "end with",
    ),
    ("late system", {**GOOD, "messages": [*GOOD["messages"], {"role": "system", "content": "x"}]}, "only come first"),
    ("two users", {**GOOD, "messages": GOOD["messages"] * 2}, "two user messages"),
    (
        "orphan result",
        {**GOOD, "messages": [*GOOD["messages"], {"role": "tool", "content": "x"}]},
        "without a tool call",
    ),
    ("unanswered call", {**GOOD, "messages": ASKED}, "have no tool message"),
    (
        "wrong id",
        {**GOOD, "messages": [*ASKED, {"role": "tool", "tool_call_id": "b", "content": "sun"}]},
        "tool_call_id 'b' answers no open call",
    ),
    (
        "bad call",
        {**GOOD, "messages": [ASKED[0], {"role": "assistant", "tool_calls": [{"function": {"name": 3}}]}]},
        "tool_calls[0]",
    ),
    ("silent assistant", {**GOOD, "messages": [ASKED[0], {"role": "assistant"}, ASKED[0]]}, "neither content nor"),
    ("no content", {**GOOD, "messages": [{"role": "user"}]}, "content is null, expected text"),
    ("unknown tool", {**GOOD, "gold": [{"name": "wether", "arguments": {}}]}, "the nearest tools are 'weather'"),
    ("missing argument", {**GOOD, "gold": [{"name": "weather", "arguments": {}}]}, "missing argument 'city'"),
    ("wrong argument", {**GOOD, "gold": [{"name": "weather", "arguments": {"city": 3}}]}, "must be a string"),
    ("schema of no kind", tool_of({"type": "x"}), "tools[0] (weather): parameters: type: 'x' is not valid"),
    ("schema as a list", tool_of([5]), "tools[0] (weather): parameters: expected an object, got [5]"),
    ("required", tool_of({"required": 5}), "parameters: required: 5 is not of type 'array'"),
    ("enum", tool_of({"properties": {"city": {"enum": 5}}}), "properties.city.enum: 5 is not of type 'array'"),
    ("minimum", tool_of({"properties": {"city": {"minimum": "x"}}}), "minimum: 'x' is not of type 'number'"),
    ("pattern", tool_of({"properties": {"city": {"pattern": "("}}}), "is none that RE2 can match"),
    ("look-ahead", tool_of({"properties": {"city": {"pattern": "(?=x)"}}}), "is none that RE2 can match"),
    ("remote schema", tool_of({"properties": {"city": {"$ref": "http://127.0.0.1:9/x"}}}), "nothing is fetched"),
    ("endless schema", tool_of({"$ref": "#"}), "refers to itself without end"),
    ("extra argument", {**GOOD, "gold": [{"name": "weather", "arguments": {"city": "a", "b": 1}}]}, "unexpected"),
]


@pytest.mark.parametrize("record, expected", [pytest.param(r, e, id=name) for name, r, e in BROKEN])
def test_each_problem_is_named_with_its_line(tmp_path: Path, record: Any, expected: str) -> None:
    problems = problems_of(save(tmp_path / "t.jsonl", GOOD, record))
    assert any(problem.startswith("line 2: ") and expected in problem for problem in problems), problems


def test_all_problems_are_found_in_one_pass(tmp_path: Path) -> None:
    path = save(tmp_path / "t.jsonl", *(record for _, record, _ in BROKEN), GOOD, GOOD)
    problems = problems_of(path)
    assert {int(p.split(":")[0].removeprefix("line ")) for p in problems} >= set(range(1, len(BROKEN) + 1))
    with pytest.raises(DataError) as raised:
        read_tasks(path)
    assert raised.value.problems == tuple(problems)
    assert pickle.loads(pickle.dumps(raised.value)).problems == raised.value.problems


class Counter:
    """A world that knows its tools and judges itself."""

    def reset(self, goal: int) -> None:
        self.count, self.goal = 0, goal

    def add(self, number: int) -> str:
        """Add a number.

        Args:
            number: what is added
        """
        self.count += number
        return str(self.count)

    def score(self) -> float:
        return float(self.count == self.goal)


COUNTER = environments_of({"counter": Counter})
SHORT = {
    "id": "c1",
    "messages": [{"role": "user", "content": "Add 3."}],
    "world": {"environment": "counter", "config": {"goal": 3}},
}


def test_a_world_that_knows_its_tools_and_judges_itself_need_not_be_told_either(tmp_path: Path) -> None:
    path = save(tmp_path / "t.jsonl", SHORT)
    (task,) = read_tasks(path, environments=COUNTER)
    assert [tool["function"]["name"] for tool in task.tools] == ["add"]
    assert (task.target, task.gold) == ((), ())
    assert problems_of(path) == [
        "line 1: missing key 'tools', and no environment 'counter' to ask for them; known: bfcl, office. "
        "Say where yours is: environments.counter=module:name"
    ]
    wrong = {**SHORT, "gold": [{"name": "ad", "arguments": {"number": 3}}]}
    assert "the nearest tools are 'add'" in problems_of(save(tmp_path / "w.jsonl", wrong), environments=COUNTER)[0]
    needless = {**SHORT, "world": {"environment": "counter", "config": {}}}
    assert problems_of(save(tmp_path / "n.jsonl", needless), environments=COUNTER)[0].startswith("line 1: world: ")


def test_tasks_of_a_program_are_checked_as_those_of_a_file_are(tmp_path: Path, tasks: list[Task]) -> None:
    (short,) = tasks_from([SHORT], environments=COUNTER)
    assert [short] == read_tasks(save(tmp_path / "t.jsonl", SHORT), environments=COUNTER)
    assert tasks_from(tasks[:3]) == tasks[:3]
    with pytest.raises(DataError) as raised:
        tasks_from([SHORT, {**SHORT, "prompt": "x"}, 3, SHORT], environments=COUNTER)
    assert raised.value.problems == (
        "task 2: unknown key 'prompt'; the nearest by meaning is 'messages'",
        "task 2: id 'c1' was used on task 1 already",
        "task 3: holds int; expected a JSON object",
        "task 4: id 'c1' was used on task 1 already",
    )
    with pytest.raises(DataError, match="expected at least one"):
        tasks_from([])


def test_one_bad_line_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    lines = [
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps(tool_of({"type": "x"})).encode(),
        b"{",
        json.dumps({**GOOD, "id": "w2"}).encode(),
    ]
    path.write_bytes(b"\n".join(lines))
    problems = problems_of(path)
    assert [problem.split(":")[0] for problem in problems] == ["line 1", "line 2", "line 3", "line 4"]


def test_a_catastrophic_pattern_is_matched_in_time(tmp_path: Path) -> None:
    """Python's own engine would need 2^5000 steps for this call."""
    schema = {"type": "object", "properties": {"city": {"type": "string", "pattern": "^(x+x+)+y$"}}}
    record = {**tool_of(schema), "gold": [{"name": "weather", "arguments": {"city": "x" * 5000}}]}
    (problem,) = problems_of(save(tmp_path / "t.jsonl", record))
    assert "argument 'city' must match the pattern" in problem


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, one in inner for found in _paths(one, (*path, key)))]


def _changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _changed(value[path[0]], path[1:], new)
    return copy


ANSWERED = {**GOOD, "messages": [*ASKED, {"role": "tool", "tool_call_id": "a", "content": "sun"}], "meta": {"a": 1}}
STRANGE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["#", "(", "object"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["type", "$ref", "pattern", "enum", "properties", "name", "role"]), inner)
    ),
    max_leaves=5,
)


@given(st.sampled_from(_paths(ANSWERED)), STRANGE)
def test_whatever_stands_in_a_line_there_are_problems_or_tasks(path: tuple[Any, ...], strange: Any) -> None:
    found: Sequence[object] = ()
    try:
        found = tasks_from([_changed(ANSWERED, path, strange)])
    except DataError as error:
        found = error.problems
    assert found


def test_duplicate_ids_name_the_earlier_line(tmp_path: Path) -> None:
    assert problems_of(save(tmp_path / "t.jsonl", GOOD, "", GOOD)) == ["line 3: id 'w1' was used on line 1 already"]


def test_gold_that_fails_in_its_own_world_is_a_problem(tmp_path: Path, tasks: list[Task]) -> None:
    hidden = next(task for task in tasks if task.meta["hidden"] and len(task.gold) == 1)
    record = record_of(hidden)
    skipped = {**record, "gold": record["turns"][0][-1:], "turns": [record["turns"][0][-1:]]}
    problems = problems_of(save(tmp_path / "t.jsonl", skipped))
    assert any("gold[0]" in problem and "the world answers" in problem for problem in problems), problems
    assert any("turns[0][0]" in problem for problem in problems)
    assert problems_of(save(tmp_path / "t.jsonl", skipped), environments={}) == []


def test_turns_must_match_user_messages(tmp_path: Path, tasks: list[Task]) -> None:
    record = record_of(tasks[0])
    problems = problems_of(save(tmp_path / "t.jsonl", {**record, "turns": [*record["turns"], []]}))
    assert any("expected one each" in problem for problem in problems)


def test_unloadable_worlds_are_problems_not_crashes(tmp_path: Path) -> None:
    world = {"environment": "bfcl", "config": {"classes": ["NoSuchAPI"], "initial": {}}}
    problems = problems_of(save(tmp_path / "t.jsonl", {**GOOD, "world": world, "turns": [GOOD["gold"]]}))
    assert any("NoSuchAPI" in problem for problem in problems)


def test_empty_and_missing_files_are_problems(tmp_path: Path) -> None:
    assert "holds no task" in problems_of(save(tmp_path / "t.jsonl"))[0]
    assert "cannot be read" in problems_of(tmp_path / "nowhere.jsonl")[0]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, tasks: list[Task]) -> None:
    path = tmp_path / "t.jsonl"
    write_tasks(path, tasks[:2])
    broken = Task(id="x", messages=({"role": "user", "content": {1, 2}},), tools=())
    with pytest.raises(TypeError):
        write_tasks(path, [broken])
    assert len(read_tasks(path)) == 2


def test_overlap_finds_what_it_is_for(tasks: list[Task]) -> None:
    long = next(task for task in tasks if len(task.gold[0]) >= 3)
    kinds = {offence.shared for offence in overlap([long], tasks)}
    assert kinds == {Shared.WORLD, Shared.TEXT, Shared.CHAIN}
    others = [task for task in tasks if task.id != long.id]
    assert not {o.shared for o in overlap([long], others)} & {Shared.WORLD, Shared.CHAIN}


def test_an_official_entry_overlaps_with_itself() -> None:
    from fission_grpo.environments.bfcl.entries import bfcl_entries

    entry = bfcl_entries("base")[0]
    offences = official_overlap([entry])
    assert {offence.shared for offence in offences} == {Shared.WORLD, Shared.TEXT, Shared.CHAIN}
    assert str(offences[0]).startswith("multi_turn_base_0: same world as multi_turn_base_")


def test_a_task_without_an_id_is_named_after_what_it_holds(tmp_path: Path) -> None:
    nameless = {key: value for key, value in SHORT.items() if key != "id"}
    other = {**nameless, "messages": [{"role": "user", "content": "Add three."}]}
    first, second, third = read_tasks(save(tmp_path / "a.jsonl", nameless, other, nameless), environments=COUNTER)
    assert third.id == f"{first.id}-2"
    assert len({first.id, second.id, third.id}) == 3
    moved = read_tasks(save(tmp_path / "b.jsonl", SHORT, other, {**nameless, "meta": None}), environments=COUNTER)
    assert [task.id for task in moved] == ["c1", second.id, first.id]
    write_tasks(tmp_path / "c.jsonl", [first, second, third])
    assert read_tasks(tmp_path / "c.jsonl", environments=COUNTER) == [first, second, third]


def test_what_is_right_next_is_read_off_the_turns(tmp_path: Path) -> None:
    one, two = ({"name": "add", "arguments": {"number": number}} for number in (1, 2))
    whole = {**SHORT, "turns": [[one, two]]}
    done = {"role": "assistant", "content": "", "tool_calls": [{"id": "a", "type": "function", "function": one}]}
    reply = {"role": "tool", "tool_call_id": "a", "content": "1"}
    begun = {**whole, "id": "c2", "messages": [*SHORT["messages"], done, reply]}
    told = {**whole, "id": "c3", "gold": []}
    found = read_tasks(save(tmp_path / "t.jsonl", whole, begun, told), environments=COUNTER)
    assert [[call.arguments for call in task.target] for task in found] == [[{"number": 1}], [{"number": 2}], []]


def test_without_a_world_it_is_said_why_gold_is_needed(tmp_path: Path) -> None:
    bare = {"messages": GOOD["messages"]}
    assert problems_of(save(tmp_path / "t.jsonl", bare)) == [
        "line 1: missing key 'tools': there is no world to ask for its own",
        "line 1: missing key 'gold': nothing else says what is right next; [] where words are",
    ]
