"""Schemas from anybody: nothing is fetched, no pattern takes for ever, and what cannot be used is said."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fission_grpo.environments.schema import call_problems
from fission_grpo.environments.validation import (
    MOST_REFERENCES,
    UncheckableError,
    breaches,
    schema_problems,
    validator_of,
)
from fission_grpo.errors import ConfigError
from fission_grpo.types import ErrorClass, ToolCall


def of_argument(schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": schema}}


UNUSABLE = [
    ([], "expected an object, got []"),
    ({"type": "x"}, "type: 'x' is not valid"),
    ({"required": 5}, "required: 5 is not of type 'array'"),
    ({"properties": 5}, "properties: 5 is not of type 'object'"),
    ({"$ref": 5}, "$ref: 5 is not of type 'string'"),
    (of_argument({"enum": 5}), "properties.a.enum: 5 is not of type 'array'"),
    (of_argument({"minimum": "x"}), "properties.a.minimum: 'x' is not of type 'number'"),
    (of_argument({"pattern": "("}), 'properties.a.pattern: "(" is none that RE2 can match (missing ): ()'),
    (of_argument({"pattern": "(?=x)"}), 'properties.a.pattern: "(?=x)" is none that RE2 can match'),
    (of_argument({"pattern": r"(.)\1"}), "is none that RE2 can match"),
    (of_argument({"pattern": "(a{1000}){1000}"}), "is none that RE2 can match"),
    (of_argument({"pattern": "a" * 1001}), "properties.a.pattern: has 1001 characters, expected at most 1000"),
    ({"patternProperties": {"^a(": {}}}, 'pattern: "^a(" is none that RE2 can match'),
    ({"patternProperties": {"^a": {}}, "unevaluatedProperties": False}, "cannot stand beside patternProperties"),
    ({"$ref": "#"}, "$ref: refers to itself without end"),
    (of_argument({"anyOf": [{"not": {"$ref": "#/properties/a"}}]}), "refers to itself without end"),
    (of_argument({"$ref": "https://example.org/schema"}), "is no schema in this one, and nothing is fetched"),
    ({"$id": "https://example.org/", **of_argument({"$ref": "other"})}, "nothing is fetched"),
    (of_argument({"$ref": "file:///etc/passwd"}), "nothing is fetched"),
    (of_argument({"$ref": "#/nowhere"}), "is no schema in this one"),
    ({**of_argument({"$ref": "#/default"}), "default": {"type": "x"}}, "is no schema in this one"),
    ({"$defs": {"n": {"$dynamicRef": "#nowhere"}}}, "is no schema in this one"),
]


@pytest.mark.parametrize(("schema", "expected"), UNUSABLE)
def test_what_cannot_be_used_is_said(schema: Any, expected: str) -> None:
    (problem,) = schema_problems(schema)
    assert expected in problem
    if isinstance(schema, dict):
        with pytest.raises(ConfigError, match="a schema that cannot be used"):
            validator_of(schema)


TREE = {"$defs": {"tree": {"type": "object", "properties": {"next": {"$ref": "#/$defs/tree"}}}}}
USABLE = [
    {},
    {"default": {"pattern": "(?=x)", "anyOf": 5}},
    of_argument({"type": ["string", "null"], "pattern": "^(x+x+)+y$"}),
    {"properties": {"pattern": {"type": "string"}, "$ref": {"type": "string"}, "anyOf": {"type": "integer"}}},
    {**TREE, **of_argument({"$ref": "#/$defs/tree"})},
    {"properties": {"a": {"$anchor": "here"}, "b": {"$ref": "#here"}, "c": {"$ref": "#/properties/a"}}},
    {"$id": "https://example.org/", **of_argument({"$ref": "#/$defs/any"}), "$defs": {"any": True}},
]


@pytest.mark.parametrize("schema", USABLE)
def test_what_can_be_used_is_let_pass(schema: dict[str, Any]) -> None:
    assert schema_problems(schema) == []


def test_no_schema_reaches_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **how: asked.append(where))
    for reference in ("http://example.org/a", "https://example.org/a#/b", "//example.org/a", "ftp://example.org/a"):
        schema = of_argument({"$ref": reference})
        assert schema_problems(schema)
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        with pytest.raises(ConfigError, match="nothing is fetched"):
            call_problems(ToolCall(name="f", arguments={"a": 1}), [tool])
    assert asked == []


@given(st.text(alphabet="abx\n", max_size=8))
def test_patterns_mean_what_they_mean_in_json_schema(text: str) -> None:
    """Searched, not matched as a whole; `$` is the very end."""
    pattern = validator_of(of_argument({"pattern": "^a*b$"}))
    assert (breaches(pattern, {"a": text}) == []) == (text.endswith("b") and set(text[:-1]) <= {"a"})
    within = validator_of(of_argument({"pattern": "ab"}))
    assert (breaches(within, {"a": text}) == []) == ("ab" in text)


def test_a_catastrophic_pattern_is_matched_all_the_same() -> None:
    """Python's own engine would need 2^5000 steps."""
    validator = validator_of(of_argument({"pattern": "^(x+x+)+y$"}))
    assert breaches(validator, {"a": "x" * 5000 + "y"}) == []
    (breach,) = breaches(validator, {"a": "x" * 5000})
    assert breach.validator == "pattern"


def test_half_a_surrogate_pair_is_matched_as_some_character() -> None:
    validator = validator_of(of_argument({"pattern": "^.$"}))
    assert breaches(validator, {"a": "\ud83d"}) == []


def test_names_are_matched_by_patterns_too() -> None:
    schema = {
        "properties": {"own": {}},
        "patternProperties": {"^x_": {"type": "integer"}},
        "additionalProperties": False,
    }
    validator = validator_of(schema)
    assert breaches(validator, {"own": "", "x_1": 1}) == []
    (mistyped,) = breaches(validator, {"x_1": "one"})
    assert (mistyped.validator, list(mistyped.absolute_path)) == ("type", ["x_1"])
    (unexpected,) = breaches(validator, {"y": 1})
    assert (unexpected.validator, unexpected.message) == (
        "additionalProperties",
        "Additional properties are not allowed ('y' was unexpected)",
    )


def endless(levels: int) -> dict[str, Any]:
    """A schema in which each of some definitions asks for the next one twice."""
    last = {f"d{levels}": {"type": "integer"}}
    twice = {f"d{level}": {"allOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(levels)}
    return {**of_argument({"$ref": "#/$defs/d0"}), "$defs": {**twice, **last}}


def test_what_would_take_for_ever_cannot_be_checked() -> None:
    assert breaches(validator_of(endless(4)), {"a": 1}) == []  # 1 + 2 + 4 + 8 + 16 references
    assert schema_problems(endless(60)) == []
    with pytest.raises(UncheckableError, match=f"more than {MOST_REFERENCES} references to follow"):
        breaches(validator_of(endless(60)), {"a": 1})


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (of_argument({"multipleOf": 0.5}), {"a": 10**400}),
        (endless(60), {"a": 1}),
    ],
)
def test_a_call_that_cannot_be_checked_has_one_problem(schema: dict[str, Any], value: dict[str, Any]) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    (problem,) = call_problems(ToolCall(name="f", arguments=value), [tool])
    assert problem.error is ErrorClass.ILLEGAL_VALUE
    assert problem.text.startswith("the arguments of f cannot be checked (")
