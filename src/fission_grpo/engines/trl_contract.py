"""What of TRL we rely on beyond its documentation: a TRL that has changed it is refused in one sentence, at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

from fission_grpo.errors import ConfigError

TESTED = "1.16.0"
"""The release of TRL that the tests run on."""

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
            raise ConfigError(_refusal(f"{name} takes {', '.join(found)} and not {', '.join(expected)}"))


def require_parameters(function: Callable[..., Any], names: Iterable[str]) -> None:
    """See that a function of TRL can be called with these keywords.

    Args:
        function: also one that shows another's signature (`functools.wraps`): either of the two may have the names.
    Raises:
        ConfigError: it cannot.
    """
    shown = [inspect.signature(function, follow_wrapped=follow).parameters for follow in (True, False)]
    missing = [name for name in names if not any(name in parameters for parameters in shown)]
    if missing:
        raise ConfigError(_refusal(f"{function.__qualname__} takes no {', '.join(missing)}"))


def require_members(owner: Any, names: Iterable[str]) -> None:
    """See that a class or object of TRL has these attributes.

    Raises:
        ConfigError: it has not.
    """
    missing = [name for name in names if not hasattr(owner, name)]
    if missing:
        name = owner.__name__ if isinstance(owner, type) else type(owner).__name__
        raise ConfigError(_refusal(f"{name} has no {', '.join(missing)}"))


def require_batch(batch: Mapping[str, Any], *, rows: int) -> None:
    """See that TRL has made a batch of our rows.

    Raises:
        ConfigError: a key is missing, or a row.
    """
    if missing := [key for key in BATCH if key not in batch]:
        raise ConfigError(_refusal(f"a batch has no {', '.join(missing)}"))
    if (found := len(batch["completion_ids"])) != rows:
        raise ConfigError(_refusal(f"a batch of {rows} rows has {found}"))


def _refusal(what: str) -> str:
    return f"in TRL {version('trl')} {what}, which we rely on: install trl=={TESTED}"
