"""A client of OpenAI-compatible servers against servers that are not kind."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import (
    Behaviour,
    Handler,
    Scripted,
    answer,
    completion,
    endless,
    good,
    hang,
    hang_up,
    html,
    reset,
    serving,
    trickle,
    trickle_header,
)

from fission_grpo.client.chat import ChatClient, ChatFault
from fission_grpo.client.endpoint import EndpointSettings, Trouble
from fission_grpo.client.wire import ChatReply, ChatRequest, error_text, read_completion, read_model_names
from fission_grpo.errors import ConfigError
from fission_grpo.types import FinishReason

KEY = "sk-very-secret-0123456789"
ASKED = ChatRequest(messages=({"role": "user", "content": "hello"},), max_tokens=8, temperature=0.5, seed=7)
PATIENT: dict[str, Any] = {"total_seconds": 60.0, "silence_seconds": 60.0}
HASTY: dict[str, Any] = {"total_seconds": 0.5, "silence_seconds": 0.3}


def client(server: Scripted | str, **changes: Any) -> ChatClient:
    url = server if isinstance(server, str) else server.url
    fields = {"url": url, "model": "the-model", "attempts": 2, "backoff_seconds": 0.01, **PATIENT, **changes}
    return ChatClient(EndpointSettings(**fields))


def asked(text: str) -> ChatRequest:
    return ChatRequest(messages=({"role": "user", "content": text},), max_tokens=8, temperature=0.0, seed=0)


def fault(reply: ChatReply | ChatFault) -> ChatFault:
    assert isinstance(reply, ChatFault), reply
    return reply


def reply(said: ChatReply | ChatFault) -> ChatReply:
    assert isinstance(said, ChatReply), said
    return said


TOO_LARGE = answer(200, completion("x" * 10_000_000))
NASTY: tuple[tuple[Behaviour, Trouble], ...] = (
    (reset, Trouble.BROKEN),
    (hang_up, Trouble.BROKEN),
    (html, Trouble.GARBAGE),
    (answer(200, b"{"), Trouble.GARBAGE),
    (answer(200, b""), Trouble.GARBAGE),
    (answer(200, b"\xff\xfe\x00"), Trouble.GARBAGE),
    (answer(200, b"[" * 100_000), Trouble.GARBAGE),
    (answer(200, b'{"choices": [{"message": {"content": "\\ud800"}}]}'), Trouble.GARBAGE),
    (answer(200, []), Trouble.GARBAGE),
    (answer(200, {"choices": []}), Trouble.GARBAGE),
    (answer(200, {"choices": [{"message": {}}]}), Trouble.GARBAGE),
    (answer(200, {"choices": [{"message": {"content": 5}}]}), Trouble.GARBAGE),
    (answer(200, completion(None, tool_calls=[{"function": {}}])), Trouble.GARBAGE),
    (answer(200, {"error": {"message": "overloaded"}}), Trouble.GARBAGE),
    (answer(301, b"", Location="https://elsewhere/v1"), Trouble.ELSEWHERE),
    (answer(307, b"<html>moved</html>", Location="/login"), Trouble.ELSEWHERE),
    (answer(500, b"Internal Server Error"), Trouble.SERVER),
    (answer(502, b"<html>Bad Gateway</html>"), Trouble.SERVER),
    (answer(503, {"error": "loading model"}), Trouble.SERVER),
    (answer(429, {"error": {"message": "slow down", "code": "rate_limit"}}), Trouble.BUSY),
    (TOO_LARGE, Trouble.OVERSIZED),
    (endless, Trouble.OVERSIZED),
)


@pytest.mark.parametrize(("behaviour", "trouble"), NASTY)
def test_what_never_gets_better_is_a_fault_after_all_tries(behaviour: Behaviour, trouble: Trouble) -> None:
    with serving(behaviour) as server:
        failed = fault(client(server).ask([ASKED])[0])
        assert (failed.trouble, failed.attempts, len(server.received)) == (trouble, 2, 2)
        assert failed.detail
        assert len(failed.detail) < 500


@pytest.mark.parametrize(("behaviour", "trouble"), NASTY)
def test_what_gets_better_is_an_answer(behaviour: Behaviour, trouble: Trouble) -> None:
    with serving(behaviour, good("better")) as server:
        said = reply(client(server).ask([ASKED])[0])
        assert (said.content, said.attempts) == ("better", 2)


@pytest.mark.parametrize("behaviour", [hang, trickle, trickle_header])
def test_nothing_lasts_longer_than_it_may(behaviour: Behaviour) -> None:
    with serving(behaviour) as server:
        failed = fault(client(server, **HASTY).ask([ASKED])[0])
        assert (failed.trouble, failed.attempts) == (Trouble.TIMEOUT, 2)  # the server itself would go on for ever
        assert failed.seconds >= 2 * 0.3


def test_a_server_that_hangs_once_is_asked_again() -> None:
    with serving(hang, good()) as server:
        said = reply(client(server, silence_seconds=1.0, attempts=4).ask([ASKED])[0])
        assert said.content == "ok"
        assert said.attempts >= 2
        assert said.seconds >= 1.0


def test_a_server_that_sends_everybody_elsewhere_is_told_before_anything_is_spent() -> None:
    with serving(answer(308, b"", Location="http://127.0.0.1:9/v1")) as server:
        with pytest.raises(ConfigError, match=r"status 308; expected a chat completion.*check .* the URL"):
            client(server).probe(ASKED)
        assert {one.path for one in server.received} == {"/v1/chat/completions"}  # never followed


def test_nobody_listens() -> None:
    with socket.socket() as bound:  # bound and not listening: every connection is refused
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        failed = fault(client(url).ask([ASKED])[0])
        assert failed.trouble is Trouble.UNREACHABLE
        with pytest.raises(
            ConfigError, match=r"does not answer for model 'the-model'.*no connection.*start the server"
        ):
            client(url).probe(ASKED)


def test_a_request_that_cannot_be_served_does_not_hurt_the_others() -> None:
    def refuse_one(handler: Handler) -> None:
        text = handler.asked["messages"][0]["content"]
        (answer(400, {"error": {"message": "bad word"}}) if text == "bad" else good(text))(handler)

    with serving(refuse_one) as server:
        first, failed, last = client(server, concurrency=1).ask([asked("one"), asked("bad"), asked("three")])
        assert (reply(first).content, reply(last).content) == ("one", "three")
        assert fault(failed) == ChatFault(
            trouble=Trouble.REFUSED, detail="status 400, 'bad word'", attempts=1, seconds=fault(failed).seconds
        )
        assert len(server.received) == 3  # a refusal is not tried again


def test_what_is_refused_to_all_is_a_mistake_of_the_settings() -> None:
    with serving(answer(400, {"detail": "Server is pinned to 'a'; requested 'b'."})) as server:
        with pytest.raises(ConfigError, match="refuses every request: status 400, \"Server is pinned to 'a'"):
            client(server).ask([ASKED, ASKED])
        with pytest.raises(ConfigError, match="does not answer for model 'the-model': status 400"):
            client(server).probe(ASKED)


def test_a_server_that_has_answered_may_refuse_the_rest() -> None:
    with serving(good(), answer(422, {"detail": "no"})) as server:
        asking = client(server)
        asking.ask([ASKED])
        assert [fault(failed).trouble for failed in asking.ask([ASKED, ASKED])] == [Trouble.REFUSED] * 2


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"message": "too many", "code": "context_length_exceeded"}},
        {"message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens"},
        {"error": {"message": "the request exceeds the available context size", "type": "exceed_context_size_error"}},
    ],
)
def test_a_dialogue_that_does_not_fit_is_told_apart(error: Any) -> None:
    with serving(answer(400, error)) as server:
        assert [fault(failed).trouble for failed in client(server).ask([ASKED])] == [Trouble.TOO_LONG]


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (
            answer(404, {"error": {"message": "no such model"}}),
            "404, 'no such model'.*it offers 'the-model', 'another'",
        ),
        (answer(405, b""), "405; check the model's name and the URL"),
        (answer(402, b"pay"), "402, 'pay'; there is no credit left"),
        (answer(429, {"error": {"message": "m", "code": "insufficient_quota"}}), "there is no credit left"),
        (answer(401, {"error": {"message": "who?"}}), "401, 'who.'; put a key into the environment variable SOME_KEY"),
        (answer(403, b""), "403; put a key into the environment variable SOME_KEY"),
    ],
)
def test_what_every_request_will_meet_ends_it_at_once(behaviour: Behaviour, message: str) -> None:
    with serving(behaviour) as server:
        with pytest.raises(ConfigError, match=message):
            client(server, api_key_env="SOME_KEY").ask([ASKED])
        assert len(server.received) == 1


def test_the_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", f" {KEY}\n")

    def tell_tale(status: int) -> Behaviour:
        return lambda handler: answer(status, {"error": f"{handler.headers['Authorization']} is bad"})(handler)

    with serving(good(), tell_tale(500), tell_tale(500), tell_tale(401)) as server:
        asking = client(server, api_key_env="SOME_KEY")
        assert KEY not in repr(asking) + repr(vars(asking)) + asking.settings.model_dump_json()
        asking.ask([ASKED])
        assert server.received[0].headers["Authorization"] == f"Bearer {KEY}"
        assert fault(asking.ask([ASKED])[0]).detail == "status 500, 'Bearer [key] is bad'"
        with pytest.raises(ConfigError, match=r"'Bearer \[key\] is bad'; check the key in SOME_KEY") as refusal:
            asking.ask([ASKED])
        assert KEY not in str(refusal.value)


def test_no_key_is_sent_where_none_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(good()) as server:
        client(server).ask([ASKED])
        assert "Authorization" not in server.received[0].headers


@pytest.mark.parametrize("key", ["two words", "schlüssel", "line\nbreak"])
def test_a_key_that_cannot_be_one(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", key)
    with pytest.raises(ConfigError, match="the key in SOME_KEY cannot be one") as refusal:
        client("http://localhost", api_key_env="SOME_KEY")
    assert key not in str(refusal.value)


def test_retry_after_is_honoured() -> None:
    with serving(answer(429, b"", Retry_After="0.5"), good()) as server:
        assert reply(client(server).ask([ASKED])[0]).attempts == 2
        first, second = (received.at for received in server.received)
        assert second - first >= 0.5


def test_retry_after_may_be_a_date() -> None:
    moment = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=3)
    with serving(answer(503, b"", Retry_After=format_datetime(moment, usegmt=True)), good()) as server:
        assert reply(client(server).ask([ASKED])[0]).attempts == 2
    assert datetime.now(UTC) >= moment


@pytest.mark.parametrize("asked_for", ["86400", "1e999", "-5", "soon", "Mon, 99 Foo 2020"])
def test_retry_after_is_not_believed_blindly(asked_for: str) -> None:
    with serving(answer(503, b"", Retry_After=asked_for), good()) as server:
        assert reply(client(server, longest_wait_seconds=0.05).ask([ASKED])[0]).attempts == 2  # and not in a day


def test_waits_double() -> None:
    with serving(answer(500, b"")) as server:
        client(server, attempts=4, backoff_seconds=0.1).ask([ASKED])
        times = [received.at for received in server.received]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert all(gap >= 0.05 * 2**place for place, gap in enumerate(gaps))  # at least half of 0.1, 0.2, 0.4


def test_as_many_at_a_time_as_allowed_and_replies_in_order() -> None:
    together, lock, now, most = threading.Barrier(3), threading.Lock(), 0, 0

    def echo(handler: Handler) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait(60)  # passes only when three are here at the same time
        with lock:
            now -= 1
        good(handler.asked["messages"][0]["content"])(handler)

    with serving(echo) as server:
        texts = [str(place) for place in range(9)]
        replies = client(server, concurrency=3).ask(list(map(asked, texts)))
        assert [reply(said).content for said in replies] == texts
        assert most == 3


def test_threads_may_share_a_client() -> None:
    with serving(good()) as server:
        asking = client(server)
        with ThreadPoolExecutor(4) as pool:
            answered = list(pool.map(lambda _: reply(asking.ask([ASKED])[0]).content, range(8)))
        assert answered == ["ok"] * 8


def test_the_request_on_the_wire() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    with serving(good()) as server:
        client(f"{server.url}/v1/").ask([ASKED])
        bare = server.received[0]
        assert bare.path == "/v1/chat/completions"
        assert bare.body == {
            "model": "the-model",
            "messages": [{"role": "user", "content": "hello"}],
            "max_tokens": 8,
            "temperature": 0.5,
            "seed": 7,
        }
        equipped = ChatRequest(messages=ASKED.messages, tools=(tool,), max_tokens=8, temperature=0.5, seed=7)
        client(server).ask([equipped])
        assert server.received[1].body == {**bare.body, "tools": [tool]}


def test_the_reply_off_the_wire() -> None:
    call = {"id": "x", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    body = completion(None, finish="length", tool_calls=[call], reasoning_content="hm")
    said = read_completion(json.dumps(body).encode())
    assert (said.content, said.finish, said.prompt_tokens, said.tokens) == ("", FinishReason.LENGTH, 11, 3)
    assert [(call.name, call.arguments) for call in said.calls] == [("f", '{"a": 1}')]


@pytest.mark.parametrize("usage", [None, 5, {}, {"completion_tokens": "many"}, {"completion_tokens": -1}])
def test_usage_is_a_courtesy(usage: Any) -> None:
    said = read_completion(json.dumps({**completion(), "usage": usage}).encode())
    assert (said.content, said.prompt_tokens, said.tokens) == ("ok", 0, 0)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(("choices", "message", "error", "data")), inner),
)


@given(st.binary() | ANY_JSON.map(lambda value: json.dumps(value).encode()))
def test_no_body_surprises_the_reader(body: bytes) -> None:
    assert "\n" not in error_text(body)
    for read in (read_completion, read_model_names):
        with suppress(ValueError):
            read(body)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        (" http://localhost:8000/ ", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        ("https://a.b/openai/v1/chat/completions", "https://a.b/openai/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
    ],
)
def test_the_url_as_people_give_it(url: str, base: str) -> None:
    assert client(url).url == base


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x/v1", "http://", "", "http://a/v1?key=1", "http://x:port"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ConfigError, match="such as http://localhost:8000/v1"):
        client(url)


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="holds a password") as refusal:
        client(f"http://me:{KEY}@localhost/v1")
    assert KEY not in str(refusal.value)
