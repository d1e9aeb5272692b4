"""The rest of a CPU for verl, behind `cpu_platform`: plain gloo, and a server that samples with transformers.

verl loads both in every process (`VERL_USE_EXTERNAL_MODULES=cpu_platform,cpu_verl`). Nothing here knows fission.
"""

from __future__ import annotations

import os
from typing import Any

import ray
import torch
import verl.utils.distributed
import verl.workers.rollout.base as rollouts
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput

SERVER = "cpu_server"


def _plain_gloo(timeout_second: Any = None, backend: Any = None) -> None:
    """verl would ask for `cpu:gloo,cpu:gloo`, which torch refuses."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group(
            "gloo",
            rank=int(os.environ.get("RANK", 0)),
            world_size=int(os.environ.get("WORLD_SIZE", 1)),
            init_method=os.environ.get("DIST_INIT_METHOD"),
        )


verl.utils.distributed.initialize_global_process_group_ray = _plain_gloo
EngineRegistry.register("language_model", ["fsdp", "fsdp2"], device="cpu")(FSDPEngineWithLMHead)


class CpuAdapter(BaseRollout):
    """Gives the server the weights of the trainer; each process of it gives the same ones."""

    async def resume(self, tags: Any) -> None: ...

    async def release(self) -> None: ...

    async def update_weights(self, weights: Any, **given: Any) -> None:
        named = [(name, weight) async for name, weight in _all(weights)]
        if torch.distributed.get_rank() == 0:
            state = {name: weight.detach().float().cpu().clone() for name, weight in named}
            await ray.get_actor(SERVER).load.remote(state, given.get("global_steps"))


async def _all(weights: Any) -> Any:
    if hasattr(weights, "__aiter__"):
        async for one in weights:
            yield one
    else:
        for one in weights:
            yield one


class CpuServer:
    """Samples token by token, one request at a time."""

    def __init__(self, path: str) -> None:
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        self._model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self._step: int | None = None

    async def load(self, state: dict[str, torch.Tensor], step: int | None) -> None:
        self._model.load_state_dict(state, strict=False)
        self._step = step

    async def generate(
        self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str, **given: Any
    ) -> TokenOutput:
        ids, logprobs = self._sampled(prompt_ids, sampling_params)
        return TokenOutput(
            token_ids=ids, log_probs=logprobs, stop_reason="completed", extra_fields={"global_steps": self._step}
        )

    @torch.no_grad()
    def _sampled(self, prompt_ids: list[int], sampling_params: dict[str, Any]) -> tuple[list[int], list[float]]:
        ids: list[int] = []
        logprobs: list[float] = []
        past = None
        fed = torch.tensor([list(prompt_ids)])
        stops = sampling_params["stop_token_ids"]
        for _ in range(sampling_params["max_tokens"]):
            answer = self._model(fed, past_key_values=past, use_cache=True)
            past = answer.past_key_values
            spread = torch.log_softmax(answer.logits[0, -1] / sampling_params["temperature"], -1)
            ids.append(int(torch.multinomial(spread.exp(), 1)))
            logprobs.append(float(spread[ids[-1]]))
            if ids[-1] in stops:
                break
            fed = torch.tensor([[ids[-1]]])
        return ids, logprobs

    async def nothing(self, *args: Any, **given: Any) -> dict[str, Any]:
        return {}

    ready = wake_up = sleep = clear_kv_cache = release_kv_cache = resume_kv_cache = nothing
    start_profile = stop_profile = abort_all_requests = resume_generation = nothing


class CpuReplica(RolloutReplica):
    """The one server of a run."""

    async def launch_servers(self) -> None:
        path = self.model_config["path"] if isinstance(self.model_config, dict) else self.model_config.path
        options = {"name": SERVER, "max_concurrency": 64, "num_cpus": 0, "get_if_exists": True}
        server = ray.remote(CpuServer).options(**options).remote(path)
        self.servers, self._server_handle, self._server_address = [server], server, "cpu:0"
        await server.ready.remote()


rollouts._ROLLOUT_REGISTRY["cpu", "async"] = "cpu_verl.CpuAdapter"
RolloutReplicaRegistry.register("cpu", lambda: CpuReplica)
