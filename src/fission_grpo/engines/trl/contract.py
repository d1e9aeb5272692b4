"""What of TRL the trainer relies on beyond the tree: a TRL that has changed it is refused in one sentence, at once."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

from fission_grpo.engines.prefix_tree_contract import TESTED, refusal, require_members
from fission_grpo.errors import ConfigError

OVERRIDDEN: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "_generate_and_score_completions": ("inputs",),
        "_calculate_rewards": ("inputs", "prompts", "completions", "completion_ids_list"),
        "_compute_loss": ("model", "inputs"),
        "_save_checkpoint": ("model", "trial"),
        "_load_optimizer_and_scheduler": ("checkpoint",),
    }
)
"""Methods of `GRPOTrainer` in whose place `FissionGRPOTrainer` puts its own."""
TRAINER = (
    *("num_generations", "num_generations_eval", "num_iterations", "loss_type", "environment_factories", "tools"),
    *("reward_funcs", "reward_func_names", "reward_weights", "reward_processing_classes", "use_vllm"),
    *("_metrics", "_logs", "_pending_extra_logs", "_log_metric", "_step", "is_fsdp_enabled"),
)
"""What `FissionGRPOTrainer` reads and sets."""
BATCH = (
    *("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages", "num_items_in_batch"),
    "tool_mask",
)
"""Of the rows that TRL makes of finished trajectories; `tool_mask` is `rollout_func`'s `env_mask`."""


def require_release() -> None:
    """See that TRL is of a minor release that was tested: what is private to it may change with any.

    Raises:
        ConfigError: it is not.
    """
    if version("trl").split(".")[:2] != TESTED.split(".")[:2]:
        raise ConfigError(
            f"TRL {version('trl')} is installed, and this engine is proved with {TESTED}: install trl=={TESTED}"
        )


def require_overridden(trainer: type[Any]) -> None:
    """See that the methods which are overridden are there, and take what ours pass on.

    Raises:
        ConfigError: one is not, or takes something else.
    """
    require_members(trainer, OVERRIDDEN)
    for name, expected in OVERRIDDEN.items():
        found = tuple(inspect.signature(getattr(trainer, name)).parameters)[1:]
        if found != expected:
            raise ConfigError(refusal(f"{name} takes {', '.join(found)} and not {', '.join(expected)}"))


def require_trainer(trainer: Any) -> None:
    """See that a trainer has what ours reads and sets.

    Raises:
        ConfigError: it has not.
    """
    require_members(trainer, TRAINER)


def require_batch(batch: Mapping[str, Any], *, rows: int) -> None:
    """See that TRL has made a batch of our rows.

    Raises:
        ConfigError: a key is missing, or a row.
    """
    if missing := [key for key in BATCH if key not in batch]:
        raise ConfigError(refusal(f"a batch has no {', '.join(missing)}"))
    if (found := len(batch["completion_ids"])) != rows:
        raise ConfigError(refusal(f"a batch of {rows} rows has {found}"))
