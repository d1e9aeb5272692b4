import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fission_grpo.chat.parse import CLOSE, OPEN, assistant_message, parse_message, render_call, tool_message
from fission_grpo.types import ParseFailureKind, ToolCall

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
CALLS = st.builds(ToolCall, name=st.text(min_size=1), arguments=st.dictionaries(st.text(), JSON_VALUES, max_size=4))
TAGS = [OPEN, CLOSE, "<think>", "</think>", '{"name": "f", "arguments": {}}', '{"name": "f"', "\n", "}"]
TAG_SOUP = st.lists(st.sampled_from(TAGS) | st.text(max_size=5), max_size=12).map("".join)
GOOD = '{"name": "f", "arguments": {"x": 1}}'
F = ToolCall(name="f", arguments={"x": 1})
G = ToolCall(name="g", arguments={})


def block(body: str) -> str:
    return f"{OPEN}\n{body}\n{CLOSE}"


def nested(depth: int) -> str:
    """A call, nested that deep: the call itself and its arguments are two levels of it."""
    return '{"name": "f", "arguments": {"x": ' + "[" * (depth - 2) + "]" * (depth - 2) + "}}"


def test_a_call_that_is_nested_too_deeply_for_a_record_is_malformed() -> None:
    (call,) = parse_message(block(nested(128))).calls
    assert json.loads(json.dumps(call.arguments)) == call.arguments
    for depth in (129, 980, 100_000):
        parsed = parse_message(block(nested(depth)))
        assert parsed.calls == ()
        (failure,) = parsed.failures
        assert (failure.kind, failure.detail) == (ParseFailureKind.JSON, "expected JSON, got JSON nested too deeply")
    assert parse_message(nested(980)).failures == ()  # prose, as any text without tags that is no call


class Counted(str):
    """A text that must not be gone through as a whole for each of its blocks."""

    __slots__ = ()

    def count(self, *_: object) -> int:  # type: ignore[override]
        raise AssertionError("the lines are counted from the beginning of the text")

    rfind = count  # type: ignore[assignment]


def test_a_malformed_block_costs_no_walk_through_the_text_before_it() -> None:
    """`json` counts lines for each error that it raises: 16,000 open tags once took half a minute."""
    text = Counted(f"{OPEN}{{" * 3)
    assert [failure.start for failure in parse_message(text).failures] == [0, 12, 24]


@given(st.lists(CALLS, max_size=3))
def test_rendered_calls_are_read_back_whatever_their_arguments_hold(calls: list[ToolCall]) -> None:
    parsed = parse_message("\n".join(map(render_call, calls)))
    assert parsed.calls == tuple(calls)
    assert parsed.failures == ()
    assert parsed.content == ""


@pytest.mark.parametrize("tag", [OPEN, CLOSE, "<think>", "</think>", "<|im_end|>"])
def test_tags_inside_arguments_are_text(tag: str) -> None:
    call = ToolCall(name="post", arguments={"text": f"say {tag} twice {tag}"})
    assert parse_message(f"I post it. {render_call(call)}").calls == (call,)


@given(TAG_SOUP | st.text())
def test_any_text_is_read_and_failures_point_at_themselves(text: str) -> None:
    parsed = parse_message(text)
    for failure in parsed.failures:
        assert failure.text
        assert failure.detail
        assert text.startswith(failure.text, failure.start)
    starts = [failure.start for failure in parsed.failures]
    assert starts == sorted(set(starts))
    for call in parsed.calls:
        assert parse_message(render_call(call)).calls == (call,)


@given(st.text(), st.lists(st.sampled_from([OPEN, CLOSE]), min_size=1))
def test_tags_without_json_are_always_a_failure(text: str, tags: list[str]) -> None:
    assert parse_message("x".join([*tags, text.replace("think>", "")])).failures


@pytest.mark.parametrize(
    ("body", "kind", "detail"),
    [
        ("{'name': 'f'}", ParseFailureKind.JSON, "character"),
        (GOOD + "}", ParseFailureKind.JSON, "after the JSON"),
        ("", ParseFailureKind.JSON, "character"),
        ('{"name": "f", "arguments": {"x": NaN}}', ParseFailureKind.JSON, "NaN"),
        ('{"name": "f", "arguments": {"x": 1e999}}', ParseFailureKind.JSON, "1e999"),
        ('{"name": "f", "arguments": {"x": %s}}' % ("9" * 5000), ParseFailureKind.JSON, "digits"),
        ('{"name": "f", "arguments": {"x": "\\ud800"}}', ParseFailureKind.JSON, "surrogate"),
        ("[" * 100_000, ParseFailureKind.JSON, "nested"),
        ("[1]", ParseFailureKind.NOT_A_CALL, "a list"),
        ('{"arguments": {}}', ParseFailureKind.NOT_A_CALL, "got none"),
        ('{"name": 7, "arguments": {}}', ParseFailureKind.NOT_A_CALL, "a number"),
        ('{"name": "", "arguments": {}}', ParseFailureKind.NOT_A_CALL, "an empty one"),
        ('{"name": "f"}', ParseFailureKind.ARGUMENTS, "got none"),
        ('{"name": "f", "arguments": null}', ParseFailureKind.ARGUMENTS, "got null"),
        ('{"name": "f", "arguments": "{}"}', ParseFailureKind.ARGUMENTS, "got a string"),
        ('{"name": "f", "arguments": ["</tool_call>"]}', ParseFailureKind.ARGUMENTS, "got a list"),
    ],
)
def test_each_malformed_block_has_its_kind_and_place(body: str, kind: ParseFailureKind, detail: str) -> None:
    text = f"Well. {block(body)} Done. {block(GOOD)}"
    parsed = parse_message(text)
    (failure,) = parsed.failures
    assert failure.kind is kind
    assert detail in failure.detail
    assert (failure.start, failure.text) == (6, block(body))
    assert parsed.content == "Well.  Done."
    assert parsed.calls == (F,)


@pytest.mark.parametrize(
    ("text", "start", "offending"),
    [
        (f"so {OPEN}{GOOD}", 3, f"{OPEN}{GOOD}"),
        (f'{OPEN}{{"name": "f", "argu', 0, f'{OPEN}{{"name": "f", "argu'),
        (f"{OPEN}{GOOD}\n{block(GOOD)}", 0, f"{OPEN}{GOOD}\n"),
        (f"{GOOD}\n{CLOSE}", len(GOOD) + 1, CLOSE),
    ],
)
def test_tags_that_do_not_pair_up(text: str, start: int, offending: str) -> None:
    (failure,) = parse_message(text).failures
    assert failure.kind is ParseFailureKind.UNCLOSED
    assert (failure.start, failure.text) == (start, offending)


def test_newlines_between_tag_and_json_are_optional() -> None:
    assert parse_message(f"{OPEN}{GOOD}{CLOSE}").calls == (F,)
    assert parse_message(f"{OPEN} \n\t{GOOD}\n\n {CLOSE}").calls == (F,)


def test_a_bare_call_is_a_slip_and_other_json_an_answer() -> None:
    (failure,) = parse_message(f"<think>hm</think>\n{GOOD}").failures
    assert (failure.kind, failure.text) == (ParseFailureKind.NOT_A_CALL, GOOD)
    answer = parse_message('{"total": 3}')
    assert (answer.content, answer.failures) == ('{"total": 3}', ())


@pytest.mark.parametrize(
    "thought",
    [
        f"<think>maybe {block(GOOD)} or {OPEN} broken</think>",
        f"maybe {block(GOOD)} or not</think>",
        f"the {OPEN} tag, hm</think>",
        "<think></think>",
    ],
)
def test_calls_drafted_in_thought_are_not_calls(thought: str) -> None:
    parsed = parse_message(f"{thought}\n{render_call(G)}")
    assert parsed.calls == (G,)
    assert parsed.failures == ()
    assert parsed.content == thought


def test_an_unfinished_thought_calls_nothing() -> None:
    parsed = parse_message(f"<think>I could {block(GOOD)}")
    assert (parsed.calls, parsed.failures) == ((), ())


def test_messages_carry_content_and_calls() -> None:
    parsed = parse_message(f"I look.\n{block(GOOD)}")
    message = assistant_message(parsed)
    assert message["content"] == "I look."
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": 1}}
    assert tool_message("no", 0)["tool_call_id"] == message["tool_calls"][0]["id"]
    assert assistant_message([F]) == {**message, "content": ""}
    assert assistant_message((), "Done.") == {"role": "assistant", "content": "Done."}
    assert json.loads(json.dumps(message)) == message


def test_a_malformed_message_keeps_its_broken_block_as_content() -> None:
    text = f"I look. {block('{')}"
    assert assistant_message(parse_message(text), text) == {"role": "assistant", "content": text}


def test_numbers_that_json_lacks_are_not_rendered() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        render_call(ToolCall(name="f", arguments={"x": float("nan")}))
