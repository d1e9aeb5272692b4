"""What is relied on in TRL, said once: with a TRL that does it otherwise, a run ends before it begins, in one sentence.

Public and documented: the arguments of `GRPOTrainer` and `GRPOConfig`, and what `rollout_func` returns. The rest is
private to TRL and may change with any release, so that releases are admitted one by one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import trl
from trl import GRPOTrainer

from fission_grpo.errors import ConfigError

VERIFIED = (1, 16)
"""The release that this engine was proved with."""

SIGNATURES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "_generate_and_score_completions": ("inputs",),
        "_calculate_rewards": ("inputs", "prompts", "completions", "completion_ids_list"),
        "_compute_loss": ("model", "inputs"),
        "_save_checkpoint": ("model", "trial"),
        "_load_optimizer_and_scheduler": ("checkpoint",),
    }
)
"""Methods of `GRPOTrainer` that are overridden, and their arguments."""
ARGUMENTS = ("model", "reward_funcs", "args", "train_dataset", "eval_dataset", "processing_class", "rollout_func")
"""Of `GRPOTrainer`."""
ATTRIBUTES = (
    *("num_generations", "num_generations_eval", "reward_func_names", "reward_weights", "loss_type", "temperature"),
    *("_metrics", "_logs", "_pending_extra_logs", "_step", "environment_factories", "tools", "use_vllm"),
)
"""Of a trainer, once it has been made."""
BATCH = (
    *("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages", "num_items_in_batch"),
    "tool_mask",
)
"""What a batch holds that `_generate_and_score_completions` returns; `tool_mask` is `rollout_func`'s `env_mask`."""


def require_release() -> None:
    """Ask for a release that is known.

    Raises:
        ConfigError: another one is installed.
    """
    release = ".".join(map(str, VERIFIED))
    if tuple(map(int, trl.__version__.split(".")[:2])) != VERIFIED:
        raise ConfigError(
            f"TRL {trl.__version__} is installed, and this engine is proved with {release}; "
            f"install it: pip install 'trl=={release}.*'"
        )


def require_signatures() -> None:
    """Ask for the methods that are overridden.

    Raises:
        ConfigError: one is gone, or takes other arguments.
    """
    for name, expected in SIGNATURES.items():
        method: Callable[..., Any] | None = getattr(GRPOTrainer, name, None)
        found = tuple(inspect.signature(method).parameters)[1:] if method else ()
        if found != expected:
            raise _broken(f"GRPOTrainer.{name}{found}", f"arguments {expected}")


def require_arguments() -> None:
    """Ask for the arguments that are passed on.

    Raises:
        ConfigError: one is gone.
    """
    found = inspect.signature(GRPOTrainer.__init__).parameters
    if lacking := [name for name in ARGUMENTS if name not in found]:
        raise _broken(f"GRPOTrainer without {', '.join(lacking)}", f"arguments {ARGUMENTS}")


def require_attributes(trainer: Any) -> None:
    """Ask for what is read and set in a trainer.

    Raises:
        ConfigError: something is gone.
    """
    if lacking := [name for name in ATTRIBUTES if not hasattr(trainer, name)]:
        raise _broken(f"a trainer without {', '.join(lacking)}", f"attributes {ATTRIBUTES}")


def require_batch(batch: Mapping[str, Any], *, rows: int) -> None:
    """Ask whether TRL has made of our rows what is trained on.

    Raises:
        ConfigError: a key or a row is missing.
    """
    if lacking := [key for key in BATCH if key not in batch]:
        raise _broken(f"a batch without {', '.join(lacking)}", f"keys {BATCH}")
    if len(batch["completion_ids"]) != rows:
        raise _broken(f"a batch of {len(batch['completion_ids'])} rows", f"{rows}")


def _broken(got: str, expected: str) -> ConfigError:
    release = ".".join(map(str, VERIFIED))
    return ConfigError(f"TRL {trl.__version__}: got {got}, expected {expected}; install trl=={release}.*")
