"""Who samples inside TRL: the model that is trained, or the vLLM that TRL drives.

`vllm_mode="colocate"` is asked through TRL's own `vllm_generation` in rounds: every dialogue that waits for an answer
gets one, then the worlds answer. A server is asked by each process for itself (`policy.vllm`). TRL moves the weights to
either; the trainer has it done before it samples. Neither has run on a GPU yet: what is here follows TRL's source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from math import ceil
from typing import Any

from trl.import_utils import is_vllm_available

from fission_grpo.chat.format import ChatFormat
from fission_grpo.client.endpoint import EndpointSettings
from fission_grpo.errors import ConfigError, PolicyError, boundary
from fission_grpo.policy.base import Context, Policy, Reply, Sampling
from fission_grpo.policy.local.hf_policy import HFPolicy, context_window
from fission_grpo.policy.vllm import VLLMPolicy, first_model
from fission_grpo.types import Completion, FinishReason

MOST_DIALOGUES = 64
"""Most that a process has under way at a server; ours."""
PAUSE = 2.0
"""Seconds between two looks for a server that is not up yet; TRL's."""


class TrainedPolicy(HFPolicy):
    """The model that is trained, in the precision that it is trained in."""

    def __init__(self, model: Any, *, chat: ChatFormat, autocast: Callable[[], AbstractContextManager[None]]) -> None:
        """Sample from a model, wherever it lies.

        Args:
            autocast: of the trainer's accelerator. It wraps the model's own forward, and not that of its decoder: keys
                and values of one sequence would be of two types.
        """
        super().__init__(model, eos_id=chat.eos_id, pad_id=chat.pad_id)
        self._autocast = autocast

    def converse(self, contexts: Sequence[Context], *, reply: Reply, sampling: Sampling, seed: int) -> None:
        with self._autocast():
            super().converse(contexts, reply=reply, sampling=sampling, seed=seed)


class ColocatedVLLM(Policy):
    """TRL's vLLM in the process that trains, in rounds.

    Temperature, top-k and whatever else shapes the distribution are those of the `GRPOConfig`, and so is the limit of
    tokens; a seed cannot be given, so that runs differ.
    """

    def __init__(self, generation: Any, *, eos_id: int, window: int) -> None:
        """Ask TRL's `vllm_generation`.

        Args:
            window: most tokens that its engine holds.
        """
        self._generation = generation
        self._eos_id = eos_id
        self._window = window

    @property
    def context_window(self) -> int:
        return self._window

    def converse(self, contexts: Sequence[Context], *, reply: Reply, sampling: Sampling, seed: int) -> None:
        self._generation.max_completion_length = sampling.max_tokens
        waiting = dict(enumerate(contexts))
        while waiting:
            with boundary(PolicyError, "sampling"):
                _, ids, logprobs, _ = self._generation.generate([list(one) for one in waiting.values()], None, 1)
            for index, said, scores in zip(list(waiting), ids, logprobs, strict=True):
                following = reply(index, self._completion(said, scores))
                if following is None:
                    del waiting[index]
                else:
                    waiting[index] = following

    def _completion(self, ids: Sequence[int], logprobs: Sequence[Sequence[float | None]]) -> Completion:
        """The first log-probability of a place is the sampled token's; None says that vLLM could not tell it."""
        finish = FinishReason.STOP if ids[-1] == self._eos_id else FinishReason.LENGTH
        told = tuple(float("nan") if one[0] is None else float(one[0]) for one in logprobs)
        return Completion(ids=tuple(ids), logprobs=told, finish=finish)


def policy_of(trainer: Any, chat: ChatFormat) -> Policy:
    """The policy that a trainer's `GRPOConfig` asks for.

    Raises:
        ConfigError: it asks for a vLLM that cannot be used like this.
    """
    if not trainer.use_vllm:
        return TrainedPolicy(trainer.model, chat=chat, autocast=trainer.accelerator.autocast)
    if trainer.vllm_mode == "server":
        return served(trainer.args, chat)
    if trainer.vllm_tensor_parallel_size > 1:
        raise ConfigError(
            f"vllm_tensor_parallel_size={trainer.vllm_tensor_parallel_size} makes processes sample in step, and "
            'dialogues end when they end; choose 1, or vllm_mode="server"'
        )
    if trainer.args.vllm_enable_sleep_mode:
        raise ConfigError("vllm_enable_sleep_mode=True would move the weights again for every message; set it to False")
    window = trainer.args.vllm_max_model_length or context_window(trainer.model.config)
    return ColocatedVLLM(trainer.vllm_generation, eos_id=chat.eos_id, window=window)


def require_vllm(args: Any, chat: ChatFormat) -> None:
    """See that TRL can drive the vLLM that a `GRPOConfig` asks for, before a model is loaded.

    Raises:
        ConfigError: vLLM is not installed; weights cannot be sent from here; no server, or a wrong one.
    """
    if not args.use_vllm:
        return
    if not is_vllm_available():
        raise ConfigError(
            "use_vllm=True has TRL drive a vLLM, and none is installed here; pip install 'trl[vllm]', or leave it out: "
            "the model is then sampled from by itself"
        )
    if args.vllm_mode == "server":
        if args.device.type != "cuda":
            raise ConfigError(
                f'vllm_mode="server" has TRL send weights over NCCL, from a CUDA device, and this process has '
                f"{args.device.type}; leave use_vllm out, or give policy= for a server that keeps its weights"
            )
        served(args, chat, patience=args.vllm_server_timeout)


def served(args: Any, chat: ChatFormat, *, patience: float = 0.0) -> VLLMPolicy:
    """The server that TRL pushes weights to; of several models TRL's client means the first.

    Args:
        patience: seconds to wait for a server that is not up yet.
    Raises:
        ConfigError: no server, or a wrong one: see `VLLMPolicy`.
    """
    url = args.vllm_server_base_url or f"http://{args.vllm_server_host}:{args.vllm_server_port}"
    asking = EndpointSettings(url=url, model="", concurrency=MOST_DIALOGUES)
    patient = {"attempts": 1 + ceil(patience / PAUSE), "backoff_seconds": 2 * PAUSE, "longest_wait_seconds": PAUSE}
    name = first_model(asking.model_copy(update=patient))
    return VLLMPolicy(asking.model_copy(update={"model": name}), chat=chat)
