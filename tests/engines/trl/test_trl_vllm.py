"""A run inside TRL whose policy is a real vLLM server: what it samples is trained on, and what its death costs.

Weights do not reach this server: TRL sends them over NCCL, and a CPU has none. It keeps those that the run began with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import vllm_server
from tiny_trl import STEPS, buffer_of, fingerprint, tiny_trainer
from vllm_server import VLLMServer, serving_vllm

from fission_grpo.algorithm.groups import Group
from fission_grpo.client.endpoint import EndpointSettings
from fission_grpo.engines.trl import FissionGRPOTrainer
from fission_grpo.engines.trl.state import latest_checkpoint
from fission_grpo.errors import PolicyError
from fission_grpo.models.catalog import find_model, load_chat, load_weights
from fission_grpo.policy.base import Context, Policy, Reply, Sampling
from fission_grpo.policy.vllm import VLLMPolicy
from fission_grpo.rollout import Trajectory
from fission_grpo.types import Completion

if vllm_server.PYTHON is None:
    pytest.skip("needs vLLM in an environment of its own: make test-vllm", allow_module_level=True)

pytestmark = pytest.mark.timeout(1800)

SAVED = {"save_strategy": "steps", "save_steps": 2, "max_steps": STEPS}


@pytest.fixture(scope="module")
def server() -> Iterator[VLLMServer]:
    with serving() as running:
        yield running


def serving() -> Any:
    """Without a cache of prefixes, which rounds by what was asked before: a server is as good as another then."""
    options = ["--logprobs-mode", "processed_logprobs", "--no-enable-chunked-prefill", "--no-enable-prefix-caching"]
    return serving_vllm(find_model("nano").folder, *options)


def asking(server: VLLMServer, trainer: Any, *, concurrency: int = 1) -> VLLMPolicy:
    """One dialogue at a time: which ones meet in a batch would change how it rounds."""
    settings = EndpointSettings(url=server.url, model="nano", concurrency=concurrency, attempts=2, backoff_seconds=0.1)
    return VLLMPolicy(settings, chat=trainer.chat)


def served_trainer(folder: Path, server: VLLMServer, given: Any = None, **changes: Any) -> FissionGRPOTrainer:
    """nano learns to count, from what a server's nano says."""
    passed = {
        "processing_class": load_chat("nano").tokenizer,
        "policy": lambda trainer: asking(server, trainer),
        **(given or {}),
    }
    return tiny_trainer(folder, policy_model=load_weights("nano"), given=passed, max_completion_length=24, **changes)


def rescored(trajectory: Trajectory) -> list[float]:
    """Log-probabilities of the sampled tokens under nano's weights, by nothing but its forward pass."""
    ids = torch.tensor([trajectory.ids])
    with torch.no_grad():
        logprobs = load_weights("nano")(ids).logits[0, :-1].log_softmax(-1)
    told = logprobs.gather(1, ids[0, 1:, None])[:, 0].tolist()
    return [one for one, own in zip(told, trajectory.sampled[1:], strict=True) if own]


def test_a_step_trains_on_what_the_server_has_sampled(tmp_path: Path, server: VLLMServer) -> None:
    seen: list[Group] = []
    given = {
        "policy": lambda trainer: asking(server, trainer, concurrency=8),
        "on_step": lambda step, groups: seen.extend(groups),
    }
    trainer = served_trainer(tmp_path, server, given)
    before = fingerprint(trainer)
    trainer.train()
    assert fingerprint(trainer)[0] != before[0]
    trajectories = [member.trajectory for group in seen for member in group.members]
    assert len(trajectories) >= 8
    for one in trajectories:
        told = [logprob for logprob, own in zip(one.logprobs, one.sampled, strict=True) if own]
        assert told == pytest.approx(rescored(one), abs=1e-4)
    rows = [ids[mask.bool()].tolist() for ids, mask in zip(*_batch(trainer), strict=True)]
    assert all(list(one.ids) in rows for one in trajectories)


def _batch(trainer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of TRL's last batch: ids and mask, prompts before completions."""
    (batch,) = trainer._buffered_inputs
    return tuple(torch.cat([batch[f"prompt_{name}"], batch[f"completion_{name}"]], dim=1) for name in ("ids", "mask"))


class Doomed(Policy):
    """Asks one dialogue at a time; from when it is told on eight, and the server dies at the third answer."""

    def __init__(self, server: VLLMServer, trainer: Any) -> None:
        self._server = server
        self._calm, self._hasty = asking(server, trainer), asking(server, trainer, concurrency=8)
        self.told = False

    @property
    def context_window(self) -> int:
        return self._calm.context_window

    def converse(self, contexts: Sequence[Context], *, reply: Reply, sampling: Sampling, seed: int) -> None:
        answered = 0

        def killing(index: int, completion: Completion) -> Context | None:
            nonlocal answered
            answered += 1
            if answered == 3:
                self._server.kill()
            return reply(index, completion)

        if self.told:
            self._hasty.converse(contexts, reply=killing, sampling=sampling, seed=seed)
        else:
            self._calm.converse(contexts, reply=reply, sampling=sampling, seed=seed)


def test_a_server_that_dies_in_the_middle_of_a_step_loses_nothing(tmp_path: Path, server: VLLMServer) -> None:
    """Killed in the third step with dialogues under way; another one leads to the weights of an undisturbed run."""
    whole = served_trainer(tmp_path / "whole", server, **SAVED)
    whole.train()
    made: list[Doomed] = []

    def doomed(trainer: Any) -> Policy:
        made.append(Doomed(server, trainer))
        return made[0]

    def tell(step: int, groups: Sequence[Group]) -> None:
        made[0].told = step == 1

    victim = served_trainer(tmp_path / "run", server, {"policy": doomed, "on_step": tell}, **SAVED)
    with pytest.raises(PolicyError, match=r"with model 'nano' gives no sampled token ids: .*; start the server") as end:
        victim.train()
    assert "\n" not in str(end.value)
    assert server.process.returncode is not None
    assert victim.state.global_step == 2
    assert latest_checkpoint(tmp_path / "run") == tmp_path / "run" / "checkpoint-2"
    with serving() as another:
        resumed = served_trainer(tmp_path / "run", another, **SAVED)
        resumed.train(resume_from_checkpoint=True)
    assert len(buffer_of(resumed)) > 0
    assert (resumed.state.global_step, fingerprint(resumed)) == (STEPS, fingerprint(whole))
