"""`VLLMPolicy` against a real HTTP server that speaks vLLM's protocol, and departs from it where a test says so.

What a real vLLM does with these requests is proved in `tests/engines/vllm`.
"""

from __future__ import annotations

import socket
import threading
from collections import defaultdict
from contextlib import AbstractContextManager
from dataclasses import replace
from math import log
from typing import Any

import pytest
from scripted_server import Behaviour, Handler, Scripted, answer, choice, hang, hang_up, html, serving
from tiny_policies import chat, scripted, tasks

from fission_grpo.client.endpoint import EndpointSettings
from fission_grpo.errors import ConfigError, PolicyError
from fission_grpo.models.catalog import load_chat
from fission_grpo.policy.base import Context, Sampling
from fission_grpo.policy.vllm import VLLMPolicy
from fission_grpo.rollout import Horizon, open_task, rollout
from fission_grpo.types import Completion, FinishReason

WINDOW = 4096
SAMPLING = Sampling(max_tokens=8)
HELLO = chat().prompt(({"role": "user", "content": "hello"},), ())


def probed(*logprobs: float) -> Behaviour:
    """The answer to the question that tells a wrong server."""

    def behave(handler: Handler) -> None:
        read = chat().renderer.encode(handler.asked["prompt"])
        answer(200, choice(read, [5] * 8, finish="length", logprobs={"token_logprobs": logprobs}))(handler)

    return behave


def says(*ids: int, **changes: Any) -> Behaviour:
    return lambda handler: answer(200, choice(handler.asked["prompt"], [*ids, chat().eos_id], **changes))(handler)


RIGHT = probed(*[0.0] * 8)


def vllm(*behaviours: Behaviour, probe: Behaviour = RIGHT) -> AbstractContextManager[Scripted]:
    """A server that lists its model as vLLM does, is asked whether it is the right one, and then does this."""
    return serving(probe, *behaviours, models={"data": [{"id": "the-model", "max_model_len": WINDOW}]})


def policy(server: Scripted | str, *, seeded: bool = True, window: int | None = None, **changes: Any) -> VLLMPolicy:
    url = server if isinstance(server, str) else server.url
    fields = {"url": url, "model": "the-model", "attempts": 2, "backoff_seconds": 0.01, "concurrency": 4, **changes}
    return VLLMPolicy(EndpointSettings(**fields), chat=chat(), context_window=window, seeded=seeded)


def test_what_is_asked_for_leaves_nothing_to_the_server() -> None:
    with vllm(says(7)) as server:
        (completion,) = policy(server).generate(
            [HELLO], sampling=Sampling(max_tokens=8, temperature=0.95, top_k=50), seed=3
        )
        asked = dict(server.received[1].body)
        assert server.received[1].path == "/v1/completions"
        assert 0 <= asked.pop("seed") < 2**63
        assert asked == {
            "model": "the-model",
            "prompt": list(HELLO),
            "add_special_tokens": False,
            "max_tokens": 8,
            "temperature": 0.95,
            "top_k": 50,
            "top_p": 1.0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "ignore_eos": True,
            "stop_token_ids": [chat().eos_id],
            "logprobs": 0,
            "return_token_ids": True,
        }
    assert completion == Completion(ids=(7, chat().eos_id), logprobs=(-0.25, -0.25), finish=FinishReason.STOP)


def test_each_completion_has_a_seed_of_its_own_and_the_same_one_again() -> None:
    def seeds(seed: int, **changes: Any) -> list[Any]:
        with vllm(says(7)) as server:
            turns = iter(range(4))
            policy(server, concurrency=1, **changes).converse(
                [HELLO, HELLO],
                reply=lambda index, completion: HELLO if next(turns) % 2 == 0 else None,
                sampling=SAMPLING,
                seed=seed,
            )
            return [received.body.get("seed") for received in server.received[1:]]

    assert len(set(seeds(1))) == 4
    assert seeds(1) == seeds(1)
    assert not set(seeds(1)) & set(seeds(2))
    assert seeds(1, seeded=False) == [None] * 4


def test_greedy_sampling_needs_no_seed() -> None:
    with vllm(says(7)) as server:
        policy(server).generate([HELLO], sampling=Sampling(max_tokens=8, temperature=0.0), seed=3)
        assert "seed" not in server.received[1].body


def test_a_rollout_is_that_of_a_policy_in_this_process() -> None:
    """The server answers with what a scripted policy says to the same tokens."""
    inner = scripted("All done.", window=WINDOW)

    def follow(handler: Handler) -> None:
        (said,) = inner.generate([tuple(handler.asked["prompt"])], sampling=SAMPLING, seed=0)
        answer(200, choice(handler.asked["prompt"], list(said.ids)))(handler)

    def play(sampler: Any) -> Any:
        starts = [open_task(task, chat=chat(), environments={}) for task in starts_of]
        horizons = [Horizon.EPISODE] * len(starts)
        return rollout(starts, policy=sampler, chat=chat(), sampling=SAMPLING, horizons=horizons, max_turns=3, seed=0)

    starts_of = [replace(task, world=None, gold=(), followups=("And now?",)) for task in tasks()]
    with vllm(follow) as server:
        remote = play(policy(server))
    assert [(one.ids, one.sampled, one.end) for one in remote] == [
        (one.ids, one.sampled, one.end) for one in play(inner)
    ]
    assert all(len(one.turns) == 2 for one in remote)


def test_a_dialogue_keeps_its_connection_and_shares_it_with_none() -> None:
    connections: dict[int, set[int]] = defaultdict(set)

    def note(handler: Handler) -> None:
        connections[handler.asked["prompt"][0]].add(handler.client_address[1])
        says(7)(handler)

    asked = [(token, *HELLO) for token in range(20, 26)]
    turns: dict[int, int] = defaultdict(int)

    def reply(index: int, completion: Completion) -> Context | None:
        turns[index] += 1
        return asked[index] if turns[index] < 3 else None

    with vllm(note) as server:
        policy(server).converse(asked, reply=reply, sampling=SAMPLING, seed=0)
    assert [len(ports) for ports in connections.values()] == [1] * 6
    assert len(set.union(*connections.values())) == 6


def test_as_many_dialogues_at_a_time_as_allowed() -> None:
    together, lock, now, most = threading.Barrier(3), threading.Lock(), 0, 0

    def wait(handler: Handler) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait(60)  # passes only when three are here at the same time
        with lock:
            now -= 1
        says(7)(handler)

    with vllm(wait) as server:
        assert len(policy(server, concurrency=3).generate([HELLO] * 9, sampling=SAMPLING, seed=0)) == 9
    assert most == 3


@pytest.mark.parametrize(
    ("behaviour", "hint"),
    [
        (hang, "silence for 2 s"),
        (hang_up, "the connection broke"),
        (
            answer(500, {"error": {"message": "EngineCore encountered an issue."}}),
            "status 500.*--no-enable-chunked-prefill",
        ),
        (answer(504, b""), "status 504"),
        (html, "no sampled token ids.*return_token_ids"),
    ],
)
def test_what_may_have_been_sampled_is_asked_again_only_where_it_is_drawn_again(
    behaviour: Behaviour, hint: str
) -> None:
    """Without a seed, a second try after a time-out would prefer completions that end soon."""
    for seeded, temperature, again in ((True, 1.0, True), (False, 0.0, True), (False, 1.0, False)):
        with vllm(behaviour, says(7)) as server:
            asking = policy(server, seeded=seeded, silence_seconds=2.0)
            asked = Sampling(max_tokens=8, temperature=temperature)
            if again:
                assert asking.generate([HELLO], sampling=asked, seed=0)[0].ids[0] == 7
            else:
                with pytest.raises(PolicyError, match=hint):
                    asking.generate([HELLO], sampling=asked, seed=0)
            bodies = [received.body for received in server.received[1:]]
            assert bodies == [bodies[0]] * (2 if again else 1)


def test_a_request_that_was_never_taken_is_sent_again() -> None:
    with vllm(answer(429, b"", Retry_After="0"), says(7)) as server:
        assert policy(server, seeded=False).generate([HELLO], sampling=SAMPLING, seed=0)[0].ids[0] == 7


def test_one_that_fails_ends_all_the_others_at_once() -> None:
    def fail_one(handler: Handler) -> None:
        (answer(400, {"error": {"message": "no"}}) if handler.asked["prompt"][0] == 20 else hang)(handler)

    with vllm(fail_one) as server, pytest.raises(PolicyError, match="status 400, 'no'; tried 1 time"):
        policy(server).generate([(token, *HELLO) for token in (21, 22, 20)], sampling=SAMPLING, seed=0)


def test_a_model_that_is_gone_is_a_policy_error() -> None:
    with vllm(answer(404, {"error": {"message": "no such model"}})) as server, pytest.raises(PolicyError):
        policy(server).generate([HELLO], sampling=SAMPLING, seed=0)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (choice(HELLO[1:], [7, chat().eos_id]), f"continued {len(HELLO) - 1} other tokens than the {len(HELLO)} sent"),
        (choice(HELLO, [7, 9]), r"stopped at token 9, expected \d+, the end of a turn"),
        (choice(HELLO, [7], finish="abort"), "no sampled token ids .*finish_reason"),
        (choice(HELLO, []), "no sampled token ids .*token_ids"),
        (choice(HELLO, [7], token_ids=None), "no sampled token ids .*token_ids"),
        (choice(HELLO, [7, 8], logprobs={"token_logprobs": [-1.0]}), "2 tokens, 1 log-probabilities"),
        (choice(HELLO, [7], logprobs={"token_logprobs": [None]}), "no sampled token ids .*token_logprobs"),
        (choice(HELLO, [7], logprobs={"token_logprobs": [float("-inf")]}), "no sampled token ids .*token_logprobs"),
        ({"choices": []}, "no sampled token ids .*choices"),
    ],
)
def test_an_answer_that_is_none(body: Any, message: str) -> None:
    with vllm(answer(200, body)) as server, pytest.raises(PolicyError, match=message):
        policy(server).generate([HELLO], sampling=SAMPLING, seed=0)


@pytest.mark.parametrize("logprobs", [[0.0] * 8, [0.0, -log(2), *[0.0] * 5, -log(3)], [-1e-4] * 8], ids=str)
def test_ties_of_the_likeliest_tokens_are_no_other_distribution(logprobs: list[float]) -> None:
    with vllm(probe=probed(*logprobs)) as server:
        assert policy(server).context_window == WINDOW


@pytest.mark.parametrize("logprobs", [[-0.01] * 8, [0.0] * 7 + [-0.5], [17.5] * 8], ids=str)
def test_logprobs_of_another_distribution_are_refused(logprobs: list[float]) -> None:
    with (
        vllm(probe=probed(*logprobs)) as server,
        pytest.raises(ConfigError, match="--logprobs-mode processed_"),
    ):
        policy(server)


def test_the_window_is_what_is_asked_for_or_all() -> None:
    with vllm() as server:
        assert policy(server).context_window == WINDOW
        assert policy(server, window=512).context_window == 512
        with pytest.raises(ConfigError, match="holds 4096 tokens, expected 5000; start it with --max-model-len 5000"):
            policy(server, window=5000)


def test_what_the_window_cannot_hold_is_not_asked_for() -> None:
    """A server would answer with a completion that is too short, and not say why."""
    with vllm(says(7)) as server:
        asking = policy(server, window=100)
        assert asking.generate([(5,) * 92], sampling=SAMPLING, seed=0)[0].ids[0] == 7
        with pytest.raises(
            PolicyError, match="a context of 93 tokens and a completion of 8 do not fit the window of 100"
        ):
            asking.generate([(5,) * 93], sampling=SAMPLING, seed=0)
        assert len(server.received) == 2


def test_another_model_is_refused_with_what_there_is() -> None:
    refusal = "serves 'the-model', expected 'qwen'; start it with --served-model-name qwen, or name the model that it"
    with vllm() as server, pytest.raises(ConfigError, match=refusal):
        policy(server, model="qwen")


def test_another_tokenizer_is_refused() -> None:
    nano = load_chat("nano")

    def read_otherwise(handler: Handler) -> None:
        answer(200, choice(nano.renderer.encode(handler.asked["prompt"]), [5] * 8, finish="length"))(handler)

    with (
        vllm(probe=read_otherwise) as server,
        pytest.raises(ConfigError, match="has another tokenizer: it reads a text of"),
    ):
        policy(server)


def test_no_server_is_one_sentence() -> None:
    with socket.socket() as bound:  # bound and not listening: every connection is refused
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(
            ConfigError, match=r"no connection .*tried 2 time\(s\); start the server, or correct its URL"
        ):
            policy(f"http://127.0.0.1:{bound.getsockname()[1]}")


def test_a_server_that_is_no_vllm_is_one_sentence() -> None:
    with serving(html) as server, pytest.raises(ConfigError, match=r"no list of vLLM's models .*max_model_len"):
        policy(server)


@pytest.mark.parametrize("temperature", [0.001, 0.00999])
def test_a_temperature_that_vllm_replaces_is_refused(temperature: float) -> None:
    with vllm(says(7)) as server, pytest.raises(ConfigError, match=r"would sample at 0\.01 in its place"):
        policy(server).generate([HELLO], sampling=Sampling(max_tokens=8, temperature=temperature), seed=0)
