"""Our settings as verl's configuration, and what the plug-in refuses."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
import verl
from omegaconf import OmegaConf, open_dict
from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
from verl.trainer.ppo.core_algos import get_adv_estimator_fn
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.utils.torch_dtypes import PrecisionType

from fission_grpo import recipe
from fission_grpo.assembly import lay_groundwork
from fission_grpo.commands.train_verl import EXTERNAL, PLUGIN, make_verl_plan, verl_config
from fission_grpo.commands.verl_config import verl_values
from fission_grpo.commands.verl_plugin import RunTasks, _given, ground_from, player_from, settings_from, settings_json
from fission_grpo.config import RunSettings
from fission_grpo.engines.player import DialoguePlayer
from fission_grpo.engines.verl import contract
from fission_grpo.engines.verl.advantages import ESTIMATOR, row_advantages
from fission_grpo.errors import ConfigError
from fission_grpo.models.catalog import load_tokenizer

SMALL = {"engine.name": "verl", "synthetic.count": 12, "trainer.queries": 4, "engine.vllm_window": 1536}


def settings(**changes: Any) -> RunSettings:
    return recipe("nano", {**SMALL, **{name.replace("__", "."): value for name, value in changes.items()}})


def values(**changes: Any) -> dict[str, Any]:
    return verl_values(settings(**changes), prompt=100, window=1536, resume=False)


@pytest.fixture(scope="module")
def config() -> Any:
    return verl_config(lay_groundwork(settings(engine__verl={"trainer": {"logger": ["wandb"]}})), resume=True)


def test_the_plug_in_is_registered_with_verl() -> None:
    assert verl.__version__ == contract.PROVED_RELEASE
    assert get_trainer_cls("fission").__name__ == "RunTrainer"
    assert get_adv_estimator_fn(ESTIMATOR) is row_advantages
    assert _agent_loop_registry["fission"]["_target_"] == f"{PLUGIN}.RunLoop"
    contract.require_proved_verl()
    contract.require_registered(ESTIMATOR, "fission")
    with pytest.raises(ConfigError, match="the plug-in was not loaded"):
        contract.require_registered(ESTIMATOR, "another")


def test_verl_s_configuration_says_what_ours_does(config: Any) -> None:
    assert config.trainer.v1.trainer_mode == "fission"
    assert config.actor_rollout_ref.rollout.name == "vllm"
    assert config.trainer.resume_mode == "auto"
    assert config.trainer.logger == ["wandb"]  # `engine.verl` has the last word
    assert PLUGIN in config.ray_kwargs.ray_init.runtime_env.env_vars[EXTERNAL].split(",")
    known = OmegaConf.to_container(config, resolve=True)
    for name, value in values(engine__verl={}).items():
        if name not in ("trainer.logger", "trainer.resume_mode", "data.max_prompt_length", "data.max_response_length"):
            assert OmegaConf.select(OmegaConf.create(known), name) == value, name


def test_settings_travel_as_text_that_nothing_is_replaced_in(config: Any) -> None:
    odd = settings(output="runs/${trainer.steps}/a'b")
    assert settings_from(settings_json(odd)) == odd
    with open_dict(config):
        config.data.fission = settings_json(odd)
    assert settings_from(config.data.fission) == odd


def test_a_step_is_of_the_run_and_not_of_each_gpu() -> None:
    one, many = values(), values(engine__gpus=8, engine__nodes=2)
    assert (one["data.train_batch_size"], many["data.train_batch_size"]) == (4, 4)
    assert (many["trainer.n_gpus_per_node"], many["trainer.nnodes"]) == (8, 2)


@pytest.mark.parametrize(("autocast", "computed"), [(True, torch.bfloat16), (False, torch.float32)])
def test_passes_are_computed_in_what_the_settings_say(autocast: bool, computed: torch.dtype) -> None:
    """verl's FSDP engine takes it from `mixed_precision` alone."""
    found = values(engine__autocast=autocast)
    for model in ("actor", "ref"):
        named = found[f"actor_rollout_ref.{model}.fsdp_config.mixed_precision"]
        assert PrecisionType.to_dtype(named["param_dtype"]) is computed
        assert PrecisionType.to_dtype(named["reduce_dtype"]) is torch.float32
    assert PrecisionType.to_dtype(found["actor_rollout_ref.rollout.dtype"]) is computed


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"trainer__objective": "dapo"}, "leaves groups without signal out of the mean"),
        ({"trainer__sampled_tokens": 5}, "trainer.sampled_tokens=5 is a control of our own loop"),
        ({"fission__pool": 5, "fission__contexts": 1}, "fission.pool=5 is a control of our own loop"),
        ({"lora__rank": 4}, "have not been tried inside verl"),
        ({"engine__gpus": 64}, "cannot be spread evenly over 64 GPUs"),
    ],
)
def test_what_has_no_counterpart_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        values(**changes)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("algorithm.adv_estimator", "grpo", "set it to fission_grpo"),
        ("algorithm.filter_groups.enable", True, "fission needs"),
        ("algorithm.use_kl_in_reward", True, "rewards are the judge's alone"),
        ("actor_rollout_ref.rollout.calculate_log_probs", False, "set it to true"),
        ("trainer.critic_warmup", 2, "there is no critic"),
        ("trainer.v1.sampler.custom_sampler.path", "x.py", "the buffer is ours"),
    ],
)
def test_a_configuration_that_would_not_be_exact_is_refused(config: Any, key: str, value: Any, expected: str) -> None:
    contract.require_sound_config(config, ESTIMATOR)
    changed = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    OmegaConf.update(changed, key, value)
    with pytest.raises(ConfigError, match=expected):
        contract.require_sound_config(changed, ESTIMATOR)


def test_whoever_keeps_their_own_line_names_a_file_of_settings(config: Any, tmp_path: Path) -> None:
    """`data.fission` is a path; model, size of a step and folder are verl's."""
    file = tmp_path / "fission.yaml"
    file.write_text("fission: {contexts: 2, group_size: 5}\nsynthetic: {count: 6}\n", encoding="utf-8")
    theirs = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    theirs.data.fission = str(file)
    theirs.trainer.default_local_dir = str(tmp_path / "checkpoints")
    theirs.actor_rollout_ref.rollout.n = 7
    found = settings_from(_given(theirs))
    assert (found.fission.contexts, found.fission.group_size, found.trainer.group_size) == (2, 5, 7)
    assert found.model == theirs.actor_rollout_ref.model.path
    assert found.folder.is_relative_to(tmp_path / "checkpoints")
    theirs.data.fission = None
    with pytest.raises(ConfigError, match=r"data\.fission"):
        _given(theirs)


def test_the_tasks_of_a_run_are_verl_s_rows(config: Any) -> None:
    ground = lay_groundwork(settings())
    data = OmegaConf.create({"fission": settings_json(settings())})
    rows = RunTasks(None, None, None, data)
    assert len(rows) == len(ground.tasks) == 12
    assert len(RunTasks(None, None, None, data, max_samples=3)) == 3
    player = DialoguePlayer(
        chat=ground.chat,
        environments=ground.environments,
        judge=ground.judge,
        horizon=settings().trainer.horizon,
        recovery_horizon=settings().fission.horizon,
        rollouts=settings().rollouts,
        window=1536,
    )
    context = player.begin(rows[5]["fission_start"]).dialogue.context
    assert context == ground.chat.prompt(ground.tasks[5].messages, ground.tasks[5].tools)


def test_the_plan_counts_a_step_and_says_verl_s_keys() -> None:
    plan = make_verl_plan(settings(trainer__steps=7, fission__contexts=2, fission__group_size=3))
    assert (plan.tasks, plan.updates) == (12, 7)
    assert plan.rows == 4 * settings().trainer.group_size + 2 * 3
    lines = "\n".join(plan.lines())
    assert "actor_rollout_ref.actor.strategy: fsdp2" in lines
    assert "total" in lines


@pytest.mark.parametrize("shape", ["qwen3-1.7b", "qwen3-4b", "qwen3-8b"])
def test_the_recipe_of_the_paper_is_what_verl_takes_and_fits(
    shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the public configurations alone, with nano's tokenizer; prompts are shorter than the authors'."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    shapes = importlib.import_module("shapes").SHAPES
    folder = tmp_path / shape
    shapes[shape].config().save_pretrained(folder)
    load_tokenizer("nano").save_pretrained(folder)
    plan = make_verl_plan(recipe("paper", {"engine.name": "verl", "model": str(folder)}))
    assert (plan.tasks, plan.updates, plan.rows) == (630, 2 * 234, 64 + 64)
    assert plan.device.fits
    expected = {
        "data.train_batch_size": 8,
        "actor_rollout_ref.rollout.n": 8,
        "actor_rollout_ref.rollout.temperature": 0.95,
        "actor_rollout_ref.rollout.top_k": 50,
        "actor_rollout_ref.rollout.max_model_len": 16384,
        "actor_rollout_ref.rollout.dtype": "bfloat16",
        "actor_rollout_ref.actor.optim.lr": 1e-6,
        "actor_rollout_ref.actor.use_kl_loss": False,
        "trainer.n_gpus_per_node": 8,
        "trainer.total_training_steps": 234,
    }
    assert {name: plan.verl[name] for name in expected} == expected


def test_functions_that_compare_siblings_are_refused_from_the_command_and_from_a_line_of_verl_s_own() -> None:
    """The driver says so before a worker plays: there, nobody would ask them, and nobody would know."""
    compared = settings(reward__functions=["math:sin"])
    with pytest.raises(ConfigError, match=r"reward\.functions compare siblings"):
        verl_config(lay_groundwork(compared), resume=False)
    with pytest.raises(ConfigError, match=r"reward\.functions compare siblings"):
        ground_from(settings_json(compared))
    with pytest.raises(ConfigError, match=r"reward\.functions compare siblings"):
        player_from(settings_json(compared), 1536)
