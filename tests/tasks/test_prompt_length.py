"""Tasks whose prompts are too long are left out of a run; dialogues of several turns give points in each."""

from __future__ import annotations

import pytest

from fission_grpo.errors import ConfigError
from fission_grpo.recipes import Recipe, load_recipe
from fission_grpo.tasks.training_set import short_enough, training_set
from fission_grpo.types import Task

TASKS = [Task(id=str(words), messages=({"role": "user", "content": "word " * words},), tools=()) for words in (3, 9, 5)]


def words(task: Task) -> int:
    return len(str(task.messages[0]["content"]).split())


def test_what_is_longer_is_left_out() -> None:
    assert [task.id for task in short_enough(TASKS, 5, length=words)] == ["3", "5"]
    assert short_enough(TASKS, None, length=words) == TASKS
    assert short_enough([], 5, length=words) == []
    with pytest.raises(ConfigError, match="leaves out all 3 tasks: the shortest prompt has 3 tokens"):
        short_enough(TASKS, 2, length=words)


def test_the_paper_s_recipe_has_as_many_points_as_the_paper_some_of_them_in_second_turns() -> None:
    recipe = load_recipe(Recipe.PAPER)
    points = training_set(recipe.data, recipe.synthetic, environments={})
    later = [point for point in points if sum(message["role"] == "user" for message in point.messages) > 1]
    assert len(points) == 630
    assert len(later) == 174
    assert (recipe.rollouts.max_prompt, recipe.trainer.max_rows) == (12800, 8)
