"""Fission-GRPO: reinforcement learning that teaches small tool-calling models to recover from tool errors.

    from fission_grpo import ToolError, evaluate, recipe, train

    run = train(recipe("nano", {"trainer.steps": 20}), tasks=tasks, environments={"library": Library})
    print(evaluate(run, tasks=held_out))

`examples/own_tools.py` is the whole of it. A name is imported when it is first used: torch is behind some of them, and
`import fission_grpo` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fission_grpo.commands.own_tasks import Evaluated, evaluate
    from fission_grpo.commands.train import train
    from fission_grpo.commands.trained_run import TrainedRun
    from fission_grpo.config import RunSettings
    from fission_grpo.environments.check import check_environment
    from fission_grpo.errors import ConfigError, FissionError, ToolError
    from fission_grpo.recipes.resolve import recipe
    from fission_grpo.types import Task, ToolCall, Verdict, World

    __version__: str

__all__ = [
    "ConfigError",
    "Evaluated",
    "FissionError",
    "RunSettings",
    "Task",
    "ToolCall",
    "ToolError",
    "TrainedRun",
    "Verdict",
    "World",
    "__version__",
    "check_environment",
    "evaluate",
    "recipe",
    "train",
]

_HOME = {
    "ConfigError": "errors",
    "Evaluated": "commands.own_tasks",
    "FissionError": "errors",
    "RunSettings": "config",
    "Task": "types",
    "ToolCall": "types",
    "ToolError": "errors",
    "TrainedRun": "commands.trained_run",
    "Verdict": "types",
    "World": "types",
    "check_environment": "environments.check",
    "evaluate": "commands.own_tasks",
    "recipe": "recipes.resolve",
    "train": "commands.train",
}
"""Where each name lives."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("fission-grpo")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
