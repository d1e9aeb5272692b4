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
    NANO_HARD = "nano-hard"
    """The same on longer chains, with two things missing at once and tools that look right and are wrong."""
    PAPER = "paper"
    """The authors' setting, on your GPUs and your Qwen3."""


def load_recipe(recipe: Recipe, *, decisions: bool = False) -> RunSettings:
    """The settings of a recipe.

    Args:
        decisions: for arms that explore single decisions; `nano` trains longer and normalises otherwise for these.
    """
    from fission_grpo.recipes import nano, paper  # torch is behind these

    settings = {
        Recipe.NANO: nano.nano_settings,
        Recipe.NANO_HARD: nano.nano_hard_settings,
        Recipe.PAPER: paper.paper_settings,
    }
    of_decisions = {
        **settings,
        Recipe.NANO: nano.nano_decision_settings,
        Recipe.NANO_HARD: nano.nano_hard_decision_settings,
    }
    return (of_decisions if decisions else settings)[recipe]()
