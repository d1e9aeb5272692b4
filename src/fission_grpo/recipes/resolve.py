"""The settings of one run, from all the places they come from: recipe, file, what was written on top, arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fission_grpo.config import RunSettings, Setting, load_settings, read_yaml, written_names
from fission_grpo.engines import Engine
from fission_grpo.errors import ConfigError
from fission_grpo.recipes import Exploration, Recipe, load_recipe
from fission_grpo.recipes.arms import EXPLORATION, Arm, apply_arm


def recipe(name: str, changes: Mapping[str, Any] | None = None, *, arm: str | None = None) -> RunSettings:
    """The settings of a recipe, changed.

        recipe("nano", {"trainer.steps": 20, "output": "runs/library"})

    Args:
        name: `nano`, `nano-hard` or `paper`.
        changes: dotted names of settings -> values, as on the command line.
        arm: where the rollouts go, for comparisons; see `Arm`.

    Raises:
        ConfigError: no such recipe, arm or setting, or values that cannot be or do not go together.
    """
    named = changes or {}
    if name not in list(Recipe):
        raise ConfigError(f"unknown recipe {name!r}; expected {' or '.join(Recipe)}")
    if arm is not None and arm not in list(Arm):
        raise ConfigError(f"unknown arm {arm!r}; expected one of {', '.join(Arm)}")
    written = [Setting(key=tuple(key.split(".")), value=value, origin="changes") for key, value in named.items()]
    return resolve(recipe=Recipe(name), arm=None if arm is None else Arm(arm), written=written)


def resolve(
    *,
    recipe: Recipe | None,
    base: RunSettings | None = None,
    file: Path | None = None,
    arm: Arm | None = None,
    written: Sequence[Setting] = (),
) -> RunSettings:
    """Recipe, then file, then what was written, then arm; the run folder is named after them unless it has a name.

    Args:
        base: where there is no recipe, settings to start from in place of the defaults.
    Raises:
        ConfigError: the file cannot be read; unknown settings, values that cannot be or do not go together.
    """
    explored = EXPLORATION[arm] if arm else Exploration.EPISODES
    start = load_recipe(recipe, explored, _engine([*(read_yaml(file) if file else ()), *written])) if recipe else base
    settings = load_settings(base=start, file=file, overrides=written)
    if arm is not None:
        settings = apply_arm(arm, settings, written=written_names([*(read_yaml(file) if file else ()), *written]))
    if settings.output is None:
        parts = (file.stem if file else recipe or "run", arm or "train", f"seed{settings.trainer.seed}")
        settings = settings.model_copy(update={"output": f"runs/{'-'.join(parts)}"})
    return settings


def _engine(written: Sequence[Setting]) -> Engine:
    """The one that is written last; one that does not exist is for `load_settings` to refuse."""
    named = [one.value for one in written if one.key in (("engine",), ("engine", "name"))]
    return Engine(named[-1]) if named and named[-1] in list(Engine) else Engine.OWN
