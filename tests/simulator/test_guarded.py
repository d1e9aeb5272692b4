"""A writer that fails or leaks is replaced, and counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from simulator_cases import ERROR, EXPLICIT, RIGHT, SILENT, TOOL, WRONG, Scribe, case, says

from fission_grpo.errors import PolicyError
from fission_grpo.simulator.base import Cost, FailedCall, Fallback, Leakage, case_of, diagnose
from fission_grpo.simulator.guarded import LeakGuardedSimulator
from fission_grpo.simulator.prompts import Candidate, NoCandidate, Prompt, PromptStyle, cleaned, prompt_messages
from fission_grpo.simulator.rules import RulesSimulator
from fission_grpo.simulator.static import STATIC_TEXT
from fission_grpo.types import ErrorClass, OutcomeKind, ParseFailure, ParseFailureKind, Task
from fission_grpo.types import ToolOutcome as Outcome


def test_a_clean_candidate_is_the_feedback() -> None:
    guarded = LeakGuardedSimulator(says("cd: no folder of this name"))
    (feedback,) = diagnose(guarded, [EXPLICIT])
    assert feedback.texts == ("cd: no folder of this name",)
    assert (feedback.origin, feedback.leakage, feedback.fallback) == ("scribe", Leakage.CLEAN, None)
    assert feedback.cost == Cost(tokens=3, seconds=0.5)


def test_the_answer_to_a_call_that_succeeded_stays_in_front() -> None:
    (feedback,) = LeakGuardedSimulator(says("The call succeeded, but nothing moved.")).diagnose_cases([SILENT])
    assert feedback.texts == ("None\nThe call succeeded, but nothing moved.",)


def test_a_leaking_candidate_is_replaced_by_the_rules_and_counted() -> None:
    guarded = LeakGuardedSimulator(says("use the folder 'archive'"))
    (feedback,) = guarded.diagnose_cases([EXPLICIT])
    assert feedback.texts == RulesSimulator().diagnose([EXPLICIT.failed])[0].texts
    assert (feedback.origin, feedback.leakage, feedback.fallback) == ("rules", Leakage.LEAKED, Fallback.LEAK)
    assert feedback.cost.tokens == 3, "what it cost was spent all the same"
    count = guarded.take_count()
    assert (count.cases, count.written, dict(count.fallbacks), dict(count.leaks)) == (
        1,
        0,
        {"leak": 1},
        {"string": 1},
    )
    assert guarded.count.cases == 0


@pytest.mark.parametrize("reason", list(Fallback))
def test_whatever_is_not_written_is_written_by_the_rules(reason: Fallback) -> None:
    guarded = LeakGuardedSimulator(Scribe(lambda prompt: NoCandidate(reason=reason)))
    (feedback,) = guarded.diagnose_cases([EXPLICIT])
    assert (feedback.origin, feedback.fallback) == ("rules", reason)
    assert guarded.count.metrics()[f"simulator/fallback/{reason}"] == 1


def test_a_writer_that_breaks_stops_nobody_and_static_is_below_the_rules() -> None:
    def broken(prompt: Prompt) -> Candidate:
        raise PolicyError("out of memory")

    odd = {"type": "function", "function": {"name": "cd", "parameters": {"properties": {"folder": {"type": "text"}}}}}
    no_rules = case(WRONG, error=ErrorClass.SILENT, tools=[odd])
    first, second = LeakGuardedSimulator(Scribe(broken)).diagnose_cases([EXPLICIT, no_rules])
    assert (first.origin, first.fallback) == ("rules", Fallback.UNANSWERED)
    assert (second.origin, second.texts) == ("static", (STATIC_TEXT,))


def test_only_calls_to_blame_are_asked_about_and_all_in_one_batch() -> None:
    good = Outcome(kind=OutcomeKind.SUCCESS, text="fine")
    two = case(RIGHT, WRONG, outcomes=[good, ERROR], error=ErrorClass.NOT_FOUND)
    broken = ParseFailure(kind=ParseFailureKind.JSON, start=0, text="x", detail="expected JSON")
    malformed = case(failures=[broken], error=ErrorClass.FORMAT)
    scribe = says("no such folder")
    feedback = LeakGuardedSimulator(scribe).diagnose_cases([two, malformed, SILENT])
    assert feedback[0].texts == ("fine", "no such folder")
    assert feedback[1].origin == "rules"
    assert feedback[1].fallback is None
    assert [(one.case, one.place) for one in scribe.asked] == [(two, 1), (SILENT, 0)]


def test_without_a_reference_nothing_is_claimed_about_leaks() -> None:
    (feedback,) = LeakGuardedSimulator(says("try archive")).diagnose([EXPLICIT.failed])
    assert feedback.leakage is Leakage.BLIND


class Watcher(RulesSimulator):
    """Rules that would notice a reference."""

    def diagnose(self, failed: Sequence[FailedCall]) -> Any:
        assert all(type(one) is FailedCall for one in failed)
        assert "archive" not in repr(failed)
        return super().diagnose(failed)


def test_the_reference_never_reaches_the_rules() -> None:
    assert [one.leakage for one in diagnose(Watcher(), [EXPLICIT, SILENT])] == [Leakage.BLIND] * 2


@pytest.mark.parametrize("style", [PromptStyle.COMPACT, PromptStyle.INSTRUCTED])
def test_a_prompt_shows_everything_but_the_worlds_error_text(style: PromptStyle) -> None:
    explicit, silent = (prompt_messages(Prompt(case=one, place=0), style) for one in (EXPLICIT, SILENT))
    assert all(word in repr(explicit) for word in ("go there", "archive", "'x'" if style == "compact" else '"x"'))
    assert "No such directory" not in repr(explicit)
    assert "None" in str([message.get("content") for message in silent.messages])


def test_findings_show_neither_the_error_text_nor_the_right_value() -> None:
    shown = prompt_messages(Prompt(case=EXPLICIT, place=0), PromptStyle.FINDINGS)
    (message,) = shown.messages
    assert all(word in message["content"] for word in ("'cd'", "'folder'", '"x"'))
    assert not any(word in message["content"] for word in ("archive", "No such directory", "go there"))


def test_what_a_model_thought_is_no_message() -> None:
    assert cleaned("<think>archive!</think>\n`error: no folder`\n\nBye") == "error: no folder"


def test_the_reference_is_what_was_due() -> None:
    task = Task(id="t", messages=({"role": "user", "content": "go"},), tools=(TOOL,), target=(WRONG,))
    assert case_of(task, EXPLICIT.failed).reference == (WRONG,)
    made = {"role": "assistant", "tool_calls": [{"function": {"name": "cd", "arguments": {"folder": "archive"}}}]}
    failed = FailedCall(
        messages=({"role": "user", "content": "go"}, made, {"role": "tool", "content": "None"}),
        tools=(TOOL,),
        text="",
        parsed=EXPLICIT.failed.parsed,
        outcomes=(),
        error=ErrorClass.SILENT,
    )
    episode = Task(id="t", messages=task.messages, tools=(TOOL,), gold=((RIGHT, WRONG),))
    assert case_of(episode, failed).reference == (WRONG,)
