"""What of verl the trainer relies on, and what in its configuration would not be what it says: refused at once."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from fission_grpo.errors import ConfigError

PROVED_RELEASE = "0.9.1"
REPLACED: Mapping[type, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        PPOTrainerSync: {
            "_build_replay_buffer": (),
            "_submit_batch_to_rollout": ("batch",),
            "fit": ("agent_loop_manager",),
            "step": ("metrics", "timing_raw"),
            "_step_once": ("metrics", "timing_raw", "sample_batch_size"),
            "_get_required_batch_multiple": ("dp_size",),
            "_update_actor": ("batch", "metrics"),
            "_save_checkpoint": (),
            "_load_checkpoint": (),
            "_balance_batch": ("batch", "metrics", "logging_prefix", "keep_minibatch"),
            "_compute_old_log_prob": ("batch", "metrics"),
            "_compute_ref_log_prob": ("batch", "metrics"),
        },
        FSDPEngineWithLMHead: {
            "forward_backward_batch": ("data", "loss_function", "forward_only"),
            "forward_step": ("micro_batch", "loss_function", "forward_only"),
            "prepare_model_inputs": ("micro_batch",),
            "prepare_model_outputs": ("output", "output_args", "micro_batch", "logits_processor_func"),
            "_gradient_sync_context": ("is_last_micro_batch",),
        },
    }
)
"""Methods of verl's classes in whose place ours put their own, or that they call."""


def require_proved_verl() -> None:
    """See that verl is of a minor release that was tested, and has the methods that are overridden.

    Raises:
        ConfigError: it is not, or has not.
    """
    found = version("verl")
    remedy = f"install verl=={PROVED_RELEASE}"
    if found.split(".")[:2] != PROVED_RELEASE.split(".")[:2]:
        raise ConfigError(f"verl {found} is installed, and this engine is proved with {PROVED_RELEASE}: {remedy}")
    for owner, methods in REPLACED.items():
        for name, expected in methods.items():
            method = getattr(owner, name, None)
            taken = None if method is None else tuple(inspect.signature(method).parameters)[1:]
            if taken != expected:
                raise ConfigError(f"verl {found}: {owner.__name__}.{name} takes {taken}, expected {expected}: {remedy}")


def require_registered(estimator: str, loop: str) -> None:
    """See that verl knows what the plug-in registers: it says nothing of one that could not be imported.

    Raises:
        ConfigError: it does not.
    """
    for kind, name, known in (
        ("advantage estimator", estimator, ADV_ESTIMATOR_REGISTRY),
        ("agent loop", loop, _agent_loop_registry),
    ):
        if name not in known:
            raise ConfigError(
                f"verl has no {kind} {name!r}: the plug-in was not loaded; see what `import fission_grpo.commands."
                "verl_plugin` raises, and leave VERL_USE_EXTERNAL_PLUGINS alone"
            )


def require_sound_config(config: Any, estimator: str) -> None:
    """Refuse keys of verl's configuration that would change what fission means.

    Raises:
        ConfigError: there is one; with its remedy.
    """
    for key, reason in _refusals(config, estimator):
        raise ConfigError(f"verl's {key}: {reason}")


def _refusals(config: Any, estimator: str) -> Iterator[tuple[str, str]]:
    algorithm, rollout = config.algorithm, config.actor_rollout_ref.rollout
    if algorithm.adv_estimator != estimator:
        yield f"algorithm.adv_estimator={algorithm.adv_estimator}", f"groups have our baseline; set it to {estimator}"
    if algorithm.filter_groups.enable:
        yield (
            "algorithm.filter_groups.enable=true",
            "it drops groups in which all fail, and fission needs them; unset it",
        )
    if algorithm.use_kl_in_reward:
        yield "algorithm.use_kl_in_reward=true", "rewards are the judge's alone; set actor.use_kl_loss=true"
    if config.reward.reward_model.enable:
        yield "reward.reward_model.enable=true", "rewards are the judge's alone; unset it"
    if config.distillation.enabled:
        yield "distillation.enabled=true", "it is not part of this update; unset it"
    if not rollout.calculate_log_probs:
        yield "actor_rollout_ref.rollout.calculate_log_probs=false", "trajectories hold them; set it to true"
    if config.trainer.critic_warmup:
        yield f"trainer.critic_warmup={config.trainer.critic_warmup}", "there is no critic; set it to 0"
    if config.trainer.v1.sampler.get("custom_sampler", {}).get("path"):
        yield "trainer.v1.sampler.custom_sampler", "the buffer is ours; leave it out"
