"""What is said of an engine fits the engine, and how a run was launched."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from fission_grpo.commands.launch import launch_line, require_launch
from fission_grpo.config import RunSettings, load_settings, read_overrides
from fission_grpo.engines import Engine
from fission_grpo.engines.settings import EngineSettings, Sharding, VllmMode
from fission_grpo.errors import ConfigError


def read(*written: str) -> EngineSettings:
    return load_settings(overrides=read_overrides(written)).engine


def trl(**values: Any) -> EngineSettings:
    return EngineSettings(name=Engine.TRL, **values)


def test_a_name_is_short_for_the_section() -> None:
    assert read("engine=trl") == trl()
    assert read("engine=trl", "engine.vllm=colocate") == read("engine.vllm=colocate", "engine=trl")
    with pytest.raises(ConfigError, match=r"engine.name \(command line\): got 'tlr', expected 'own', 'trl' or 'verl'"):
        read("engine=tlr")


def test_the_folder_of_a_run_keeps_what_is_not_the_rule() -> None:
    assert "engine" not in RunSettings().saved()
    chosen = RunSettings(engine=trl(gpus=8, vllm=VllmMode.COLOCATE))
    assert chosen.saved()["engine"] == {"name": "trl", "vllm": "colocate", "gpus": 8}
    assert RunSettings.model_validate(yaml.safe_load(yaml.safe_dump(chosen.saved()))) == chosen


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["engine.gpus=8"], "engine.gpus=8 is for TRL's trainer"),
        (["engine.vllm=colocate"], "add --engine trl"),
        (["engine=trl", "engine.vllm=server"], "set engine.vllm_url=http://HOST:PORT"),
        (["engine=trl", "engine.vllm_share=0.5"], "is of engine.vllm=colocate, and engine.vllm is off"),
        (["engine=trl", "engine.sharding=zero2"], "has one device to spread over"),
        (["engine=trl", "engine.gpus=2", "engine.sharding=fsdp2"], "set engine.vllm=colocate or server"),
        (["engine=trl", "engine.gpus=2", "engine.sharding=zero3"], "cannot be sampled from by itself"),
        (["engine=trl", "engine.verl.trainer.logger=[wandb]"], "holds keys of verl's, and the engine is TRL"),
        (["engine.verl.trainer.logger=[wandb]"], "add --engine trl or --engine verl"),
        (["engine=verl", "engine.vllm=server"], "verl samples with a vLLM on the same GPUs"),
        (["engine=verl", "engine.gpus=2", "engine.sharding=zero2"], "spreads everything by FSDP2"),
        (["engine=verl", "engine.micro_batch=2"], "cuts micro-batches by trainer.token_budget"),
    ],
)
def test_what_an_engine_cannot_do_is_refused(written: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(*written)
    assert expected in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_verl_takes_keys_of_its_own_and_a_share_for_its_vllm() -> None:
    engine = read("engine=verl", "engine.verl.trainer.logger=[wandb]", "engine.vllm_share=0.5", "engine.vllm_window=99")
    assert engine.verl == {"trainer": {"logger": ["wandb"]}}
    assert (engine.vllm_share, engine.vllm_window) == (0.5, 99)


FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "ACCELERATE_MIXED_PRECISION": "bf16"}
ZERO3 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
SPREAD = trl(gpus=8, sharding=Sharding.FSDP2, vllm=VllmMode.COLOCATE, autocast=True)


@pytest.mark.parametrize(
    ("engine", "processes", "environment"),
    [
        (trl(), 1, {}),
        (trl(gpus=2, nodes=2), 4, {"ACCELERATE_MIXED_PRECISION": "no"}),
        (SPREAD, 8, FSDP2),
        (trl(gpus=8, sharding=Sharding.ZERO3, vllm=VllmMode.COLOCATE), 8, ZERO3),
    ],
)
def test_a_launch_that_agrees_is_taken(engine: EngineSettings, processes: int, environment: dict[str, str]) -> None:
    require_launch(engine, processes=processes, environment=environment)


@pytest.mark.parametrize(
    ("engine", "processes", "environment", "expected"),
    [
        (trl(), 2, {}, "launched with 2 processes, and engine.gpus=1 x engine.nodes=1 makes 1; start it with: fission"),
        (
            SPREAD,
            1,
            {},
            "accelerate launch --config_file deploy/accelerate/fsdp2.yaml --num_processes 8 -m fission_grpo.cli train",
        ),
        (SPREAD, 8, {}, "launched with sharding none, and engine.sharding is fsdp2"),
        (SPREAD, 8, {**FSDP2, "FSDP_VERSION": "1"}, "launched with sharding fsdp1"),
        (SPREAD, 8, ZERO3, "launched with sharding zero3"),
        (trl(), 1, {"ACCELERATE_MIXED_PRECISION": "bf16"}, "mixed precision bf16, and engine.autocast is false"),
    ],
)
def test_a_launch_that_does_not_agree_is_answered_with_the_right_one(
    engine: EngineSettings, processes: int, environment: dict[str, str], expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        require_launch(engine, processes=processes, environment=environment)
    assert expected in str(caught.value)


def test_several_machines_and_single_precision_are_said_in_the_line() -> None:
    line = launch_line(trl(gpus=8, nodes=2))
    assert "ddp.yaml --num_processes 16 --num_machines 2 --machine_rank RANK --main_process_ip HOST" in line
    assert "--mixed_precision no -m fission_grpo.cli train" in line
    assert launch_line(trl(autocast=True)) == "fission train ..."
