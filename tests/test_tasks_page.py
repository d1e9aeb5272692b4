"""docs/tasks.md can be taken at its word: its examples are tasks, and its table has every key."""

from __future__ import annotations

import json
import re
from pathlib import Path

from fission_grpo import ToolError
from fission_grpo.environments.functions.imported import environments_of
from fission_grpo.tasks.inspection import KEYS
from fission_grpo.tasks.jsonl import tasks_from

PAGE = (Path(__file__).parent.parent / "docs" / "tasks.md").read_text(encoding="utf-8")


class Desk:
    """The world of the page."""

    def reset(self, tickets: list[int], goal: list[int]) -> None:
        self.tickets, self.goal = set(tickets), set(goal)

    def close_ticket(self, ticket_id: int) -> str:
        """Close a ticket.

        Args:
            ticket_id: number of the ticket
        """
        if ticket_id not in self.tickets:
            raise ToolError(f"there is no open ticket {ticket_id}")
        self.tickets.remove(ticket_id)
        return "closed"

    def score(self) -> float:
        return float(self.tickets == self.goal)


def test_every_example_is_a_sound_task() -> None:
    examples = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
    own, gold, followed, point = tasks_from(examples, environments=environments_of({"desk": Desk}))
    assert [len(task.gold) for task in (own, gold, followed, point)] == [0, 1, 2, 0]
    assert len({task.id for task in (own, gold, followed, point)}) == 4


def test_the_table_has_every_key() -> None:
    table = PAGE[PAGE.index("| key | value |") :].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(rows) == sorted(KEYS)
