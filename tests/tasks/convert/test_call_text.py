"""`[name(key=value), ...]` is read as it was meant, or refused: nothing is evaluated, nothing else is raised."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fission_grpo.tasks.convert.calls import calls_of, looks_like_calls, parse_call_text
from fission_grpo.types import ToolCall


def tool(name: str, *parameters: str) -> dict[str, Any]:
    properties = {one: {"type": "string"} for one in parameters}
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.text("ab/._- 1", min_size=1, max_size=9).map(lambda text: f"f{text.strip()}")
KEYS = st.text("ab_1", min_size=1, max_size=4)
ARGUMENTS = st.dictionaries(KEYS, VALUES, max_size=3)
CALLS = st.lists(
    st.builds(lambda name, arguments: ToolCall(name=name, arguments=arguments), NAMES, ARGUMENTS), max_size=3
)


@given(CALLS)
def test_calls_written_with_literals_of_python_are_read_back(calls: list[ToolCall]) -> None:
    written = [f"{call.name}({', '.join(f'{k}={v!r}' for k, v in call.arguments.items())})" for call in calls]
    assert parse_call_text(f"[{', '.join(written)}]") == calls


@given(CALLS)
def test_calls_written_with_json_are_read_back(calls: list[ToolCall]) -> None:
    written = [
        f"{call.name}({', '.join(f'{k}={json.dumps(v, ensure_ascii=False)}' for k, v in call.arguments.items())})"
        for call in calls
    ]
    assert parse_call_text(f"[{', '.join(written)}]") == calls


@given(st.text() | st.text(alphabet="[](){}=,:'\"\\ \nabx1.-\0"))
def test_any_other_text_is_refused_and_nothing_else(text: str) -> None:
    with suppress(ValueError):
        assert all(isinstance(call, ToolCall) for call in parse_call_text(text))


@pytest.mark.parametrize("text", ["[" * 10**5, "[f(a=" + "[" * 10**5, "[f(a=" + "9" * 10**5 + ")]", "f(" + " " * 10**5])
def test_hostile_text_is_refused_soon(text: str) -> None:
    with pytest.raises(ValueError, match=r"character|deeper"):
        parse_call_text(text)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (r"'it\'s'", "it's"),
        (r'"\ud83d\ude00"', "\U0001f600"),
        (r"'\d+'", r"\d+"),
        (r'"\d"', r"\d"),
        ("'two\nlines'", "two\nlines"),
        ("'a\0b'", "a\0b"),
    ],
)
def test_texts_may_be_escaped_as_in_python_or_json(written: str, text: str) -> None:
    assert parse_call_text(f"f(a={written})")[0].arguments == {"a": text}


def test_names_may_hold_spaces_and_brackets_where_the_tools_are_known() -> None:
    tools = [tool("Get User", "id"), tool("Get User (v2)", "id")]
    calls = parse_call_text('[Get User (v2)(id="a"), Get User(id="b")]', tools)
    assert [(call.name, call.arguments) for call in calls] == [
        ("Get User (v2)", {"id": "a"}),
        ("Get User", {"id": "b"}),
    ]


def test_a_value_without_a_name_belongs_to_the_parameter_at_its_place() -> None:
    tools = [tool("cp", "source", "destination")]
    assert parse_call_text("cp('a', destination='b')", tools)[0].arguments == {"source": "a", "destination": "b"}
    with pytest.raises(ValueError, match="without a name: 'c'"):
        parse_call_text("cp('a', 'b', 'c')", tools)
    with pytest.raises(ValueError, match="'source' twice"):
        parse_call_text("cp('a', source='b')", tools)


@pytest.mark.parametrize(
    ("text", "are"),
    [
        ("[f()]", True),
        ("  [Market Trends(a=1), g(b='x')] ", True),
        ("[f(a=[1, 2])]", True),
        ("[see (1)] below", False),
        ('["f(a)"]', False),
        ("I would call [f()]", False),
        ("[f(a=1", False),
    ],
)
def test_prose_is_told_from_calls(text: str, are: bool) -> None:
    assert looks_like_calls(text) is are


ONE = {"name": "f", "arguments": {"a": 1}}


@pytest.mark.parametrize(
    "written",
    [
        ONE,
        [ONE],
        json.dumps([ONE]),
        json.dumps(ONE),
        {"function": {"name": "f", "arguments": '{"a": 1}'}},
        {"name": "f", "parameters": {"a": 1}},
        "[f(a=1)]",
        ["f(a=1)"],
        f"I think.\n<tool_call>\n{json.dumps(ONE)}\n</tool_call>",
    ],
    ids=str,
)
def test_a_call_has_many_writings(written: Any) -> None:
    assert calls_of(written, []) == [ToolCall(name="f", arguments={"a": 1})]


def test_several_calls_of_one_block_stand_on_lines() -> None:
    block = "<tool_call>\n" + '{"name": "f", "parameters": {}}\n{"name": "g", "parameters": {}}' + "\n</tool_call>"
    assert [call.name for call in calls_of(block, [])] == ["f", "g"]


@pytest.mark.parametrize("value", [None, 72, "72", "", {"name": 1}, {"name": "f", "arguments": [1]}, "<tool_call>{"])
def test_what_says_no_call_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        calls_of(value, [])
