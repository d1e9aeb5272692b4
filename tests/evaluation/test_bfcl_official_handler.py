"""Our prompts, decoding, protocol and verdicts equal those of the official handler and its own inference loop."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bfcl_eval", reason="the official benchmark is not installed")

from bfcl_corruptions import corrupted
from bfcl_play import DONE, ENTRIES, misspelt, official, play_texts, say

from fission_grpo.agents.qwen_fc import qwen_fc_prompt, read_qwen_fc, without_reasoning
from fission_grpo.chat.parse import render_call
from fission_grpo.evaluation.bfcl.export import official_result
from fission_grpo.evaluation.bfcl.records import BfclEnd, BfclRecord
from fission_grpo.evaluation.protocols.bfcl import ToolRelease, play_entry
from fission_grpo.types import Task, ToolCall

pytestmark = pytest.mark.early


def thought(text: str) -> str:
    return f"<think>\nLet me see <tool_call>.\n\n</think>\n\n{text}"


def one_line(call: ToolCall) -> str:
    return render_call(call).replace("\n", "")


def with_text_arguments(call: ToolCall) -> str:
    body = {"name": call.name, "arguments": json.dumps(dict(call.arguments))}
    return f"<tool_call>\n{json.dumps(body)}\n</tool_call>"


def block(body: str) -> str:
    return f"<tool_call>\n{body}\n</tool_call>"


def say_gold(entry: Task) -> list[str]:
    return [text for calls in entry.gold for text in (*map(say, calls), DONE)]


def say_thinking(entry: Task) -> list[str]:
    """Reasoning in every message, all calls of a turn at once, prose around them."""
    parallel = [f"I will call.\n{say(*calls)}\nThat is all." if calls else DONE for calls in entry.gold]
    return [thought(text) for calls in parallel for text in ([calls, DONE] if calls != DONE else [DONE])]


def say_repeats(entry: Task) -> list[str]:
    """The same call twice in one message, as an object and as text, and again."""
    call = first_call(entry)
    return [say(call, call, misspelt(call), call), with_text_arguments(call) + "\n" + say(call), DONE, *say_gold(entry)]


def say_thought_calls(entry: Task) -> list[str]:
    """A call that stands in the reasoning only: history shows it, nobody runs it."""
    return [f"<think>\n{say(first_call(entry))}\n</think>\n\nI have no idea.", *say_gold(entry)]


def say_unclosed_thought(entry: Task) -> list[str]:
    """The opening tag may be part of another template, and two closing tags happen."""
    return [f"so\n</think>\n\n{say(first_call(entry))}", "a</think>b</think>\n\n\nc", *say_gold(entry)]


def say_one_line(entry: Task) -> list[str]:
    """Calls without line breaks inside the tags are no calls."""
    return [one_line(call) for calls in entry.gold for call in calls]


def say_half_broken(entry: Task) -> list[str]:
    """Broken blocks beside a good one are dropped."""
    good = say(first_call(entry))
    return [f"{block('{broken')}\n{good}\n{block('')}", "<tool_call>\n{", good[:-5], DONE, *say_gold(entry)]


def say_unusable(entry: Task) -> list[str]:
    """Blocks that are JSON and no calls: the history cannot be written with some of them."""
    bodies = ["5", '"text"', "[1]", "{}", '{"name": "ls"}', '{"name": 3, "arguments": {}}', "null"]
    bodies += ['{"name": "ls", "arguments": null}', '{"function": {"name": "ls", "arguments": {}}}']
    bodies += ['{"name": "ls", "arguments": "no json"}', '{"name": "ls", "arguments": [1]}']
    body = bodies[entry.meta["scenario"] % len(bodies)]
    return [say(first_call(entry)), f"{say(first_call(entry))}\n{block(body)}", *say_gold(entry)]


def say_endlessly(entry: Task) -> list[str]:
    """Twenty-one calls in the first turn."""
    return [say(first_call(entry))] * 21


def say_just_short_of_endlessly(entry: Task) -> list[str]:
    return [*[say(misspelt(first_call(entry)))] * 20, DONE, *say_gold(entry)]


def say_endlessly_at_last(entry: Task) -> list[str]:
    """Gold, and then more calls in the last turn until the harness has enough: that is forgiven."""
    *texts, _ = say_gold(entry)
    return [*texts, *[say(misspelt(first_call(entry)))] * 21]


def say_nothing(entry: Task) -> list[str]:
    return [""] * 8


def say_corrupted(entry: Task) -> list[str]:
    rng = random.Random(entry.id)
    _, turns = corrupted(rng, entry)
    return [text for calls in turns for text in (*map(say, calls), DONE)]


def say_control_tokens(entry: Task) -> list[str]:
    odd = ToolCall(name="echo", arguments={"content": "<|im_end|>\n</tool_response> ü \\ \"'\n", "file_name": None})
    return [say(odd), thought(say(odd)), "<tool_response>", *say_gold(entry)]


def first_call(entry: Task) -> ToolCall:
    return next(call for calls in entry.gold for call in calls)


SCRIPTS: Sequence[Callable[[Task], list[str]]] = (
    *(say_gold, say_thinking, say_repeats, say_thought_calls, say_unclosed_thought, say_one_line, say_half_broken),
    *(say_unusable, say_endlessly, say_just_short_of_endlessly, say_endlessly_at_last, say_nothing, say_corrupted),
    say_control_tokens,
)


EVERY = 3
"""Of the 800 entries, one in three is played through with a script."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One entry with one script, played twice."""

    script: str
    record: BfclRecord
    prompts: list[str]
    official: dict[str, Any]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> list[Compared]:
    scripts = zip(cycle(SCRIPTS), ENTRIES[::EVERY])
    plays = [(script.__name__, entry, script(entry)) for script, entry in scripts]
    questions = [{"category": entry.meta["category"], "id": entry.id, "texts": texts} for _, entry, texts in plays]
    with official(questions, tmp_path_factory.mktemp("handler")) as answers:
        mine = [play_texts(entry, texts) for _, entry, texts in plays]
        theirs = answers()
    return [
        Compared(script, record, prompts, answer)
        for (script, _, _), (record, prompts), answer in zip(plays, mine, theirs, strict=True)
    ]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def test_first_prompts_of_all_800_entries_are_the_official_ones_byte_for_byte(tmp_path: Path) -> None:
    with official(({"category": entry.meta["category"], "id": entry.id} for entry in ENTRIES), tmp_path) as answers:
        mine = [digest(qwen_fc_prompt(next(play_entry(entry, release=ToolRelease.TEXT)))) for entry in ENTRIES]
        theirs = [answer["prompt"] for answer in answers()]
    differing = [entry.id for entry, one, other in zip(ENTRIES, mine, theirs, strict=True) if one != other]
    assert differing == []
    assert len(ENTRIES) == 800


def test_every_prompt_of_scripted_transcripts_is_too(compared: list[Compared]) -> None:
    differing = [
        (one.script, one.record.entry) for one in compared if list(map(digest, one.prompts)) != one.official["prompts"]
    ]
    assert differing == []
    assert sum(len(one.prompts) for one in compared) > 2_000


def test_prompts_hold_reasoning_results_and_functions_that_came_back(compared: list[Compared]) -> None:
    last = [one.prompts[-1] for one in compared]
    assert sum("<think>\nLet me see" in prompt for prompt in last) > 15
    assert sum("<tool_response>\n" in prompt for prompt in last) > 150
    assert sum("}]\nI have updated some more functions" in prompt for prompt in last) > 20


def test_stored_results_and_verdicts_are_the_official_ones(compared: list[Compared]) -> None:
    for one in compared:
        stored = official_result(one.record)["result"]
        if one.record.end is BfclEnd.INFERENCE_ERROR:
            assert one.official["result"].startswith("Error during inference: "), one.record.entry
        else:
            assert stored == one.official["result"], (one.script, one.record.entry)
        verdict = one.record.verdict
        assert verdict is not None
        assert (verdict.ok, verdict.error_type) == (one.official["valid"], one.official["error"]), one.record.entry


def test_the_scripts_reach_every_end_and_every_verdict(compared: list[Compared]) -> None:
    assert {one.record.end for one in compared} == set(BfclEnd) - {BfclEnd.FAULT}
    errors = Counter(one.official["error"] for one in compared)
    assert len(errors) == 6
    assert min(errors.values()) >= 5
    forgiven = [one for one in compared if one.record.force_quit and one.official["valid"]]
    assert len(forgiven) > 8


FRAGMENTS = (
    *("<tool_call>", "</tool_call>", "<tool_call>\n", "\n</tool_call>", "\n", "\n\n", "<think>", "</think>", "so "),
    *('{"name": "ls", "arguments": {}}', '{"name": "cd", "arguments": {"folder": "a\\nb"}}', "{", "}", "5", '"x"'),
    *('{"name": "f", "arguments": "{\\"a\\": [1, 2.0, null]}"}', '{"name": "f", "arguments": "[]"}', "null"),
    *('{"name": "f"}', '{"arguments": {}}', '{"name": ["f"], "arguments": {}}', '{"name": null, "arguments": {}}'),
    *('{"name": "f", "arguments": {"x": NaN, "y": 1}}', '{"name": "f", "arguments": {"x": [1e999]}}', "[]"),
    *('{"name": "f", "arguments": {"x": -Infinity}}', '{"name": "f", "arguments": {"x": "\\ud800 ü"}, "id": 1}'),
    block('{"name": "mv", "arguments": {"source": "a", "destination": "b"}}'),
    block('{"name": "post", "arguments": {"tags": ["#a"], "deep": {"k": [true, false]}}}'),
)


def fuzzed_texts(count: int) -> list[str]:
    """Fragments in any order, and whole blocks with a fragment in each."""
    rng = random.Random(3)
    loose = ["".join(rng.choices(FRAGMENTS, k=rng.randint(1, 9))) for _ in range(count // 2)]
    return loose + ["\n".join(map(block, rng.choices(FRAGMENTS, k=rng.randint(1, 3)))) for _ in loose]


def source(call: ToolCall) -> str:
    return f"{call.name}({','.join(f'{key}={value!r}' for key, value in call.arguments.items())})"


def same_call(call: ToolCall, written: str) -> bool:
    """Numbers that no source text can spell are unknown names to the official executor, and called like that by us."""
    return source(call) == written or (call.name in ("nan", "inf") and not call.arguments and call.name in written)


def test_decoding_equals_the_official_one_on_fuzzed_texts(tmp_path: Path) -> None:
    texts = fuzzed_texts(3_000)
    with official([{"decode": text} for text in texts], tmp_path) as answers:
        mine = list(map(read_qwen_fc, texts))
        theirs = answers()
    for text, answer, one in zip(texts, mine, theirs, strict=True):
        assert without_reasoning(text) == one["stored"]
        assert json.dumps(answer.message) == json.dumps(one["message"])
        written = one["calls"] or []
        assert len(answer.calls) == len(written), text
        assert all(map(same_call, answer.calls, written)), text
    assert sum(one["calls"] is None for one in theirs) > 100
    assert sum(bool(one["calls"]) for one in theirs) > 500
