"""The settings of a run as verl's configuration: the one place that knows verl's names for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from fission_grpo.algorithm.advantages import Scale
from fission_grpo.algorithm.losses import OBJECTIVES, Aggregation
from fission_grpo.config import RunSettings
from fission_grpo.errors import ConfigError
from fission_grpo.models.catalog import Precision, find_model
from fission_grpo.run.folder import KEPT_CHECKPOINTS, RunFolder

AGGREGATIONS: Mapping[Aggregation, str] = MappingProxyType(
    {
        Aggregation.TOKEN_MEAN: "token-mean",
        Aggregation.TRAJECTORY_MEAN: "seq-mean-token-mean",
        Aggregation.CONSTANT: "seq-mean-token-sum-norm",
    }
)
NO_DUAL_CLIP = 1e6
"""verl also bounds the loss of bad trajectories at this ratio; our objectives do not."""


def verl_values(settings: RunSettings, *, prompt: int, window: int, resume: bool) -> dict[str, Any]:
    """Dotted keys of verl's, as far as they are not verl's own defaults; `engine.verl` is not among them.

    Args:
        prompt: tokens of the longest prompt.
        window: most tokens of a dialogue.
        resume: go on from the newest checkpoint, if there is one.
    Raises:
        ConfigError: a setting has no counterpart.
    """
    for reason in _without_counterpart(settings):
        raise ConfigError(f"{reason}; or choose engine.name=own")
    trainer, rollouts, engine = settings.trainer, settings.rollouts, settings.engine
    objective = OBJECTIVES[trainer.objective]
    longest = rollouts.max_tokens * rollouts.max_turns
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    # Of passes; weights are kept in single precision. Without this verl computes in bfloat16, whatever `dtype` says.
    computed = {"param_dtype": "bf16" if engine.autocast else "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    return {
        "trainer.v1.trainer_mode": "fission",
        "algorithm.adv_estimator": "fission_grpo",
        "algorithm.norm_adv_by_std_in_grpo": objective.scale is Scale.STD,
        "critic.enable": False,
        "data.train_batch_size": trainer.queries,
        "data.max_prompt_length": prompt,
        "data.max_response_length": window - prompt,
        "data.seed": trainer.seed,
        "data.dataloader_num_workers": 0,
        "actor_rollout_ref.model.path": str(find_model(settings.model).folder.resolve()),
        "actor_rollout_ref.model.enable_gradient_checkpointing": trainer.gradient_checkpointing,
        f"{actor}.strategy": "fsdp2",
        f"{actor}.fsdp_config.mixed_precision": computed,
        "actor_rollout_ref.ref.fsdp_config.mixed_precision": computed,
        f"{actor}.ppo_mini_batch_size": trainer.queries,
        f"{actor}.use_dynamic_bsz": True,
        f"{actor}.ppo_max_token_len_per_gpu": max(trainer.token_budget, window),
        f"{actor}.clip_ratio": objective.clip_low,
        f"{actor}.clip_ratio_low": objective.clip_low,
        f"{actor}.clip_ratio_high": objective.clip_high,
        f"{actor}.clip_ratio_c": NO_DUAL_CLIP,
        f"{actor}.loss_agg_mode": AGGREGATIONS[objective.aggregation],
        f"{actor}.loss_scale_factor": longest if objective.aggregation is Aggregation.CONSTANT else None,
        f"{actor}.use_kl_loss": trainer.beta > 0,
        f"{actor}.kl_loss_coef": trainer.beta,
        f"{actor}.kl_loss_type": "mse",
        f"{actor}.grad_clip": trainer.max_grad_norm,
        f"{actor}.optim.lr": trainer.learning_rate,
        f"{actor}.optim.weight_decay": trainer.weight_decay,
        f"{actor}.optim.betas": [0.9, 0.95],
        f"{actor}.optim.lr_scheduler_type": "constant",
        f"{actor}.checkpoint.save_contents": ["model", "optimizer", "extra", "hf_model"],
        f"{rollout}.name": "vllm",
        f"{rollout}.n": trainer.group_size,
        f"{rollout}.temperature": trainer.temperature,
        f"{rollout}.top_k": trainer.top_k or -1,
        f"{rollout}.dtype": "bfloat16" if engine.autocast else "float32",
        f"{rollout}.max_model_len": window,
        f"{rollout}.tensor_model_parallel_size": 1,
        f"{rollout}.gpu_memory_utilization": engine.vllm_share,
        f"{rollout}.calculate_log_probs": True,
        "trainer.n_gpus_per_node": engine.gpus,
        "trainer.nnodes": engine.nodes,
        "trainer.total_training_steps": trainer.steps,
        "trainer.total_epochs": trainer.steps,
        "trainer.save_freq": trainer.checkpoint_every,
        "trainer.test_freq": -1,
        "trainer.val_before_train": False,
        "trainer.logger": ["console", *map(str, settings.trackers)],
        "trainer.project_name": "fission",
        "trainer.experiment_name": settings.folder.name,
        "trainer.default_local_dir": str(RunFolder(settings.folder).checkpoints.resolve()),
        "trainer.max_actor_ckpt_to_keep": KEPT_CHECKPOINTS,
        "trainer.resume_mode": "auto" if resume else "disable",
    }


def _without_counterpart(settings: RunSettings) -> Iterator[str]:
    trainer, source = settings.trainer, find_model(settings.model)
    if OBJECTIVES[trainer.objective].drop_zero_variance:
        yield f"trainer.objective={trainer.objective} leaves groups without signal out of the mean, and verl does not"
    for name in ("turn_queries", "sampled_tokens"):
        if value := getattr(trainer, name):
            yield f"trainer.{name}={value} is a control of our own loop; set it to 0"
    if settings.fission.pool:
        yield f"fission.pool={settings.fission.pool} is a control of our own loop; set it to 0"
    if settings.lora or settings.precision is not Precision.FP32:
        yield "adapters and weights in bf16 have not been tried inside verl; leave out lora and precision"
    if not (source.folder / "config.json").exists():
        yield f"verl loads the model from a folder of whole weights, and {settings.model} is none; merge it"
    if trainer.queries * trainer.group_size % settings.engine.devices:
        yield (
            f"trainer.queries={trainer.queries} x trainer.group_size={trainer.group_size} trajectories cannot be "
            f"spread evenly over {settings.engine.devices} GPUs; choose a multiple"
        )
