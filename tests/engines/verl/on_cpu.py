"""What a run inside verl has to be told on a CPU: settings, and the environment of all its processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

HERE = Path(__file__).parent
RAY = "engine.verl.ray_kwargs.ray_init"
SETTINGS: Mapping[str, Any] = MappingProxyType(
    {
        "engine.verl.trainer.device": "cpu",
        "engine.verl.actor_rollout_ref.rollout.name": "cpu",
        "engine.verl.actor_rollout_ref.rollout.agent.num_workers": 1,
        "engine.verl.actor_rollout_ref.model.use_remove_padding": False,
        "engine.verl.actor_rollout_ref.model.override_config.attn_implementation": "sdpa",
        "engine.verl.actor_rollout_ref.actor.use_torch_compile": False,
        "engine.verl.actor_rollout_ref.actor.fsdp_config.use_torch_compile": False,
        "engine.verl.reward.num_workers": 1,
        "engine.verl.transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
        f"{RAY}.num_cpus": 6,
        f"{RAY}.include_dashboard": False,
    }
)


def settings(gpus: int = 1) -> dict[str, Any]:
    """For so many actor ranks, which Ray takes for GPUs."""
    return {**SETTINGS, "engine.gpus": gpus, f"{RAY}.num_gpus": gpus}


def environment() -> dict[str, str]:
    """Of the command that starts a run, and so of every process of its cluster."""
    return {
        "VERL_PLATFORM": "cpu",
        "VERL_USE_EXTERNAL_MODULES": "cpu_platform,cpu_verl,cpu_tree",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
