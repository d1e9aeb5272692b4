"""`VLLMPolicy` against a real vLLM that serves `nano`: what it samples is what our own sampler and scorer know.

The server's copy of the model recommends sampling settings of its own, as most models do, and none may have any effect.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import vllm_server
from simulator_cases import EXPLICIT, SILENT
from tiny_policies import chat as other_chat
from typer.testing import CliRunner
from vllm_server import VLLMServer, serving_vllm

from fission_grpo.assembly import ENVIRONMENTS
from fission_grpo.chat.format import ChatFormat
from fission_grpo.cli import app
from fission_grpo.client.endpoint import EndpointSettings
from fission_grpo.errors import ConfigError, PolicyError
from fission_grpo.models.catalog import LoadedModel, find_model, load_policy_model
from fission_grpo.policy.base import Context, Policy, Sampling
from fission_grpo.policy.local.hf_policy import HFPolicy
from fission_grpo.policy.vllm import VLLMPolicy
from fission_grpo.rollout import Horizon, Trajectory, open_group, rollout
from fission_grpo.run.provenance import PROVENANCE
from fission_grpo.simulator.base import NO_COST
from fission_grpo.simulator.model import ModelWriter
from fission_grpo.simulator.prompts import PromptStyle, prompts_of
from fission_grpo.tasks.synthesis.generator import synthesise
from fission_grpo.tree.logprobs import score, share_prefixes
from fission_grpo.types import Completion, Distribution, EndReason, FinishReason, Task, TokenRow

if vllm_server.PYTHON is None:
    pytest.skip("needs vLLM in an environment of its own: make test-vllm", allow_module_level=True)

pytestmark = pytest.mark.timeout(900)

WINDOW = 2048
RECOMMENDED = {
    "temperature": 0.3,
    "top_k": 5,
    "top_p": 0.5,
    "min_p": 0.2,
    "repetition_penalty": 1.5,
    "eos_token_id": [2, 4],
}
TEMPERED = Distribution(temperature=0.95, top_k=50)
GREEDY = Sampling(max_tokens=48, temperature=0.0)


@pytest.fixture(scope="module")
def nano() -> LoadedModel:
    return load_policy_model("nano")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of nano's folder with sampling settings of its own."""
    copy = tmp_path_factory.mktemp("models") / "nano"
    shutil.copytree(find_model("nano").folder, copy)
    (copy / "generation_config.json").write_text(json.dumps(RECOMMENDED))
    return copy


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[VLLMServer]:
    with serving_vllm(folder, "--logprobs-mode", "processed_logprobs", "--no-enable-chunked-prefill") as running:
        yield running


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return synthesise(5, 12, apis=("TwitterAPI", "GorillaFileSystem"), tools=(6, 8))


@pytest.fixture(scope="module")
def contexts(nano: LoadedModel, tasks: list[Task]) -> list[Context]:
    return [nano.chat.prompt(task.messages, task.tools) for task in tasks]


def asking(server: VLLMServer, chat: ChatFormat, **changes: Any) -> VLLMPolicy:
    settings = {"url": server.url, "model": "nano", "concurrency": 64, "attempts": 2, "backoff_seconds": 0.1}
    own = {key: changes.pop(key) for key in ("context_window", "seeded") if key in changes}
    return VLLMPolicy(EndpointSettings(**{**settings, **changes}), chat=chat, **own)


@pytest.fixture(scope="module")
def policy(server: VLLMServer, nano: LoadedModel) -> VLLMPolicy:
    return asking(server, nano.chat)


def local(nano: LoadedModel) -> HFPolicy:
    return HFPolicy(nano.model, eos_id=nano.chat.eos_id, pad_id=nano.chat.pad_id)


def rescored(model: Any, rows: Sequence[TokenRow], distribution: Distribution) -> list[list[float]]:
    """The log-probability of every trained token, as training reads it."""
    width = max(sum(row.trained) for row in rows)
    found: dict[int, list[float]] = {}
    with torch.no_grad():
        for scores in score(
            model, rows, share_prefixes(rows), width=width, distribution=distribution, token_budget=1 << 14
        ):
            for place, row in enumerate(scores.rows):
                found[row] = scores.logprobs_BT[place, : sum(rows[row].trained)].tolist()
    return [found[row] for row in range(len(rows))]


def row_of(context: Context, completion: Completion) -> TokenRow:
    trained = (False,) * len(context) + (True,) * len(completion.ids)
    return TokenRow(ids=context + completion.ids, trained=trained)


def played(policy: Policy, chat: ChatFormat, tasks: Sequence[Task], sampling: Sampling, size: int) -> list[Trajectory]:
    starts = [start for task in tasks for start in open_group(task, size, chat=chat, environments=ENVIRONMENTS)]
    return rollout(
        starts,
        policy=policy,
        chat=chat,
        sampling=sampling,
        horizons=[Horizon.EPISODE] * len(starts),
        max_turns=6,
        seed=3,
    )


@pytest.mark.parametrize("distribution", [Distribution(), TEMPERED, Distribution(temperature=0.0)], ids=str)
def test_its_logprobs_are_our_scorers(
    distribution: Distribution, policy: VLLMPolicy, nano: LoadedModel, contexts: list[Context]
) -> None:
    """48 dialogues at once, four from each prompt."""
    asked = [context for context in contexts for _ in range(4)]
    sampling = Sampling(max_tokens=48, temperature=distribution.temperature, top_k=distribution.top_k)
    completions = policy.generate(asked, sampling=sampling, seed=1)
    scored = rescored(nano.model, [row_of(*pair) for pair in zip(asked, completions, strict=True)], distribution)
    for completion, logprobs in zip(completions, scored, strict=True):
        assert completion.logprobs == pytest.approx(logprobs, abs=1e-4)


def test_greedy_tokens_are_our_own_samplers(policy: VLLMPolicy, nano: LoadedModel, contexts: list[Context]) -> None:
    ours = local(nano).generate(contexts, sampling=GREEDY, seed=0)
    theirs = policy.generate(contexts, sampling=GREEDY, seed=0)
    assert [one.ids for one in theirs] == [one.ids for one in ours]
    assert [one.finish for one in theirs] == [one.finish for one in ours]
    for one, other in zip(theirs, ours, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_tokens_are_drawn_from_the_distribution_that_was_asked_for(policy: VLLMPolicy, nano: LoadedModel) -> None:
    """The first token of 600 completions: each frequency within five standard errors of its probability."""
    context, draws = nano.chat.prompt(({"role": "user", "content": "Which files are here?"},), ()), 600
    sampling = Sampling(max_tokens=1, temperature=TEMPERED.temperature, top_k=TEMPERED.top_k)
    drawn = Counter(one.ids[0] for one in policy.generate([context] * draws, sampling=sampling, seed=5))
    likely = nano.model(torch.tensor([context])).logits[0, -1].topk(20).indices.tolist()
    rows = [TokenRow(ids=(*context, token), trained=(*(False for _ in context), True)) for token in likely]
    for token, (logprob,) in zip(likely, rescored(nano.model, rows, TEMPERED), strict=True):
        probability = float(torch.tensor(logprob).exp())
        error = (probability * (1 - probability) / draws) ** 0.5
        assert abs(drawn[token] / draws - probability) < 5 * error + 1 / draws


def test_the_end_of_a_turn_is_sampled_and_is_the_only_stop(
    policy: VLLMPolicy, nano: LoadedModel, contexts: list[Context]
) -> None:
    eos = nano.chat.eos_id
    completions = policy.generate(contexts * 2, sampling=Sampling(max_tokens=28, temperature=1.3), seed=2)
    assert {one.finish for one in completions} == set(FinishReason)
    for one in completions:
        assert eos not in one.ids[:-1]
        assert (one.ids[-1] == eos) == (one.finish is FinishReason.STOP)
        assert one.finish is FinishReason.STOP or len(one.ids) == 28
    said = {token for one in completions for token in one.ids}
    assert 4 in said, "token 4, an end of generation by the model's own settings, never came: this test proves nothing"


def test_seeds_give_the_same_tokens_and_others_give_others(policy: VLLMPolicy, contexts: list[Context]) -> None:
    sampling = Sampling(max_tokens=12)
    first, again, other = (
        [one.ids for one in policy.generate(contexts * 3, sampling=sampling, seed=seed)] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    assert len(set(first[:: len(contexts)])) > 1  # one prompt, three seeds


def test_without_seeds_the_same_question_has_other_answers(
    server: VLLMServer, nano: LoadedModel, contexts: list[Context]
) -> None:
    asked = asking(server, nano.chat, seeded=False)
    first, again = (
        [one.ids for one in asked.generate(contexts, sampling=Sampling(max_tokens=24), seed=1)] for _ in "ab"
    )
    assert first != again


def test_whole_rollouts_are_those_of_our_own_sampler(policy: VLLMPolicy, nano: LoadedModel, tasks: list[Task]) -> None:
    sampling = Sampling(max_tokens=96, temperature=0.0)
    theirs = played(policy, nano.chat, tasks, sampling, 1)
    ours = played(local(nano), nano.chat, tasks, sampling, 1)
    assert [one.ids for one in theirs] == [one.ids for one in ours]
    assert [one.sampled for one in theirs] == [one.sampled for one in ours]
    assert [one.end for one in theirs] == [one.end for one in ours]
    assert [one.verdict for one in theirs] == [one.verdict for one in ours]
    assert max(len(one.turns) for one in theirs) > 1


def test_a_hundred_dialogues_at_once_with_tools(policy: VLLMPolicy, nano: LoadedModel, tasks: list[Task]) -> None:
    sampling = Sampling(max_tokens=96, temperature=TEMPERED.temperature, top_k=TEMPERED.top_k)
    trajectories = played(policy, nano.chat, tasks, sampling, 9)
    assert len(trajectories) == 108
    assert all(one.valid for one in trajectories)
    rows = [TokenRow(ids=one.ids, trained=one.sampled) for one in trajectories]
    for one, logprobs in zip(trajectories, rescored(nano.model, rows, TEMPERED), strict=True):
        assert [p for p, own in zip(one.logprobs, one.sampled, strict=True) if own] == pytest.approx(logprobs, abs=1e-4)


def test_the_window_is_the_servers_and_is_never_exceeded(
    server: VLLMServer, policy: VLLMPolicy, nano: LoadedModel, tasks: list[Task]
) -> None:
    assert policy.context_window == WINDOW
    longest = max(len(nano.chat.prompt(task.messages, task.tools)) for task in tasks)
    tight = asking(server, nano.chat, context_window=longest + 40)
    trajectories = played(tight, nano.chat, tasks, Sampling(max_tokens=32, temperature=0.0), 1)
    assert EndReason.CONTEXT in {one.end for one in trajectories}
    assert max(len(one.ids) for one in trajectories) <= longest + 40
    with pytest.raises(PolicyError, match=r"a context of 2000 tokens and a completion of 49 .* window of 2048"):
        policy.generate([(5,) * 2000], sampling=Sampling(max_tokens=49), seed=0)
    (full,) = policy.generate([(5,) * 2000], sampling=Sampling(max_tokens=48, temperature=0.0), seed=0)
    assert len(full.ids) == 48 or full.finish is FinishReason.STOP


def test_what_a_reply_raises_ends_everything(policy: VLLMPolicy, contexts: list[Context]) -> None:
    def reply(index: int, completion: Completion) -> Context | None:
        if index == 3:
            raise ZeroDivisionError("in the caller's own code")
        return contexts[index]  # for ever

    with pytest.raises(ZeroDivisionError, match="own code"):
        policy.converse(contexts, reply=reply, sampling=Sampling(max_tokens=4), seed=0)


def test_a_model_simulator_can_write_through_it(policy: VLLMPolicy, nano: LoadedModel) -> None:
    prompts = [prompt for case in (EXPLICIT, SILENT) for prompt in prompts_of(case)]
    ours, theirs = (
        ModelWriter(one, nano.chat, style=PromptStyle.INSTRUCTED).write(prompts) for one in (local(nano), policy)
    )
    assert [replace(one, cost=NO_COST) for one in theirs] == [replace(one, cost=NO_COST) for one in ours]
    assert all(one.cost.tokens for one in theirs)


@pytest.mark.parametrize(
    "command",
    [
        ["heldout", "--size", "6"],
        ["bfcl", "--limit", "2", "--categories", "base", "--mode", "compact", "--max-tokens", "64"],
        ["probes", "--limit", "2", "--mode", "compact", "--max-tokens", "64"],
    ],
    ids=lambda command: command[0],
)
def test_an_evaluation_plays_the_same_here_and_behind_the_server(
    command: list[str], server: VLLMServer, tmp_path: Path
) -> None:
    options = ["--model", "nano"] + (["--temperature", "0"] if command[0] != "heldout" else [])
    for name, where in (("here", []), ("there", ["--server", server.url])):
        told = CliRunner().invoke(app, ["eval", *command, *options, *where, "--output", str(tmp_path / name)])
        assert told.exit_code == 0, told.output
    names = {path.name for path in (tmp_path / "here").glob("*.jsonl")} - {PROVENANCE}
    assert names
    for name in names:
        assert lines(tmp_path / "there" / name) == lines(tmp_path / "here" / name)


def lines(path: Path) -> list[Any]:
    """The records without what a clock wrote; by their order, which the policy's pace may change."""
    return sorted(
        json.dumps(without_seconds(json.loads(line)), sort_keys=True) for line in path.read_text().splitlines()
    )


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_seconds(one) for key, one in value.items() if key != "seconds"}
    return [without_seconds(one) for one in value] if isinstance(value, list) else value


def test_another_model_is_refused(server: VLLMServer, nano: LoadedModel) -> None:
    with pytest.raises(ConfigError, match=r"serves 'nano', expected 'nan'; start it with --served-model-name nan"):
        asking(server, nano.chat, model="nan")


def test_another_tokenizer_is_refused(server: VLLMServer) -> None:
    with pytest.raises(ConfigError, match=r"has another tokenizer: it reads a text of .* differs from ours at token"):
        asking(server, other_chat())


def test_a_window_too_small_is_refused(server: VLLMServer, nano: LoadedModel) -> None:
    with pytest.raises(ConfigError, match="holds 2048 tokens, expected 4096; start it with --max-model-len 4096"):
        asking(server, nano.chat, context_window=4096)


def test_a_server_that_tells_other_logprobs_is_refused(folder: Path, nano: LoadedModel) -> None:
    """As vLLM starts by default: those before temperature and top-k."""
    refusal = r"another distribution .* start it with --logprobs-mode processed_logprobs"
    with serving_vllm(folder) as default, pytest.raises(ConfigError, match=refusal):
        asking(default, nano.chat)


def test_a_server_that_dies_ends_it(server: VLLMServer, nano: LoadedModel, contexts: list[Context]) -> None:
    """Killed between two completions, with 48 dialogues under way that would never end. The last test of the file."""
    policy = asking(server, nano.chat, seeded=False)
    answered = 0

    def reply(index: int, completion: Completion) -> Context | None:
        nonlocal answered
        answered += 1
        if answered == 100:
            server.kill()
        return contexts[index % len(contexts)]

    with pytest.raises(PolicyError, match=r"with model 'nano' gives no sampled token ids: .*connection"):
        policy.converse(contexts * 4, reply=reply, sampling=Sampling(max_tokens=16), seed=0)
    nobody = r"no connection .*; tried 2 time\(s\); start the server, or correct its URL"
    with pytest.raises(ConfigError, match=nobody):
        asking(server, nano.chat)
