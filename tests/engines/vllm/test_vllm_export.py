"""What `fission export` leaves, behind a real vLLM that is started as the export says: the prompts that training made,
the tokens of the run's policy, and calls that the server itself has read."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import vllm_server
from typer.testing import CliRunner
from vllm_server import VLLMServer, serving_vllm

from fission_grpo.chat.parse import parse_message, tool_message
from fission_grpo.cli import app
from fission_grpo.models.catalog import LoadedModel, load_policy_model
from fission_grpo.policy.base import Sampling
from fission_grpo.policy.local.hf_policy import HFPolicy
from fission_grpo.tasks.synthesis.generator import synthesise
from fission_grpo.types import Completion, FinishReason, Message, Tool

if vllm_server.PYTHON is None:
    pytest.skip("needs vLLM in an environment of its own: make test-vllm", allow_module_level=True)

pytestmark = pytest.mark.timeout(900)

TINY = (
    *("synthetic.count=4", "synthetic.apis=[TwitterAPI]", "synthetic.tools=[2, 3]", "trainer.steps=1"),
    *("trainer.queries=2", "trainer.group_size=2", "rollouts.max_tokens=8", "rollouts.max_turns=2"),
    *("fission.contexts=1", "fission.group_size=2", "lora.rank=4", "trainer.learning_rate=3e-3"),
)
TASKS = synthesise(3, 6, apis=("TwitterAPI",), tools=(2, 3))
GREEDY = Sampling(max_tokens=60, temperature=0.0)


@dataclass(frozen=True)
class Served:
    template: str
    policy: LoadedModel
    """Of the run itself, an adapter on its base."""
    server: VLLMServer

    def said(self, contexts: Sequence[Sequence[int]]) -> list[Completion]:
        """By the run's policy."""
        chat = self.policy.chat
        own = HFPolicy(self.policy.model, eos_id=chat.eos_id, pad_id=chat.pad_id)
        return own.generate([tuple(context) for context in contexts], sampling=GREEDY, seed=0)

    def chat(self, messages: Sequence[Message], tools: Sequence[Tool]) -> dict[str, Any]:
        """By the server, as any client of its would ask."""
        asked = {
            **{"model": "exported", "messages": list(messages), "tools": list(tools), "temperature": 0},
            **{"max_tokens": GREEDY.max_tokens, "return_token_ids": True},
        }
        answer = httpx2.post(f"{self.server.url}/v1/chat/completions", json=asked, timeout=120)
        assert answer.is_success, answer.text
        return dict(answer.json())


@pytest.fixture(scope="module", params=["nano", "hermes"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    run = tmp_path_factory.mktemp("runs") / "mine"
    for command in (
        ["train", "--model", "nano", *TINY, f"chat_template={request.param}", "--output", str(run)],
        ["export", str(run), "--json"],
    ):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    command, verb, name, *options = shlex.split(told["vllm"])
    assert (command, verb, name) == ("vllm", "serve", "mine-export")
    with serving_vllm(Path(told["folder"]), *options, name="exported") as running:
        yield Served(request.param, load_policy_model(str(run / "policy")), running)


def test_a_dialogue_with_tools_is_the_runs_own_to_the_last_token(served: Served) -> None:
    """First messages, and second ones after a tool result: prompt, tokens, and the calls that the server reads."""
    chat, calls = served.policy.chat, 0
    first = [chat.prompt(task.messages, task.tools) for task in TASKS]
    for task, context, ours in zip(TASKS, first, served.said(first), strict=True):
        theirs = served.chat(task.messages, task.tools)
        (choice,) = theirs["choices"]
        assert tuple(theirs["prompt_token_ids"]) == context
        assert tuple(choice["token_ids"]) == ours.ids
        parsed = parse_message(chat.decode(ours.ids))
        read = choice["message"].get("tool_calls") or []
        if parsed.failures:
            continue
        assert [(one["function"]["name"], json.loads(one["function"]["arguments"])) for one in read] == [
            (call.name, dict(call.arguments)) for call in parsed.calls
        ]
        if not parsed.calls:
            continue
        calls += 1
        results = [f"result {place}" for place in range(len(parsed.calls))]
        later = context + ours.ids + chat.reply(ours.finish, results)
        (again,) = served.said([later])
        replies = [tool_message(text, place) for place, text in enumerate(results)]
        answer = served.chat([*task.messages, choice["message"], *replies], task.tools)
        assert tuple(answer["prompt_token_ids"]) == later
        assert tuple(answer["choices"][0]["token_ids"]) == again.ids
        assert ours.finish is FinishReason.STOP
    assert calls or served.template == "hermes", "no message of the policy was a call: this test proves nothing"


def test_calls_that_were_made_in_a_dialogue_are_shown_as_training_shows_them(served: Served) -> None:
    """Whatever the policy itself says: a gold call in the history, as a client writes it."""
    chat, task = served.policy.chat, TASKS[0]
    call = task.target[0]
    text = f"<tool_call>\n{json.dumps({'name': call.name, 'arguments': dict(call.arguments)})}\n</tool_call>"
    rendered = (*chat.renderer.encode(text), chat.eos_id)
    expected = chat.prompt(task.messages, task.tools) + rendered + chat.reply(FinishReason.STOP, ["done"])
    written = {"name": call.name, "arguments": json.dumps(dict(call.arguments))}
    said = {
        **{"role": "assistant", "content": None},
        "tool_calls": [{"id": "call-1", "type": "function", "function": written}],
    }
    reply = {"role": "tool", "content": "done", "tool_call_id": "call-1"}
    told = served.chat([*task.messages, said, reply], task.tools)
    assert tuple(told["prompt_token_ids"]) == expected
