"""The endpoint simulator against servers that are not kind; training goes on whatever they do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scripted_server import Scripted, answer, completion, endless, good, hang, hang_up, html, reset, serving, trickle
from simulator_cases import EXPLICIT, SILENT, WRONG, case

from fission_grpo.client.endpoint import EndpointSettings
from fission_grpo.errors import ConfigError
from fission_grpo.simulator.answer_cache import CacheMode
from fission_grpo.simulator.base import Case, Fallback
from fission_grpo.simulator.endpoint import EndpointSimulatorSettings, EndpointWriter, endpoint_simulator
from fission_grpo.simulator.guarded import LeakGuardedSimulator
from fission_grpo.types import ErrorClass, ToolCall

KEY = "sk-very-secret-0123456789"
TEXT = "cd: no folder of this name"


def writer(server: Scripted | str, *, concurrency: int = 4, **changes: Any) -> EndpointWriter:
    url = server if isinstance(server, str) else server.url
    own = EndpointSettings(url=url, model="the-model", attempts=2, backoff_seconds=0.01, concurrency=concurrency)
    return EndpointWriter(EndpointSimulatorSettings(server=own, **{"deadline_seconds": 30.0, **changes}))


def cases(count: int) -> list[Case]:
    calls = [ToolCall(name="cd", arguments={"folder": f"x{number}"}) for number in range(count)]
    return [case(call, error=ErrorClass.SILENT) for call in calls]


def test_a_server_writes_the_feedback() -> None:
    with serving(good(TEXT)) as server:
        guarded = LeakGuardedSimulator(writer(server))
        first, second = guarded.diagnose_cases([EXPLICIT, SILENT])
    assert (first.texts, first.origin, first.fallback) == ((TEXT,), "endpoint", None)
    assert second.texts == (f"None\n{TEXT}",)
    assert (first.cost.prompt_tokens, first.cost.tokens) == (11, 3)
    assert guarded.count.written == 2


NASTY = (
    reset,
    hang_up,
    html,
    endless,
    answer(200, b"{"),
    answer(200, {"choices": []}),
    answer(200, completion("x" * 10_000_000)),
    answer(429, {"error": "slow down"}, Retry_After="3600"),
    answer(500, b"oops"),
    answer(400, {"error": "what?"}),
    answer(401, {"error": "no key"}),
    answer(404, {"error": "no model"}),
)


@pytest.mark.parametrize("behaviour", NASTY)
def test_whatever_a_server_does_the_rules_take_over(behaviour: Any) -> None:
    with serving(behaviour) as server:
        feedback = LeakGuardedSimulator(writer(server, deadline_seconds=2.0)).diagnose_cases(cases(2))
    assert [(one.origin, one.fallback) for one in feedback] == [("rules", Fallback.UNANSWERED)] * 2


@pytest.mark.parametrize("behaviour", [hang, trickle])
def test_a_server_that_hangs_costs_no_more_than_the_deadline_and_is_then_left_alone(behaviour: Any) -> None:
    with serving(behaviour) as server:
        guarded = LeakGuardedSimulator(writer(server, deadline_seconds=0.6, concurrency=2))
        feedback = guarded.diagnose_cases(cases(6))  # the server itself would go on for ever
        reasons = [one.fallback for one in feedback]
        assert reasons == [Fallback.UNANSWERED] * 2 + [Fallback.CIRCUIT_OPEN] * 4
        asked = len(server.received)
        guarded.diagnose_cases(cases(1))
        assert len(server.received) == asked, "one batch is left out"


def test_a_server_that_comes_back_is_asked_again() -> None:
    with serving(html, html, good(TEXT)) as server:
        guarded = LeakGuardedSimulator(writer(server))
        reasons = [guarded.diagnose_cases(cases(1))[0].fallback for _ in range(3)]
    assert reasons == [Fallback.UNANSWERED, Fallback.CIRCUIT_OPEN, None]


@pytest.mark.parametrize("said", ["", "   ", "<think>hm</think>"])
def test_empty_words_are_no_feedback(said: str) -> None:
    with serving(good(said)) as server:
        (feedback,) = LeakGuardedSimulator(writer(server)).diagnose_cases([EXPLICIT])
    assert feedback.fallback is Fallback.EMPTY


def test_calls_and_tokens_have_a_cap() -> None:
    with serving(good(TEXT)) as server:
        few = LeakGuardedSimulator(writer(server, most_calls=3, concurrency=2))
        reasons = [one.fallback for one in few.diagnose_cases(cases(5))]
        assert reasons == [None] * 3 + [Fallback.BUDGET] * 2
        assert len(server.received) == 3
        poor = LeakGuardedSimulator(writer(server, most_tokens=50))
        assert poor.diagnose_cases(cases(1))[0].fallback is Fallback.BUDGET
        assert len(server.received) == 3


def test_answers_are_recorded_and_replayed_without_a_server_or_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    cache = tmp_path / "answers"
    with serving(good(TEXT)) as server:
        first = writer(server, cache=str(cache))
        candidates = LeakGuardedSimulator(first).diagnose_cases(cases(3))
        again = writer(server, cache=str(cache))
        LeakGuardedSimulator(again).diagnose_cases(cases(3))
        assert len(server.received) == 3, "nothing is paid for twice"
        assert (again.count.calls, again.count.replayed) == (0, 3)
        address = server.url
    assert server.received[0].headers["Authorization"] == f"Bearer {KEY}"
    monkeypatch.delenv("OPENAI_API_KEY")
    replay = writer("http://127.0.0.1:9/v1", cache=str(cache), mode=CacheMode.REPLAY)
    feedback = LeakGuardedSimulator(replay).diagnose_cases([*cases(3), EXPLICIT])
    assert [one.texts for one in feedback[:3]] == [one.texts for one in candidates]
    assert feedback[3].fallback is Fallback.NOT_RECORDED
    files = [file.read_text(encoding="utf-8") for file in cache.rglob("*") if file.is_file()]
    assert len(files) == 3
    assert not any(KEY in text or address in text for text in files)


def test_a_damaged_answer_is_asked_for_again(tmp_path: Path) -> None:
    with serving(good(TEXT)) as server:
        LeakGuardedSimulator(writer(server, cache=str(tmp_path))).diagnose_cases(cases(1))
        (file,) = tmp_path.rglob("*.json")
        file.write_text("{", encoding="utf-8")
        LeakGuardedSimulator(writer(server, cache=str(tmp_path))).diagnose_cases(cases(1))
        assert len(server.received) == 2
    assert json.loads(file.read_text(encoding="utf-8"))["content"] == TEXT


def test_faults_are_not_recorded(tmp_path: Path) -> None:
    with serving(html) as server:
        LeakGuardedSimulator(writer(server, cache=str(tmp_path))).diagnose_cases(cases(1))
    assert not list(tmp_path.rglob("*.json"))


def test_what_no_server_will_ever_do_is_said_before_anything_is_spent() -> None:
    own = EndpointSettings(url="http://127.0.0.1:9", model="m", attempts=1)
    with pytest.raises(ConfigError, match="does not answer"):
        endpoint_simulator(EndpointSimulatorSettings(server=own, deadline_seconds=2.0))
    with pytest.raises(ValueError, match="set cache"):
        EndpointSimulatorSettings(server=own, mode=CacheMode.REPLAY)


def test_a_server_that_tells_is_checked_like_everybody() -> None:
    with serving(good("the folder must be archive")) as server:
        (feedback,) = LeakGuardedSimulator(writer(server)).diagnose_cases([case(WRONG, error=ErrorClass.SILENT)])
    assert (feedback.origin, feedback.fallback) == ("rules", Fallback.LEAK)
