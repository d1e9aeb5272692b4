"""One recipe for each published result: a function that returns the whole tree of settings.

Importing this package costs nothing; a recipe is imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

from fission_grpo.engines import Engine

if TYPE_CHECKING:
    from fission_grpo.config import RunSettings


class Recipe(StrEnum):
    """The recipes by name."""

    NANO = "nano"
    """The laptop run of the quickstart."""
    NANO_HARD = "nano-hard"
    """The same on longer chains, with two things missing at once and tools that look right and are wrong."""
    SMOLLM2 = "smollm2"
    """A real language model, of 135 million parameters, overnight."""
    PAPER = "paper"
    """The authors' setting, on your GPUs and your Qwen3; inside verl for a node of eight GPUs of 80 GB."""
    PAPER_24GB = "paper-24gb"
    """The same inside TRL with vLLM: LoRA on Qwen3-1.7B, one GPU of 24 GB."""
    PAPER_80GB = "paper-80gb"
    """Every weight of Qwen3-1.7B, one GPU of 80 GB."""
    PAPER_8X80GB = "paper-8x80gb"
    """Every weight of Qwen3-8B, eight GPUs of 80 GB."""


OWN_RECIPE: Mapping[str, Recipe] = {"nano": Recipe.NANO, "smollm2": Recipe.SMOLLM2}
"""What a model of ours starts from where nobody says otherwise. A folder may be called as it likes."""


class Exploration(StrEnum):
    """What a recipe is asked for: its sizes may differ between these."""

    EPISODES = "episodes"
    """Whole, or what else the recipe itself explores."""
    DECISIONS = "decisions"
    """Single messages at every place of a dialogue, as in the paper."""
    MIXED = "mixed"
    """The same, and whole turns beside them or behind their errors."""


def load_recipe(
    recipe: Recipe, exploration: Exploration = Exploration.EPISODES, engine: Engine = Engine.OWN
) -> RunSettings:
    """The settings of a recipe for one kind of exploration; that it is explored so is the arm's to say.

    Args:
        engine: that the run was asked to have, for recipes that know how one is set up.
    """
    from fission_grpo.recipes import nano, paper, smollm2  # torch is behind these

    settings: Mapping[Recipe, Callable[[Exploration], RunSettings]] = {
        Recipe.NANO: nano.nano_settings,
        Recipe.NANO_HARD: nano.nano_hard_settings,
        Recipe.SMOLLM2: smollm2.smollm2_settings,
        Recipe.PAPER: lambda _: paper.paper_inside_verl() if engine is Engine.VERL else paper.paper_settings(),
        Recipe.PAPER_24GB: lambda _: paper.one_small_gpu(),
        Recipe.PAPER_80GB: lambda _: paper.one_large_gpu(),
        Recipe.PAPER_8X80GB: lambda _: paper.eight_large_gpus(),
    }
    return settings[recipe](exploration)
