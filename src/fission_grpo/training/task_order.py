"""Which tasks a step explores: seeded permutations of all tasks, one after the other, without gaps.

How many they are is a setting, or follows from what the run may sample (`TrainerSettings.sampled_tokens`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import ceil

from fission_grpo.seeds import in_turn
from fission_grpo.training.settings import TrainerSettings
from fission_grpo.types import Task


@dataclass(slots=True)
class Explored:
    """What this process has explored since the run began."""

    tasks: int = 0
    """Those of `TrainerSettings.queries`."""
    turns: int = 0
    """Those of `TrainerSettings.turn_queries`."""
    tokens: int = 0
    """Sampled for them, recoveries included."""


def whole_turns(tasks: Sequence[Task]) -> list[Task]:
    """Tasks whose turn can be explored as a whole: it is about to begin, in a world that can judge how it ends."""
    return [task for task in tasks if task.world is not None and task.messages[-1]["role"] == "user"]


class TaskOrder:
    """Deals the tasks to the steps of a run, to each process its own."""

    def __init__(self, tasks: Sequence[Task], settings: TrainerSettings, *, rank: int = 0, ranks: int = 1) -> None:
        self.tasks = tasks
        self.requests = whole_turns(tasks)
        self.explored = Explored()
        self._settings = settings
        self._rank = rank
        self._ranks = ranks

    def batches(self) -> Iterator[list[Task]]:
        """Every task once, as many at a time as a step explores; dealt as they are asked for, by most runs never."""
        queries = self._settings.queries
        for number in range(ceil(len(self.tasks) / queries / self._ranks)):
            yield self._deal(self.tasks, number * queries, queries)

    def tasks_of(self, step: int) -> tuple[list[Task], int]:
        """What to explore next, and how many of these, the last ones, to the end of the turn.

        Args:
            step: steps made so far.
        """
        turns = self._settings.turn_queries
        single = self._deal(self.tasks, self.explored.tasks, self._queries(step))
        whole = self._deal(self.requests, self.explored.turns, turns, purpose="turns")
        return [*single, *whole], turns

    def note(self, *, tasks: int, turns: int, tokens: int) -> None:
        """A step is over.

        Args:
            tasks: explored in it, whole turns included.
            turns: of these to the end of the turn.
            tokens: sampled in it.
        """
        explored = self.explored
        self.explored = Explored(explored.tasks + tasks - turns, explored.turns + turns, explored.tokens + tokens)

    def state_dict(self) -> dict[str, int]:
        """Where the run stands."""
        return asdict(self.explored)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go back to where `state_dict` stood."""
        self.explored = Explored(**state)

    def _queries(self, step: int) -> int:
        """As many as the setting says; under a token budget, what is left of it shared out among the steps left."""
        budget, explored = self._settings.sampled_tokens, self.explored
        if not budget or not explored.tokens:
            return self._settings.queries
        per_task = explored.tokens / (explored.tasks + explored.turns)
        left = (budget - explored.tokens) / (self._settings.steps - step)
        return max(1, round(left / per_task) - self._settings.turn_queries)

    def _deal(self, tasks: Sequence[Task], first: int, count: int, *, purpose: str = "order") -> list[Task]:
        """This process's next `count` tasks, of which it has had `first`."""
        places = ((first + index) * self._ranks + self._rank for index in range(count))
        return [tasks[in_turn(place, len(tasks), seed=self._settings.seed, purpose=purpose)] for place in places]
