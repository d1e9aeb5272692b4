"""The configurations that are shipped, read by accelerate itself, and what the settings make of a `GRPOConfig`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType

from fission_grpo import recipe
from fission_grpo.commands.launch import CONFIGURATIONS, launch_line
from fission_grpo.commands.train_trl import config_values
from fission_grpo.engines import Engine
from fission_grpo.engines.settings import EngineSettings, Sharding, VllmMode
from fission_grpo.errors import ConfigError

ROOT = Path(__file__).parents[3]

SAMPLED_BY_VLLM = {sharding: VllmMode.COLOCATE for sharding in Sharding if sharding.spreads_weights}


@pytest.mark.parametrize(
    ("sharding", "kind", "given"),
    [
        (Sharding.NONE, DistributedType.MULTI_GPU, {}),
        (
            Sharding.FSDP2,
            DistributedType.FSDP,
            {
                "fsdp_version": 2,
                "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "fsdp_reshard_after_forward": True,
                "fsdp_state_dict_type": "FULL_STATE_DICT",
            },
        ),
        (Sharding.ZERO2, DistributedType.DEEPSPEED, {"zero_stage": 2}),
        (Sharding.ZERO3, DistributedType.DEEPSPEED, {"zero_stage": 3, "zero3_save_16bit_model": True}),
    ],
)
def test_accelerate_reads_what_is_shipped(sharding: Sharding, kind: DistributedType, given: dict[str, Any]) -> None:
    config = load_config_from_file(str(ROOT / CONFIGURATIONS[sharding]))
    assert (config.distributed_type, config.num_processes, config.num_machines) == (kind, 8, 1)
    assert config.mixed_precision == "bf16"
    assert given.items() <= {**config.fsdp_config, **config.deepspeed_config}.items()
    parser = launch_command_parser()
    known = {name.lstrip("-") for action in parser._actions for name in action.option_strings}
    assert {*config.fsdp_config, *config.deepspeed_config} <= known


@pytest.mark.parametrize("sharding", Sharding)
@pytest.mark.parametrize("nodes", [1, 2])
def test_accelerate_understands_the_line_that_a_user_is_told(sharding: Sharding, nodes: int) -> None:
    vllm = SAMPLED_BY_VLLM.get(sharding, VllmMode.OFF)
    engine = EngineSettings(name=Engine.TRL, gpus=8, nodes=nodes, sharding=sharding, vllm=vllm)
    line = launch_line(engine).replace("RANK", "0").split()
    assert line[:2] == ["accelerate", "launch"]
    typed = launch_command_parser().parse_args(line[2:])
    assert (ROOT / typed.config_file).is_file()
    assert (typed.num_processes, typed.mixed_precision, typed.module) == (8 * nodes, "no", True)
    assert typed.training_script == "fission_grpo.cli"


def values(**engine: Any) -> dict[str, Any]:
    named = {f"engine.{name}": value for name, value in {"name": "trl", **engine}.items()}
    return config_values(recipe("nano", {"trainer.queries": 4, **named}))


def test_settings_of_the_engine_become_trl_s() -> None:
    assert not {name for name in values() if "vllm" in name}
    colocated = values(vllm="colocate", vllm_share=0.4, vllm_window=1024, autocast=True)
    assert colocated["bf16"] is True
    assert colocated["use_vllm"] is True
    assert colocated["vllm_mode"] == "colocate"
    assert colocated["vllm_gpu_memory_utilization"] == 0.4
    assert colocated["vllm_max_model_length"] == 1024
    served = values(vllm="server", vllm_url="http://localhost:8000")
    assert (served["vllm_mode"], served["vllm_server_base_url"]) == ("server", "http://localhost:8000")


def test_a_micro_batch_may_be_smaller_than_a_group() -> None:
    whole, half = values(), values(micro_batch=4)  # four groups of eight
    assert (whole["per_device_train_batch_size"], whole["gradient_accumulation_steps"]) == (8, 4)
    assert (half["per_device_train_batch_size"], half["gradient_accumulation_steps"]) == (4, 8)
    with pytest.raises(ConfigError, match="micro_batch=5 does not divide the 32 trajectories"):
        values(micro_batch=5)
