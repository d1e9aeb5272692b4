"""One recipe for each published result: a function that returns the whole tree of settings.

Importing this package costs nothing; a recipe is imported when it is asked for.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fission_grpo.config import RunSettings


class Recipe(StrEnum):
    """The recipes by name."""

    NANO = "nano"
    """The laptop run of the quickstart."""
    PAPER = "paper"
    """The authors' setting, on your GPUs and your Qwen3."""


def load_recipe(recipe: Recipe) -> RunSettings:
    """The settings of a recipe."""
    from fission_grpo.recipes import nano, paper  # torch is behind these

    return {Recipe.NANO: nano.nano_settings, Recipe.PAPER: paper.paper_settings}[recipe]()
