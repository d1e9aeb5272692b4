from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fission_grpo.environments.schema import call_problems
from fission_grpo.errors import SimulatorError
from fission_grpo.simulator.base import ErrorSimulator, FailedCall, Feedback
from fission_grpo.simulator.passthrough import PassthroughSimulator
from fission_grpo.simulator.rules import RulesSimulator
from fission_grpo.simulator.static import STATIC_TEXT, StaticSimulator
from fission_grpo.types import (
    ErrorClass,
    OutcomeKind,
    ParsedMessage,
    ParseFailure,
    ParseFailureKind,
    Tool,
    ToolCall,
    ToolOutcome,
)


def tool(name: str, properties: Mapping[str, Any], required: Sequence[str] = ()) -> Tool:
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": "", "parameters": parameters}}


TOOLS = (
    tool("cd", {"folder": {"type": "string"}}, ["folder"]),
    tool("pwd", {}),
    tool(
        "place_order",
        {
            "kind": {"type": "string", "enum": ["Buy", "Sell"]},
            "amount": {"type": "integer", "minimum": 1},
            "price": {"type": ["number", "null"]},
            "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
            "buyer": {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]},
        },
        ["kind", "amount"],
    ),
)
SIMULATORS: tuple[ErrorSimulator, ...] = (StaticSimulator(), PassthroughSimulator(), RulesSimulator())


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


def failed(
    *calls: ToolCall,
    outcomes: Sequence[ToolOutcome] = (),
    failures: Sequence[ParseFailure] = (),
    error: ErrorClass = ErrorClass.SILENT,
    messages: Sequence[Mapping[str, Any]] = (),
    tools: Sequence[Tool] = TOOLS,
) -> FailedCall:
    return FailedCall(
        messages=({"role": "user", "content": "go"}, *messages),
        tools=tuple(tools),
        text="",
        parsed=ParsedMessage(content="", calls=calls, failures=tuple(failures)),
        outcomes=tuple(outcomes),
        error=error,
    )


def said(text: str, kind: OutcomeKind = OutcomeKind.ERROR, error: ErrorClass | None = None) -> ToolOutcome:
    return ToolOutcome(kind=kind, text=text, error=error)


def rules(one: FailedCall) -> tuple[str, ...]:
    (feedback,) = RulesSimulator().diagnose([one])
    assert feedback.origin == "rules"
    return feedback.texts


ORDER = {"kind": "Buy", "amount": 1}


@pytest.mark.parametrize(
    ("made", "error", "argument", "text"),
    [
        (
            call("cd_item", folder="a"),
            ErrorClass.UNKNOWN_TOOL,
            "",
            "unknown tool \"cd_item\"; the nearest tools are 'cd', 'place_order', 'pwd'",
        ),
        (call("cd"), ErrorClass.ARGUMENT_SCHEMA, "folder", "missing argument 'folder' (a string)"),
        (
            call("cd", folder="a", fodler="b"),
            ErrorClass.ARGUMENT_SCHEMA,
            "fodler",
            "unexpected argument 'fodler'",
        ),
        (
            call("pwd", verbose=True),
            ErrorClass.ARGUMENT_SCHEMA,
            "verbose",
            "unexpected argument 'verbose'",
        ),
        (
            call("place_order", kind="Buy", amuont=3),
            ErrorClass.ARGUMENT_SCHEMA,
            "amuont",
            "unexpected argument 'amuont', did you mean 'amount'?",
        ),
        (
            call("place_order", kind="Buy", amount="5"),
            ErrorClass.ARGUMENT_TYPE,
            "amount",
            "argument 'amount' must be an integer, got the string \"5\"",
        ),
        (
            call("place_order", **ORDER, price=[1]),
            ErrorClass.ARGUMENT_TYPE,
            "price",
            "argument 'price' must be a number or null, got the list [1]",
        ),
        (
            call("place_order", kind="Buy", amount=None),
            ErrorClass.ARGUMENT_TYPE,
            "amount",
            "argument 'amount' must be an integer, got null",
        ),
        (
            call("place_order", **ORDER, tags=["a", 1]),
            ErrorClass.ARGUMENT_TYPE,
            "tags[1]",
            "argument 'tags[1]' must be a string, got the number 1",
        ),
        (
            call("place_order", **ORDER, buyer={}),
            ErrorClass.ARGUMENT_SCHEMA,
            "buyer.id",
            "missing argument 'buyer.id' (an integer)",
        ),
        (
            call("place_order", kind="Hold", amount=1),
            ErrorClass.ILLEGAL_VALUE,
            "kind",
            'argument \'kind\' must be one of "Buy", "Sell", got "Hold"',
        ),
        (
            call("place_order", kind="Buy", amount=0),
            ErrorClass.ILLEGAL_VALUE,
            "amount",
            "argument 'amount' must be at least 1, got 0",
        ),
        (
            call("place_order", **ORDER, tags=["a", "b", "c"]),
            ErrorClass.ILLEGAL_VALUE,
            "tags",
            'argument \'tags\' must have a length of at most 2, got ["a", "b", "c"]',
        ),
    ],
)
def test_each_kind_of_schema_error_names_its_class_and_its_argument(
    made: ToolCall, error: ErrorClass, argument: str, text: str
) -> None:
    found = [problem for problem in call_problems(made, TOOLS) if problem.argument == argument]
    assert [(problem.error, problem.text) for problem in found] == [(error, text)]
    assert text in rules(failed(made, error=error))[0]


def test_a_call_that_obeys_the_schema_has_no_problem() -> None:
    assert call_problems(call("place_order", **ORDER, price=None, tags=[]), TOOLS) == ()
    assert call_problems(call("place_order", kind="Sell", amount=2.0), TOOLS) == ()  # 2.0 is an integer in JSON Schema


def test_several_problems_are_all_told_structure_first() -> None:
    (text,) = rules(failed(call("place_order", kind=3, size=1), error=ErrorClass.ARGUMENT_SCHEMA))
    assert text == (
        "error: missing argument 'amount' (an integer); unexpected argument 'size'; "
        "argument 'kind' must be a string, got the number 3; argument 'kind' must be one of \"Buy\", \"Sell\", got 3. "
        "Arguments of place_order: kind (a string, required), amount (an integer, required), "
        "price (a number or null), tags (a list), buyer (an object)."
    )


def test_the_worlds_error_comes_first_and_word_for_word() -> None:
    text = "Error during execution: cd() missing 1 required positional argument: 'folder'"
    assert rules(failed(call("cd"), outcomes=[said(text)], error=ErrorClass.ARGUMENT_SCHEMA)) == (
        f"{text}\nhint: missing argument 'folder' (a string). Arguments of cd: folder (a string, required).",
    )
    world = '{"error": "cd: x: No such directory"}'  # the schema has nothing to add
    assert rules(failed(call("cd", folder="x"), outcomes=[said(world)], error=ErrorClass.NOT_FOUND)) == (world,)


def test_a_world_that_has_said_it_all_is_not_repeated() -> None:
    text = "error: missing argument 'folder' (a string). Arguments of cd: folder (a string, required)."
    assert rules(failed(call("cd"), outcomes=[said(text)], error=ErrorClass.ARGUMENT_SCHEMA)) == (text,)


def test_only_the_call_that_is_to_blame_is_blamed() -> None:
    good, bad = said("[]", OutcomeKind.SUCCESS), said("no such folder")
    made = (call("pwd"), call("cd", folder="x"))
    assert rules(failed(*made, outcomes=[good, bad], error=ErrorClass.NOT_FOUND)) == ("[]", "no such folder")


@pytest.mark.parametrize(
    ("outcome", "remark"),
    [
        (
            said('{"login_status": false, "tries": 0}', OutcomeKind.SOFT_FAILURE, ErrorClass.SOFT),
            "The call succeeded, but its answer means no: login_status is false.",
        ),
        (
            said("nobody", OutcomeKind.SOFT_FAILURE, ErrorClass.SOFT),
            "The call succeeded, but its answer means no.",
        ),
        (
            said("{}", OutcomeKind.SUCCESS),
            "The call succeeded and returned nothing, but what was asked for is not done.",
        ),
        (said("/home", OutcomeKind.SUCCESS), "The call succeeded, but what was asked for is not done."),
    ],
)
def test_a_silent_failure_shows_the_real_answer_and_only_what_it_shows(outcome: ToolOutcome, remark: str) -> None:
    assert rules(failed(call("pwd"), outcomes=[outcome])) == (f"{outcome.text}\n{remark}",)


@pytest.mark.parametrize("arguments", [{"folder": "a"}, '{"folder": "a"}'])
def test_a_call_that_was_made_before_is_told_so(arguments: Any) -> None:
    earlier = {"role": "assistant", "tool_calls": [{"function": {"name": "cd", "arguments": arguments}}]}
    again = failed(call("cd", folder="a"), outcomes=[said("", OutcomeKind.SUCCESS)], messages=[earlier])
    other = failed(call("cd", folder="b"), outcomes=[said("", OutcomeKind.SUCCESS)], messages=[earlier])
    assert "the same call was made before" in rules(again)[0]
    assert "the same call was made before" not in rules(other)[0]


def test_without_a_world_a_valid_but_wrong_call_is_told_what_the_tool_takes() -> None:
    assert rules(failed(call("cd", folder="a"))) == (
        "error: the call of cd is well formed, but what was asked for is not done. "
        "Arguments of cd: folder (a string, required).",
    )


@pytest.mark.parametrize("kind", list(ParseFailureKind))
def test_a_malformed_message_gets_one_text_with_what_and_where(kind: ParseFailureKind) -> None:
    broken = [ParseFailure(kind=kind, start=7, text="x", detail="expected ':' at column 3")] * 2
    (text,) = rules(failed(call("pwd"), call("pwd"), failures=broken, error=ErrorClass.FORMAT))
    assert text.startswith("error: malformed tool call at character 7: expected ':' at column 3")
    assert '{"name": ..., "arguments": {...}}' in text
    world = said("error: malformed tool call: x", error=ErrorClass.FORMAT)
    (text,) = rules(failed(failures=broken, outcomes=[world], error=ErrorClass.FORMAT))
    assert text.startswith("error: malformed tool call: x\nhint: ")


def test_a_cut_off_message_and_a_missing_call_are_told_so() -> None:
    (cut,) = rules(failed(error=ErrorClass.FORMAT))
    assert "cut off" in cut
    (after_call,) = rules(failed(call("pwd"), outcomes=[said("/", OutcomeKind.SUCCESS)], error=ErrorClass.FORMAT))
    assert after_call == f"/\n{cut}"
    assert rules(failed()) == ("error: no tool was called, and what was asked for is not done.",)


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_a_free_simulator_is_here_and_has_nothing_to_count(simulator: ErrorSimulator) -> None:
    assert not simulator.remote
    simulator.diagnose([failed(call("pwd"))])
    assert simulator.take_metrics() == {}


def test_static_is_the_authors_string_once_a_call() -> None:
    made = failed(call("pwd"), call("cd"))
    assert StaticSimulator().diagnose([made]) == [Feedback(texts=(STATIC_TEXT, STATIC_TEXT), origin="static")]
    assert STATIC_TEXT == "error: you made a mistake. please try again."


def test_passthrough_repeats_the_world_and_admits_when_there_is_none() -> None:
    with_world = failed(call("pwd"), call("cd"), outcomes=[said("a"), said("b")])
    without = failed(call("pwd"), call("cd"))
    assert PassthroughSimulator().diagnose([with_world, without]) == [
        Feedback(texts=("a", "b"), origin="passthrough"),
        Feedback(texts=(STATIC_TEXT, STATIC_TEXT), origin="static"),
    ]


def test_tools_that_are_no_json_schema_are_our_fault() -> None:
    odd = tool("cd", {"folder": {"type": "text"}})
    with pytest.raises(SimulatorError, match="text"):
        RulesSimulator().diagnose([failed(call("cd", folder="a"), tools=[odd])])


# --- no leak is possible


def test_a_failed_call_has_no_place_for_the_reference() -> None:
    fields = {field.name for field in dataclasses.fields(FailedCall)}
    assert fields == {"messages", "tools", "text", "parsed", "outcomes", "error"}
    with pytest.raises(TypeError):
        FailedCall(**dict.fromkeys(fields, ()), target=())  # type: ignore[call-arg, arg-type]


LITERAL = re.compile(r"'([^']*)'|\"((?:[^\"\\]|\\.)*)\"|(-?\d+(?:\.\d+)?)")
words = st.text(alphabet="abcdef_", min_size=1, max_size=8)
values = words | st.integers(-99, 99) | st.booleans() | st.none() | st.lists(words, max_size=2)
made_calls = st.builds(
    ToolCall,
    name=st.sampled_from(["cd", "pwd", "place_order"]) | words,
    arguments=st.dictionaries(st.sampled_from(["folder", "kind", "amount", "tags"]) | words, values, max_size=3),
)
outcomes = st.builds(
    said,
    words,
    st.sampled_from([OutcomeKind.SUCCESS, OutcomeKind.ERROR, OutcomeKind.SOFT_FAILURE, OutcomeKind.TIMEOUT]),
)


@given(st.lists(made_calls, max_size=3), st.data())
def test_every_literal_of_the_feedback_comes_from_the_schema_the_call_or_the_world(
    made: list[ToolCall], data: st.DataObject
) -> None:
    answers = data.draw(st.sampled_from([[], [data.draw(outcomes) for _ in made]]))
    one = failed(*made, outcomes=answers, error=data.draw(st.sampled_from(list(ErrorClass))))
    texts = rules(one)
    assert len(texts) == max(1, len(made))
    seen = json.dumps([one.tools, [[c.name, c.arguments] for c in made], [a.text for a in answers]])
    for text in texts:
        for literal in LITERAL.finditer(text):
            found = next(group for group in literal.groups() if group is not None)
            assert found.split("[")[0].split(".")[0] in seen


@given(st.lists(made_calls, max_size=3))
def test_all_simulators_answer_every_call_once_and_always_alike(made: list[ToolCall]) -> None:
    batch = [failed(*made), failed(call("pwd"))]
    for simulator in SIMULATORS:
        feedback = simulator.diagnose(batch)
        assert [len(one.texts) for one in feedback] == [max(1, len(made)), 1]
        assert feedback == simulator.diagnose(batch)
        assert simulator.diagnose([]) == []
