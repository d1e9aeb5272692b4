"""The leak check against labels made by hand, and against what can be built so that it must not leak."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fission_grpo.simulator.base import FailedCall
from fission_grpo.simulator.leak import Known, LiteralKind, find_leaks
from fission_grpo.types import ErrorClass, OutcomeKind, ParsedMessage, ToolCall, ToolOutcome

LABELS = Path(__file__).parents[1] / "data" / "leak_labels.jsonl"


def failed(call: ToolCall, *, said: str = "do it", world: str | None = None, tools: Any = ()) -> FailedCall:
    outcomes = () if world is None else (ToolOutcome(kind=OutcomeKind.ERROR, text=world),)
    return FailedCall(
        messages=({"role": "user", "content": said},),
        tools=tuple(tools),
        text="",
        parsed=ParsedMessage(content="", calls=(call,), failures=()),
        outcomes=outcomes,
        error=ErrorClass.SILENT,
    )


def labelled() -> list[tuple[str, str | None, tuple[str, ...]]]:
    """Text, the argument that it gives away by its label, the arguments that the check finds."""
    rows = []
    for line in LABELS.read_text(encoding="utf-8").splitlines():
        scene = json.loads(line)
        one = FailedCall(
            messages=tuple(scene["messages"]),
            tools=tuple(scene["tools"]),
            text="",
            parsed=ParsedMessage(content="", calls=(ToolCall(**scene["call"]),), failures=()),
            outcomes=(ToolOutcome(kind=OutcomeKind.ERROR, text=scene["world"]),) if scene["world"] else (),
            error=ErrorClass.SILENT,
        )
        reference = [ToolCall(**call) for call in scene["reference"]]
        for feedback in scene["feedback"]:
            leaks = find_leaks(feedback["text"], reference, Known.of(one))
            rows.append((feedback["text"], feedback["leaks"], tuple(leak.argument for leak in leaks)))
    return rows


def test_the_check_agrees_with_the_labels() -> None:
    rows = labelled()
    hits = sum(label is not None and bool(found) for _, label, found in rows)
    misses = sum(label is not None and not found for _, label, found in rows)
    alarms = sum(label is None and bool(found) for _, label, found in rows)
    total = len(rows)
    agreed = (total - misses - alarms) / total
    labels, flags = (hits + misses) / total, (hits + alarms) / total
    by_chance = labels * flags + (1 - labels) * (1 - flags)
    assert total >= 100
    assert agreed >= 0.94
    assert (agreed - by_chance) / (1 - by_chance) >= 0.85  # Cohen's kappa
    assert alarms <= 1
    assert all(label in found for _, label, found in rows if label is not None and found), "the place is right, too"


CALL = ToolCall(name="cd", arguments={"folder": "docs"})


@pytest.mark.parametrize(
    ("reference", "text", "kind", "piece"),
    [
        ({"folder": "archive"}, "try archive", LiteralKind.STRING, "archive"),
        ({"amount": 37.0}, "amount must be 37", LiteralKind.NUMBER, "37"),
        ({"amount": 3}, "give three of them", LiteralKind.NUMBER, "three"),
        ({"tags": ["x", "#sail"]}, "a tag like #SAIL", LiteralKind.LIST, "SAIL"),
        ({"updates": {"state": "dormant"}}, "it is dormant", LiteralKind.OBJECT, "dormant"),
        ({"updates": {"severity": 1}}, "set severity", LiteralKind.KEY, "severity"),
        ({"name": "blue_whale.txt"}, "a file about a whale", LiteralKind.STRING, "whale"),
        ({"text": "call me at noon tomorrow"}, "say at noon", LiteralKind.STRING, "at noon"),
    ],
)
def test_a_leak_has_its_kind_and_its_place(reference: Any, text: str, kind: LiteralKind, piece: str) -> None:
    names = [{"function": {"name": "cd", "parameters": dict.fromkeys(reference)}}]
    (leak,) = find_leaks(text, [ToolCall(name="cd", arguments=reference)], Known.of(failed(CALL, tools=names)))
    assert (leak.kind, text[leak.start : leak.stop]) == (kind, piece)


@pytest.mark.parametrize(
    ("known", "text"),
    [
        ({"said": "go to the archive"}, "try archive"),
        ({"world": '{"error": "folders: archive"}'}, "try archive"),
        ({"tools": [{"function": {"name": "cd", "description": "docs or archive"}}]}, "try archive"),
        ({}, "cd() missing 2 required positional arguments"),
        ({}, "malformed at character 2"),
        ({}, "the call failed"),
    ],
)
def test_what_can_be_derived_and_what_is_only_counted_is_no_leak(known: Any, text: str) -> None:
    reference = [ToolCall(name="cd", arguments={"folder": "archive", "depth": 2, "force": True, "mode": None})]
    assert find_leaks(text, reference, Known.of(failed(CALL, **known))) == ()


words = st.text(alphabet="abcdefgh", min_size=1, max_size=8)
values = st.recursive(words | st.integers(0, 10**6) | st.booleans(), lambda inner: st.lists(inner, max_size=3))
calls = st.builds(ToolCall, name=words, arguments=st.dictionaries(words, values, max_size=3))


@settings(max_examples=30)
@given(calls, st.text(max_size=60))
def test_nothing_leaks_of_a_reference_that_was_called(call: ToolCall, text: str) -> None:
    assert find_leaks(text, [call], Known.of(failed(call))) == ()


@settings(max_examples=30)
@given(calls, calls, st.text(max_size=60))
def test_a_leak_is_where_it_says(call: ToolCall, reference: ToolCall, text: str) -> None:
    told = f"{text} {json.dumps(reference.arguments)}"
    for leak in find_leaks(told, [reference], Known.of(failed(call))):
        assert 0 <= leak.start < leak.stop <= len(told)


@given(st.integers(1000, 10**9))
def test_a_number_that_is_news_never_passes(number: int) -> None:
    reference = [ToolCall(name="cd", arguments={"id": number})]
    assert find_leaks(f"the id must be {number}", reference, Known.of(failed(CALL)))
